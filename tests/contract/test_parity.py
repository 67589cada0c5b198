"""The embedded engine's conn.log against Zeek's, on captures of every set of the shared data."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from shared_data import FOLDER, members

pytestmark = pytest.mark.slow

MATCHED = 0.995  # share of Zeek's connections that we have too
EQUAL = 0.99  # share of these that have the same value in each field
TRACKED = (
    "duration", "orig_bytes", "resp_bytes", "conn_state", "missed_bytes", "history", "orig_pkts", "orig_ip_bytes",
    "resp_pkts", "resp_ip_bytes", "community_id",
)  # fmt: skip
SAMPLE = 60  # captures of each archive


def report_module() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("parity_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def golden_logs(names: set[str]) -> dict[str, list[dict[str, object]]]:
    """Zeek's conn.log of the captures of these names; none where Zeek saw no connection."""
    logs: dict[str, list[dict[str, object]]] = defaultdict(list)
    with tarfile.open(FOLDER / "golden.tar.xz") as tar:
        for member in tar:
            name = member.name.removeprefix("golden/").removesuffix("/conn.log")
            if member.name.endswith("/conn.log") and name in names:
                file = tar.extractfile(member)
                assert file is not None
                logs[name] = [json.loads(line) for line in file.read().splitlines() if line]
    return logs


@pytest.mark.data
@pytest.mark.parametrize("archive", ["benign", "attacks", "mixed", "variety"])
def test_connections_agree_with_zeeks(archive: str, tmp_path: Path) -> None:
    parity = report_module()
    captures = {}
    for name, content in members(f"{archive}.tar.xz", lambda name: "captures/" in name, SAMPLE):
        path = tmp_path / str(len(captures))
        path.write_bytes(content)
        captures[name.partition("captures/")[2]] = path
    golden = golden_logs(set(captures))
    tally = parity.Tally()
    for name, path in captures.items():
        try:
            own = list(parity.ours(path, content=False))
        except parity.CaptureError:
            own = []
        parity.compare(name, golden.get(name, []), own, tally)
    assert tally.golden > 100
    assert tally.matched >= MATCHED * tally.golden, tally.examples["unmatched"]
    assert tally.extra <= (1 - MATCHED) * tally.golden + 1, tally.examples["extra"]
    for field in TRACKED:
        assert tally.equal[field] >= EQUAL * tally.compared[field], (field, tally.examples[field][:5])
