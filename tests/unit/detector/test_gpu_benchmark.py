"""The benchmark of a GPU runs in small on a processor, where bfloat16 agrees with our kernels within the bounds."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import BOUNDS, measured
from cmdana_plugin.detector.engines.resident import COMPONENTS


@pytest.mark.slow
def test_all_that_would_run_on_a_gpu_runs_in_small_and_agrees() -> None:
    found = measured(torch.device("cpu"), connections=300, size=100, seconds=0.2)
    apart = found["nats from our kernels"]
    assert isinstance(apart, dict)
    assert found["within the bounds"] is True
    assert 0 < apart["median"] <= BOUNDS["median"]
    assert len(COMPONENTS) == 5
    first, last = found["loss, first and last step"]  # type: ignore[misc]
    assert last < first
