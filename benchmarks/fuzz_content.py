"""Coverage-guided fuzzing of the protocol analyzers: bytes chosen by what they reach, not at random.

    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=fuzz-cache python benchmarks/fuzz_content.py CORPUS [libFuzzer options]

Needs atheris, which is no part of the project's environment (`pip install atheris` beside numpy and numba). An input
is a port, then segments of one connection: a byte of flags (who speaks, a hole before it, cut short), two bytes of
length, the payload. Whatever comes, the analyzers must end, raise nothing, stay within their bounds, and say the
same when every segment comes in a block of its own. The corpus kept in tests/traces/fuzz is read by a test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "traces")]
import feature_extractors.analyzers.dns_columns  # noqa: E402, F401  # compiled, so it cannot be instrumented

with atheris.instrument_imports(include=["feature_extractors.analyzers", "feature_extractors.content"]):
    import fuzzed


def one(data: bytes) -> None:
    """Reads one input; what it raises is a fault."""
    fuzzed.check(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
