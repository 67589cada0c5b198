"""The laboratory's test of itself: it must pass where only chance is left, and fail where a class has a mark."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lab import check
from benchmarks.lab.scenario import LabError

pytestmark = pytest.mark.slow

HOSTS = 20
PER_HOST = 40  # connections, every fourth an attack
DEMO = Path(__file__).parents[2] / "traces" / "demo"


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


@pytest.mark.parametrize("feature", ["orig_ttl", "resp_window", "orig_mss", "handshake_delay", "orig_port"])
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


def test_the_demonstration_is_read_with_its_labels() -> None:
    found = check.load(DEMO)
    with (DEMO / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["proto"] != "icmp"]
    assert len(found.malicious) == len(rows)
    assert found.malicious.sum() == sum(r["label"] == "malicious" for r in rows)
    assert found.features.shape == (len(rows), len(check.FEATURES))
    assert set(found.features[:, 0]) <= {63.0, 64.0}
    assert "ssh/tcp inside, answered" in found.service


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
