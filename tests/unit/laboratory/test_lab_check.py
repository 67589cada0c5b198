"""The laboratory's test of itself: it must pass where only chance is left, and fail where a class has a mark."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from lab_frames import capture, frame

from benchmarks.lab import check, truth
from benchmarks.lab.scenario import LabError

pytestmark = pytest.mark.slow

HOSTS = 20
PER_HOST = 40  # connections, every fourth an attack
BUSY_MINUTES = Path(__file__).parents[2] / "traces" / "busy-minutes"


def recording(name: str, marks: dict[str, float] | None = None, seed: int = 0) -> check.Recording:
    """Both classes on the same hosts, features by chance; `marks`: what is added to one in attacks."""
    dice = np.random.default_rng(seed)
    count = HOSTS * PER_HOST
    malicious = np.arange(count) % 4 == 0
    features = dice.normal(size=(count, len(check.FEATURES)))
    for feature, more in (marks or {}).items():
        features[malicious, check.FEATURES.index(feature)] += more
    hosts = [f"10.0.0.{number // PER_HOST}" for number in range(count)]
    return check.Recording(name, features, malicious, ["ssl inside, answered"] * count, hosts)


def test_where_only_chance_is_left_the_laboratory_passes() -> None:
    assert check.judge([recording("a")]).fine
    assert check.judge([recording("a"), recording("b", seed=1)]).fine


@pytest.mark.parametrize("feature", ["orig_ttl", "resp_window", "orig_mss", "handshake_delay"])
def test_a_mark_of_one_class_fails_it(feature: str) -> None:
    found = check.judge([recording("a", {feature: 2.0})])
    assert not found.fine
    assert found.mean > 0.8
    assert "can be told apart" in str(found)


@pytest.mark.parametrize("feature", ["orig_addr3", "resp_mac5", "second_of_recording"])
def test_addresses_and_hours_are_asked_across_recordings_only(feature: str) -> None:
    marked = {feature: 2.0}
    assert check.judge([recording("a", marked)]).fine
    assert not check.judge([recording("a", marked), recording("b", marked, seed=1)]).fine


def test_a_mark_of_one_service_among_many_fails_it_as_well() -> None:
    plain, marked = recording("a"), recording("a", {"orig_ttl": 3.0}, seed=1)
    many = [plain, *(recording("a", seed=number) for number in range(2, 7))]
    joined = check.Recording(
        "a",
        np.concatenate([one.features for one in (marked, *many)]),
        np.concatenate([one.malicious for one in (marked, *many)]),
        [f"service {number}" for number, one in enumerate((marked, *many)) for _ in one.service],
        [host for one in (marked, *many) for host in one.host],
    )
    found = check.judge([joined])
    assert found.areas["service 0"] > 0.8
    assert found.mean < check.LIMIT
    assert not found.fine


def test_a_recording_of_one_class_cannot_be_judged() -> None:
    one = recording("calm")
    calm = check.Recording("calm", one.features, np.zeros_like(one.malicious), one.service, one.host)
    with pytest.raises(LabError, match="calm: expected ordinary and malicious"):
        check.judge([calm])


def test_a_recording_is_read_with_its_labels() -> None:
    found = check.load(BUSY_MINUTES)
    with (BUSY_MINUTES / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["proto"] != "icmp"]
    assert len(found.malicious) == len(rows)
    assert found.malicious.sum() == sum(r["label"] == "malicious" for r in rows)
    assert found.features.shape == (len(rows), len(check.FEATURES))
    assert set(found.features[:, 0]) <= {63.0, 64.0}
    assert "ssh/tcp inside, answered" in found.service


def made(folder: Path, ttl: int = 64, servers: tuple[str, str] = ("10.0.0.2", "10.0.0.2")) -> check.Recording:
    """A recording in which both classes come from the same hosts; `ttl`: the attackers', `servers`: whom each asks."""
    folder.mkdir()
    frames, rows, dice = [], [",".join(truth.COLUMNS)], random.Random(folder.name)
    for number in range(400):
        bad, host, port, ts = dice.random() < 0.3, dice.randrange(20), 40_000 + number, 1_000.0 + number
        ends = (f"10.0.0.{10 + host}", port, servers[bad], 22)
        frames += [
            (ts, with_ttl(frame("tcp", *ends, 2), ttl if bad else 64)),
            (ts + 0.001, frame("tcp", *ends[2:], *ends[:2], 18)),
        ]
        label = "malicious,ssh-bruteforce" if bad else "benign,"
        rows.append(f"capture,,{ts:.6f},tcp,{','.join(map(str, ends))},{label},strict,made here")
    capture(folder / "capture.pcap", *frames)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return check.load(folder)


def test_a_laboratory_whose_attackers_have_a_ttl_of_their_own_is_found_out(tmp_path: Path) -> None:
    assert check.judge([made(tmp_path / "alike")]).fine
    found = check.judge([made(tmp_path / "marked", ttl=61)])
    assert not found.fine
    assert found.areas["ssh/tcp inside, answered"] > 0.95


def test_that_intruders_go_to_new_sites_is_behaviour_and_to_other_hosts_inside_a_shortcut(
    tmp_path: Path,
) -> None:
    for servers, fine in ((("198.18.1.1", "198.18.1.9"), True), (("10.0.0.2", "10.0.0.3"), False)):
        days = [made(tmp_path / f"{servers[0]}-{day}", servers=servers) for day in range(2)]
        assert check.judge(days).fine == fine


def with_ttl(whole: bytes, ttl: int) -> bytes:
    return whole[:22] + bytes([ttl]) + whole[23:]


def test_labels_without_their_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "capture.pcap").touch()
    (tmp_path / "labels.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(LabError, match=r"labels\.csv: no column family"):
        check.load(tmp_path)


def test_days_that_differ_in_themselves_do_not_tell_the_classes_apart() -> None:
    days = []
    for number in range(4):  # every other day has few attacks, and all of its delays are long
        one = recording(str(number), seed=number)
        one.features[:, check.FEATURES.index("handshake_delay")] += 9.0 * (number % 2)
        kept = np.arange(len(one.malicious)) % (16 if number % 2 else 4) == 0
        days.append(check.Recording(one.name, one.features, one.malicious & kept, one.service, one.host))
    assert check.judge(days).fine
