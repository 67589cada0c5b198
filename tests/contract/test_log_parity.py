"""The logs that we write and `service` against Zeek's, on captures of every archive of the shared data."""

from __future__ import annotations

import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest
from shared_data import FOLDER, members

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SERVICE = 0.99  # share of connections with Zeek's service
EQUAL = 0.97  # share of equal values in all fields of a log
FOUND = 0.95  # share of Zeek's rows that we have too, and the first
FREE = 3  # rows and values besides: small logs differ in one odd capture
LOGS = (
    "dns", "http", "ssl", "files", "x509", "ssh", "smb_files", "smb_mapping", "kerberos", "ntlm", "ntp", "snmp",
    "modbus", "dnp3", "radius", "syslog",
)  # fmt: skip
SAMPLE = 80  # captures of each archive


def extract_golden(names: dict[str, Path], folder: Path) -> None:
    """Writes Zeek's logs of these captures to the folders named like the captures."""
    wanted = {f"{log}.log" for log in (*LOGS, "conn")}
    with tarfile.open(FOLDER / "golden.tar.xz") as tar:
        for member in tar:
            capture, _, log = member.name.removeprefix("golden/").rpartition("/")
            if capture in names and log in wanted:
                file = tar.extractfile(member)
                assert file is not None
                target = folder / names[capture].name
                target.mkdir(parents=True, exist_ok=True)
                (target / log).write_bytes(file.read())


@pytest.mark.data
@pytest.mark.parametrize("archive", ["benign", "attacks", "mixed", "variety"])
def test_entries_and_services_agree_with_zeeks(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import log_parity
    import parity

    captures: dict[str, Path] = {}
    for name, content in members(f"{archive}.tar.xz", lambda name: "captures/" in name, SAMPLE):
        path = tmp_path / str(len(captures))
        path.write_bytes(content)
        captures[name.partition("captures/")[2]] = path
    golden = tmp_path / "golden"
    extract_golden(captures, golden)

    tallies: dict[str, log_parity.Tally] = defaultdict(log_parity.Tally)
    connections = parity.Tally()
    for path in captures.values():
        folder = golden / path.name
        if not (folder / "conn.log").is_file():
            continue
        log_parity.compare(path, folder, LOGS, tallies)
        parity.compare(
            path.name, parity.golden_log(folder), list(parity.ours(path, content=True)), connections
        )

    assert connections.compared["service"] > 10
    assert connections.equal["service"] >= SERVICE * connections.compared["service"], connections.examples[
        "service"
    ]
    assert sum(t.golden for t in tallies.values()) > 10
    for log, tally in tallies.items():
        if log == "joins":
            continue
        assert tally.matched >= FOUND * tally.golden - FREE, (log, tally.examples["missing"][:5])
        equal, compared = sum(tally.equal.values()), sum(tally.compared.values())
        assert equal >= EQUAL * compared - FREE, (log, dict(tally.examples))
    assert not tallies["joins"].extra, tallies["joins"].examples
    for module in ("log_parity", "parity"):
        sys.modules.pop(module, None)
