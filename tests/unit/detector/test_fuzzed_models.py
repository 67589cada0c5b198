"""Model files mutated at random, as `benchmarks/fuzz_models.py` does by the million: refused in a line, or scored."""

import random
from collections import Counter
from pathlib import Path

import pytest
from small_model import small_checkpoint

from benchmarks.fuzz_models import Judge, Mutator
from cmdana_plugin.detector import checkpoint as checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("models") / "small.safetensors"
    checkpoints.save(small_checkpoint(), path)
    return path.read_bytes()


def test_a_mutated_model_is_refused_in_one_line_or_gives_scores(small: bytes) -> None:
    mutator, judge = Mutator(small), Judge(small)
    assert judge.judge(small) == "scored"
    found = Counter(
        judge.judge_mutant(mutator.make(random.Random(f"test {k}")), whole_way=True) for k in range(300)
    )
    assert found["refused"] > 100
    assert found["scored"] > 10
