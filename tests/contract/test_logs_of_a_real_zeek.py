"""The busy minutes' logs as a real Zeek and as we write them: the same headers, and the same rows but for ids."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from cmdana_plugin.config import Config, Logs
from cmdana_plugin.replay.conversion import convert

BUSY_MINUTES = Path(__file__).parents[1] / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
OWN = {"uid", "uids", "fuid", "fuids", "orig_fuids", "resp_fuids"}  # ids are each one's own
SITE = {"local_orig"}  # Zeek takes addresses for documentation for local ones
NOT_OURS = {"packet_filter", "weird", "conn", "reporter"}


def read(path: Path) -> tuple[list[str], Counter[tuple[tuple[str, str], ...]]]:
    """The lines that name fields and types, and the rows without ids."""
    heads, rows, names = [], Counter[tuple[tuple[str, str], ...]](), list[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(("#fields", "#types")):
            heads.append(line)
            names = names or line.split("\t")[1:]
        elif not line.startswith("#"):
            cells = zip(names, line.split("\t"), strict=True)
            rows[tuple((name, cell) for name, cell in cells if name not in OWN | SITE)] += 1
    return heads, rows


@pytest.mark.zeek
@pytest.mark.skipif(shutil.which("zeek") is None, reason="needs zeek on the PATH")
def test_our_logs_are_zeeks(tmp_path: Path) -> None:
    capture, theirs, ours = tmp_path / "busy-minutes.pcap", tmp_path / "zeek", tmp_path / "ours"
    capture.write_bytes(gzip.decompress(BUSY_MINUTES.read_bytes()))
    theirs.mkdir()
    ours.mkdir()
    subprocess.run(["zeek", "-C", "-r", str(capture)], cwd=theirs, check=True, capture_output=True)
    convert([capture], ours, Config(logs=Logs(format="tsv", streams="all")))
    logs = {path.stem for path in theirs.glob("*.log")} - NOT_OURS
    assert len(logs) > 12
    assert logs == {path.stem for path in ours.glob("*.log")} - NOT_OURS
    for log in logs:
        heads, expected = read(theirs / f"{log}.log")
        own_heads, found = read(ours / f"{log}.log")
        assert own_heads == heads
        assert (expected & found).total() >= 0.99 * expected.total(), (
            log,
            expected - found,
            found - expected,
        )
        assert found.total() == expected.total()
