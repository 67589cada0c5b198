"""Coverage-guided fuzzing of the decoders and the tracker: frames chosen by the lines they reach, not at random.

    NUMBA_DISABLE_JIT=1 python benchmarks/fuzz_frames.py CORPUS [libFuzzer options]

Needs atheris, which is no part of the project's environment (`pip install atheris` beside numpy and numba). What is
compiled as a rule runs as Python here, so that its lines are seen and every index is checked; tests/traces/
fuzzed_frames.py says what an input is and what must hold. CORPUS begins with tests/traces/fuzzed_frames.txt, one input
in hexadecimal digits a line, which a test reads too, compiled and interpreted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "traces")]
DECODERS = [
    f"feature_extractors.{name}" for name in ("decode", "fragments", "link", "table", "tcp", "tracker")
]

with atheris.instrument_imports(include=DECODERS):
    import fuzzed_frames


def one(data: bytes) -> None:
    """Reads one input; what it raises is a fault."""
    fuzzed_frames.check(data)


def unpack(folder: Path) -> None:
    """Writes the inputs that the repository keeps to the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, line in enumerate((ROOT / "tests" / "traces" / "fuzzed_frames.txt").read_text().split()):
        (folder / f"kept-{i}").write_bytes(bytes.fromhex(line))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("CORPUS: found nothing, expected a folder")
    unpack(Path(sys.argv[1]))
    fuzzed_frames.interpret()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
