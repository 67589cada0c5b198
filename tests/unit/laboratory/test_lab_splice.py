"""Weeks are unrolled from recorded days: the same by seed, every row with its truth, attacks at their own pace."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.lab import splice as lab
from benchmarks.lab.scenario import LabError
from benchmarks.lab.spliced import DAY, Source, occasions, read_source, renamed
from cmdana_plugin.evaluation.whole_days.plan import read_days
from cmdana_plugin.logs import APPLICATION, CONN, read_labels
from feature_extractors import CONN_STATES
from feature_extractors.readers import ZeekLogs

MIDNIGHT = 1_772_409_600.0  # Monday 2 March 2026
DESKS = [f"10.20.0.{n}" for n in (11, 12, 13)]
DNS, WEB, ADMIN, SENSOR, NEWS = "10.20.0.2", "10.20.0.3", "10.20.0.9", "10.20.0.20", "198.51.100.7"
FIELDS = [name for name, _ in CONN.fields]
QUESTION = [name for name, _ in APPLICATION["dns"].fields]
LABELS = (
    "capture",
    "uid",
    "ts",
    "proto",
    "orig_h",
    "orig_p",
    "resp_h",
    "resp_p",
    "label",
    "family",
    "strength",
    "reason",
)


def story(attacks: bool) -> dict[str, Any]:
    hosts = [
        ("dns", DNS, ["resolver"]), ("web", WEB, ["web"]), ("admin", ADMIN, []), ("sensor", SENSOR, []),
        *((f"desk{n + 1}", a, []) for n, a in enumerate(DESKS)), ("host1", NEWS, ["web"]),
    ]  # fmt: skip
    return {
        "site": 7,
        "hosts": [
            {"name": n, "address": a, "inside": n != "host1", "services": some} for n, a, some in hosts
        ],
        "actors": [{"host": "desk2", "family": "scan-slow"}] if attacks else [],
        "scenario": {
            "name": "tiny", "network": "10.20.0.0/26",
            "inside": [
                {"name": "dns", "role": None}, {"name": "web", "role": "server"}, {"name": "sensor", "role": "device"},
                {"name": "admin", "role": "administrator"}, {"name": "desk", "role": "clerk"},
            ],
        },
    }  # fmt: skip


def recording(folder: Path, attacks: bool, seed: int) -> tuple[Path, Path]:
    """A day from eight to six: every desk asks for a name and reads a page each ten minutes; a slow scan at noon."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[float, str, int, str, int, str, str, str]] = []
    for hour in range(8, 18):
        for ten in range(6):
            for k, desk in enumerate(DESKS):
                at = hour * 3600.0 + ten * 600.0 + k * 20.0 + rng.uniform(0, 5)
                rows.append((at, desk, 40000 + len(rows), DNS, 53, "udp", "benign", ""))
                rows.append(
                    (at + 0.01, DNS, 30000 + len(rows), NEWS, 53, "udp", "benign", "")
                )  # asked on its behalf
                rows.append((at + 0.1, desk, 40000 + len(rows), NEWS, 443, "tcp", "benign", ""))
                rows.append((at + 1.0, desk, 40000 + len(rows), WEB, 80, "tcp", "benign", ""))
            rows.append(
                (hour * 3600.0 + ten * 600.0 + 300.0, SENSOR, 20000 + ten, WEB, 80, "tcp", "benign", "")
            )
    if attacks:
        rows += [
            (43200.0 + 90.0 * n, DESKS[1], 50000 + n, WEB, 20 + n, "tcp", "malicious", "scan-slow")
            for n in range(12)
        ]
    rows.sort()
    place, logs = folder / "recording", folder / "logs"
    place.mkdir(parents=True)
    logs.mkdir()
    (place / "story.json").write_text(json.dumps(story(attacks)))
    with (logs / "conn.log").open("w") as conn, (logs / "dns.log").open("w") as dns:
        conn.write("#separator \\x09\n#path\tconn\n#fields\t" + "\t".join(FIELDS) + "\n")
        dns.write("#path\tdns\n#fields\t" + "\t".join(QUESTION) + "\n")
        for n, (at, orig, op, resp, rp, proto, _, _) in enumerate(rows):
            head = f"{MIDNIGHT + at:.6f}\tC{n}x\t{orig}\t{op}\t{resp}\t{rp}"
            number = {"tcp": 6, "udp": 17}[proto]
            conn.write(
                f"{head}\t{proto}\t-\t0.500000\t100\t900\tSF\tT\tT\t0\tShADadFf\t5\t360\t6\t1200\t-\t{number}\t1:abc=\n"
            )
            if rp == 53:
                said = {"query": "www.firm.example", "answers": WEB}
                dns.write("\t".join([head, *(said.get(name, "-") for name in QUESTION[6:])]) + "\n")
    with (place / "labels.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(LABELS)
        for at, orig, op, resp, rp, proto, label, family in rows:
            out.writerow(
                [
                    "",
                    "",
                    f"{MIDNIGHT + at:.6f}",
                    proto,
                    orig,
                    op,
                    resp,
                    rp,
                    label,
                    family,
                    "strict",
                    "made up",
                ]
            )
    return place, logs


@pytest.fixture
def days(tmp_path: Path) -> list[Source]:
    return [
        read_source(*recording(tmp_path / "calm", attacks=False, seed=1)),
        read_source(*recording(tmp_path / "bad", attacks=True, seed=2)),
    ]


@pytest.fixture
def woven(tmp_path: Path, days: list[Source], monkeypatch: pytest.MonkeyPatch) -> Path:
    found = {"calm": days[0], "bad": days[1]}

    def logged(folder: Path, out: Path) -> Source:
        (out / lab._RECORDED).mkdir(exist_ok=True)
        return found[folder.name]

    monkeypatch.setattr(lab, "_logged", logged)
    made = lab.splice([Path("calm"), Path("bad")], tmp_path / "one", days=10, seed=3, connections=8000)
    lab.splice([Path("calm"), Path("bad")], tmp_path / "again", days=10, seed=3, connections=8000)
    lab.splice([Path("calm"), Path("bad")], tmp_path / "other", days=10, seed=4, connections=8000)
    assert made.connections > 7000
    assert made.attacks
    return tmp_path


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    lines = (folder / name).read_text().splitlines()
    fields = next(line for line in lines if line.startswith("#fields")).split("\t")[1:]
    return [dict(zip(fields, line.split("\t"), strict=True)) for line in lines if not line.startswith("#")]


def test_a_recorded_day_knows_whose_each_connection_is(days: list[Source]) -> None:
    lives = days[0].lives()
    assert {a: len(rows) for a, rows in lives.items()} == {**dict.fromkeys(DESKS, 240), SENSOR: 60}
    assert len(occasions(days[0].ts, lives[DESKS[0]])) == 60
    assert [(a.family, a.host, len(a.rows)) for a in days[1].attacks()] == [("scan-slow", DESKS[1], 12)]
    assert days[1].attacks()[0].lasts == pytest.approx(90.0 * 11 + 0.5)
    assert not days[0].attacks()


def test_the_seed_makes_the_weeks(woven: Path) -> None:
    for name in ("day01/conn.log", "day08/labels.csv", "day10/story.json", "plan.csv"):
        assert (woven / "one" / name).read_bytes() == (woven / "again" / name).read_bytes()
    assert (woven / "one" / "day01" / "conn.log").read_bytes() != (
        woven / "other" / "day01" / "conn.log"
    ).read_bytes()


def test_every_connection_has_its_truth_and_a_name_of_its_own(woven: Path) -> None:
    seen: set[str] = set()
    for folder in sorted((woven / "one").glob("day*")):
        truth = read_labels(folder / "labels.csv")
        rows = rows_of(folder, "conn.log")
        uids = {r["uid"] for r in rows}
        assert len(uids) == len(rows)
        assert not uids & seen
        seen |= uids
        for r in rows:
            ends = (r["id.orig_h"], int(r["id.orig_p"])), (r["id.resp_h"], int(r["id.resp_p"]))
            assert truth.find(r["proto"], *ends, float(r["ts"]), r["uid"]) is not None
        if (folder / "dns.log").exists():  # nobody asks at a weekend
            assert {r["uid"] for r in rows_of(folder, "dns.log")} <= uids


def test_logs_are_read_as_zeeks(woven: Path) -> None:
    folder = woven / "one" / "day01"
    blocks = list(ZeekLogs([folder]))
    assert sum(len(b) for b in blocks) == len(rows_of(folder, "conn.log"))
    assert {CONN_STATES[s] for b in blocks for s in b.connections.conn_state.tolist()} == {"SF"}
    assert any(e.fields.get("query") == "www.firm.example" for b in blocks for e in b.logs)


def test_attacks_come_after_the_calm_days_and_keep_their_pace(woven: Path) -> None:
    attacked = []
    for folder in sorted((woven / "one").glob("day*")):
        with (folder / "labels.csv").open() as file:
            bad = [r for r in csv.DictReader(file) if r["label"] == "malicious"]
        told = json.loads((folder / "story.json").read_text())
        assert bool(bad) == bool(told["actors"])
        if bad:
            attacked.append(int(folder.name[3:]))
            address = {h["name"]: h["address"] for h in told["hosts"]}
            assert {r["orig_h"] for r in bad} <= {address[a["host"]] for a in told["actors"]}
            for host in {r["orig_h"] for r in bad}:
                times = np.sort([float(r["ts"]) for r in bad if r["orig_h"] == host])
                if len(times) == 12:  # a host that got the attack once
                    assert np.allclose(np.diff(times), 90.0, atol=1e-3)
    assert attacked
    assert min(attacked) > 5
    assert len(attacked) < 5


def test_what_a_fortnight_brings_is_told_and_happens(woven: Path) -> None:
    told = [json.loads((f / "story.json").read_text()) for f in sorted((woven / "one").glob("day*"))]
    kinds = [e["kind"] for t in told for e in t["events"]]
    assert sorted(set(kinds)) == ["month-end", "roll-out", "server-moved"]
    for folder, t in zip(sorted((woven / "one").glob("day*")), told, strict=True):
        with (folder / "labels.csv").open() as file:
            assert {r["event"] for r in csv.DictReader(file)} - {""} == {e["kind"] for e in t["events"]}
    web = [next(h["address"] for h in t["hosts"] if h["name"] == "web") for t in told]
    assert web[0] == WEB
    assert web[-1] != WEB
    last = {r["id.resp_h"] for r in rows_of(woven / "one" / "day10", "conn.log")}
    assert web[-1] in last
    assert WEB not in last
    assert {r["answers"] for r in rows_of(woven / "one" / "day10", "dns.log")} == {web[-1]}
    weekend = [len(rows_of(woven / "one" / f"day{n:02d}", "conn.log")) for n in (6, 7)]
    assert max(weekend) < 0.5 * len(rows_of(woven / "one" / "day01", "conn.log"))


def test_the_plan_learns_from_calm_days_only(woven: Path) -> None:
    plan = read_days(woven / "one" / "plan.csv")
    assert [p.part for p in plan[:5]] == ["train", "train", "train", "calibrate", "calibrate"]
    assert {p.part for p in plan[5:]} == {"later", "test"}


def test_addresses_and_files_are_renamed_where_they_stand_whole() -> None:
    text = "10.20.0.1\t10.20.0.11\thttp://10.20.0.1/x\tFabcdefghijklmnop1,Fabc"
    assert renamed(text, {"10.20.0.1": "10.20.0.40"}, "zz9") == (
        "10.20.0.40\t10.20.0.11\thttp://10.20.0.40/x\tFzz9defghijklmnop1,Fabc"
    )


def test_what_cannot_be_spliced_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--days: found 1"):
        lab.splice([tmp_path], tmp_path / "out", days=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "there").touch()
    with pytest.raises(LabError, match="not empty"):
        lab.splice([tmp_path], tmp_path / "out")
    with pytest.raises(LabError, match="found 0 captures"):
        lab.splice([tmp_path], tmp_path / "new")
    assert DAY == 86400.0
