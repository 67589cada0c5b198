"""Coverage-guided fuzzing of the protocol analyzers: bytes chosen by what they reach, not at random.

    NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=fuzz-cache python benchmarks/fuzz_content.py CORPUS [libFuzzer options]

Needs atheris, which is no part of the project's environment (`pip install atheris` beside numpy and numba). An input
is a port, then segments of one connection: a byte of flags (who speaks, a hole before it, cut short), two bytes of
length, the payload. Whatever comes, the analyzers must end, raise nothing, stay within their bounds, and say the
same when every segment comes in a block of its own. CORPUS begins with the inputs of tests/traces/fuzzed.txt, one in
hexadecimal digits a line, which a test reads too: the fewest small ones that reach all that a run had reached.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

ROOT = Path(__file__).resolve().parents[1]
os.environ["CMDANA_INTERPRETED"] = "1"  # what is compiled cannot be instrumented
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "traces")]
import feature_extractors.content.analyzers.dns_columns  # noqa: E402, F401  # compiled, so it cannot be instrumented

with atheris.instrument_imports(
    include=["feature_extractors.analyzers", "feature_extractors.content.reassembly"]
):
    import fuzzed


def one(data: bytes) -> None:
    """Reads one input; what it raises is a fault."""
    fuzzed.check(data)


def unpack(folder: Path) -> None:
    """Writes the inputs that the repository keeps to the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate((ROOT / "tests" / "traces" / "fuzzed.txt").read_text().split()):
        (folder / f"kept-{i}").write_bytes(bytes.fromhex(line))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("CORPUS: found nothing, expected a folder")
    unpack(Path(sys.argv[1]))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
