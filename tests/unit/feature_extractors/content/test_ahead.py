"""Analyzers that installation compiled: they say what their sources say, and stand back where those were edited."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import feature_extractors
from feature_extractors.compiled import mypyc_build as ahead

ROOT = Path(__file__).resolve().parents[4]
PACKAGE = Path(feature_extractors.__file__).parent
SAY = """
import hashlib, sys
from pathlib import Path
import fuzzed
import feature_extractors.content.reassembly as content
from feature_extractors.extract import Extractor
from feature_extractors.readers.native import NativeReader
traces = Path(sys.argv[1])
print(Path(content.__file__).suffix)
for line in (traces / "fuzzed.txt").read_text().split():
    pieces = fuzzed.pieces(bytes.fromhex(line))
    print(repr(fuzzed.said([pieces], pieces)))
extractor = Extractor()
windows = [extractor.receive(block) for block in NativeReader(traces / "busy-minutes" / "busy-minutes.pcap.gz")]
for w in [*windows, extractor.finish()]:
    print(w.connections.service, w.logs)
print(sorted(extractor.counts.by_reason.items()))
"""


def said(package: Path, code: str = SAY, **environment: str) -> list[str]:
    traces = ROOT / "tests" / "traces"
    paths = os.pathsep.join(map(str, (package.parent, traces)))
    clean = {k: v for k, v in os.environ.items() if k != "CMDANA_INTERPRETED"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(traces)], env=clean | {"PYTHONPATH": paths} | environment,
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.mark.skipif(not ahead.built(), reason="the analyzers were not compiled: see `cmdana doctor`")
def test_compiled_analyzers_say_what_their_sources_say() -> None:
    suffix, *compiled = said(PACKAGE)
    assert suffix == ".so"
    plain, *interpreted = said(PACKAGE, CMDANA_INTERPRETED="1")
    assert plain == ".py"
    assert len(compiled) > 200
    assert compiled == interpreted


def test_a_source_is_run_where_what_was_compiled_is_of_another(tmp_path: Path) -> None:
    there = tmp_path / "feature_extractors"
    shutil.copytree(
        PACKAGE, there, ignore=shutil.ignore_patterns("__pycache__", *(f"*{s}" for s in EXTENSION_SUFFIXES))
    )
    (there / "content" / f"reassembly{EXTENSION_SUFFIXES[0]}").write_bytes(b"stale")
    told = (
        "from feature_extractors.content import reassembly; print(reassembly.__file__, mypyc_build.built())"
    )
    imports = "from feature_extractors.compiled import mypyc_build; "
    assert said(there, imports + told) == [f"{there / 'content' / 'reassembly.py'} False"]
    before = ahead.library()
    with (there / "content" / "analyzers" / "dns.py").open("a") as file:
        file.write("# edited\n")
    (after,) = said(there, imports + "print(mypyc_build.library())")
    assert after != before
