"""What the fuzzer kept of frames: no fault, compiled as interpreted, and both say the same."""

import os
import subprocess
import sys
from pathlib import Path

import fuzzed_frames
import pytest

pytestmark = pytest.mark.slow

TRACES = Path(fuzzed_frames.__file__).parent
KEPT = (TRACES / "fuzzed_frames.txt").read_text()


def test_every_kept_input_harms_nothing_and_comes_to_the_same_in_python() -> None:
    compiled = [fuzzed_frames.check(bytes.fromhex(line)) for line in KEPT.split()]
    assert len(compiled) >= 100
    assert len(set(compiled)) > 50  # they do reach different things
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(TRACES.parents[1])}
    interpreted = subprocess.run(
        [sys.executable, str(TRACES / "fuzzed_frames.py")],
        input=KEPT, env=environment, capture_output=True, text=True, check=True, timeout=280,
    )  # fmt: skip
    assert interpreted.stdout.split("\n")[:-1] == compiled
