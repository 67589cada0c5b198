"""An archive of many equal days: each is read as the first one is, and no more is known after many than after a few."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small_model import small_checkpoint

from benchmarks.hunt import make
from cmdana_plugin.cli.archive import _judge
from cmdana_plugin.cli.judging import load_detector_of
from cmdana_plugin.config import Config, Model
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.replay import Wanted, hunt
from feature_extractors.readers import ZeekLogs

HOSTS, EACH = 12, 8


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of one day: hosts that ask for a name and then get a file, all day."""
    folder = tmp_path_factory.mktemp("day")
    conn, dns, files = [], [], []
    for k in range(HOSTS * EACH):
        uid, ts = f"C{k:03d}abcdefghijklmn", 1.7e9 + k * 600.0
        where = {"uid": uid, "id.orig_h": f"10.0.0.{k % HOSTS + 1}", "id.resp_h": f"192.0.2.{k % 5 + 1}"}
        where |= {"id.orig_p": 40_000 + k, "id.resp_p": 80}
        about = {"proto": "tcp", "service": "http", "duration": 1.0, "orig_bytes": 99, "resp_bytes": 999}
        about |= {"conn_state": "SF", "history": "ShADadFf", "orig_pkts": 5, "resp_pkts": 5}
        conn.append({"ts": ts, **where, **about})
        dns.append({"ts": ts + 0.1, **where, "query": f"a{k % 7}.example"})
        files.append({"ts": ts + 0.2, **where, "fuid": f"F{k:03d}abcdefghijklm", "mime_type": "text/html"})
    for name, rows in (("conn", conn), ("dns", dns), ("files", files)):
        (folder / f"{name}.log").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_each_day_is_read_as_the_first(day: Path, tmp_path: Path) -> None:
    days = 70  # of which the number has two digits
    assert make(day, tmp_path / "archive", days * HOSTS * EACH) == days * HOSTS * EACH
    logs = ZeekLogs([tmp_path / "archive"])
    entries: Counter[int] = Counter()
    uids, shares = set(), []
    for windows in logs:
        uids |= set(windows.connections.uid.tolist())
        entries.update((windows.log_start[1:] - windows.log_start[:-1]).tolist())
        shares.append(logs.begun(float(windows.connections.end[-1])))
    assert entries == {2: days * HOSTS * EACH}
    assert (len(uids), logs.counts.by_reason) == (days * HOSTS * EACH, {})
    assert shares == sorted(shares)
    assert (round(shares[0], 3), shares[-1]) == (round(1 / days, 3), 1.0)


def known_after(days: int, day: Path, folder: Path) -> dict[str, int]:
    """How many rows each table of the judge's has."""
    path, archive, out = folder / "small.safetensors", folder / f"of-{days}", folder / f"out-{days}"
    if not path.exists():
        checkpoints.save(small_checkpoint(), path)
    make(day, archive, days * HOSTS * EACH)
    out.mkdir()
    config = Config(model=Model(path=str(path), threads=1))
    done, state = hunt(
        Wanted([str(archive)]),
        out,
        config,
        lambda turn: load_detector_of(config, None, own=turn.own, threads=1),
        judge_of=lambda brought: _judge(config, brought),
    )
    assert done.summary.connections == days * HOSTS * EACH
    return {name: len(array) for name, array in state.arrays.items() if name.endswith((".keys", ".at"))}


def test_no_more_is_known_after_many_equal_days_than_after_a_few(day: Path, tmp_path: Path) -> None:
    few, many = (known_after(days, day, tmp_path) for days in (4, 16))
    assert few["detector.hosts.at"] > 0
    assert few == many
