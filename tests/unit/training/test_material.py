"""What training material is told to hold, and who in it is told to be no normal."""

from dataclasses import replace

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.training.material import Normal, Suspects
from cmdana_plugin.training.recording import Recording, gather
from cmdana_plugin.training.sources import Learned, _excluded, networks
from feature_extractors.addresses import address_texts
from feature_extractors.errors import CmdanaError
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import Windows


def everything(windows: Windows) -> np.ndarray:
    return np.ones(len(windows), np.bool_)


def test_normal_is_told_by_service_in_80_columns() -> None:
    windows = office(3000)
    normal = Normal()
    for part in (windows, windows):
        normal.receive(part.connections, everything(part))
    lines = normal.table()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:4]] == ["dns", "http", "ssl"]
    dns = next(row for row in normal.object() if row["service"] == "dns")
    assert (dns["connections"], dns["originators"], dns["responders"], dns["failed"]) == (2000, 12, 1, 0)
    low, middle, high = dns["bytes_from_originator"]  # type: ignore[misc]
    assert 20 < low <= middle <= high < 60


def test_values_that_are_unset_are_not_told() -> None:
    windows = office(90, scan=30)
    normal = Normal()
    scan = windows.connections.orig_h[:, 15] == 66
    normal.receive(windows.connections, scan)
    (row,) = normal.object()
    assert (row["service"], row["failed"], row["seconds"]) == ("tcp", 30, [None, None, None])
    assert normal.table()[1].split() == ["tcp", "30", "1", "30", "-", "-", "-"]


def test_a_host_that_scans_is_named_and_an_ordinary_one_is_not() -> None:
    suspects = Suspects()
    windows = office(3000, scan=400)
    suspects.receive(windows, everything(windows))
    (warning,) = suspects.words()
    assert warning.startswith(
        "10.0.1.66 got no answer from 400 hosts and ports, as one that scans; --exclude 10.0.1.66"
    )
    quiet = Suspects()
    quiet.receive(windows, windows.connections.orig_h[:, 15] != 66)
    assert quiet.words() == []


def test_a_host_that_asks_for_many_long_names_is_named() -> None:
    windows = office(900)
    logs = [
        e._replace(fields={**e.fields, "query": f"{i:064x}.evil.example"}) if e.stream == "dns" else e
        for i, e in enumerate(windows.logs)
    ]
    one = windows.connections.orig_h.copy()
    one[:] = one[0]
    windows = replace(windows, logs=logs, connections=replace(windows.connections, orig_h=one))
    suspects = Suspects()
    suspects.receive(windows, everything(windows))
    (warning,) = suspects.words()
    assert "asked for 300 different long names under evil.example, as through a tunnel" in warning


def test_hosts_that_the_model_before_found_odd_are_named_if_it_was_no_single_time() -> None:
    suspects = Suspects()
    suspects.odd.update({"10.0.0.66": 40, "10.0.0.7": 1})
    (warning,) = suspects.words()
    assert "by originator: 10.0.0.66 40; look at them" in warning
    assert "10.0.0.7" not in warning


def test_excluded_hosts_teach_nothing_on_either_side() -> None:
    windows = office(300, scan=20)
    label = _excluded(Recording("x", windows), networks(["10.0.1.66", "10.0.0.0/31"])).label
    assert label is not None
    assert (label == -1).sum() == 20
    desk = _excluded(Recording("x", windows), networks(["10.0.1.9"])).label
    assert desk is not None
    c = windows.connections
    either = (address_texts(c.orig_h), address_texts(c.resp_h))
    assert [x == -1 for x in desk] == ["10.0.1.9" in pair for pair in zip(*either, strict=True)]
    assert (desk == -1).any()
    with pytest.raises(CmdanaError, match=r"--exclude: 'printer' .*expected an address or a network"):
        networks(["printer"])


def test_thin_material_is_warned_about() -> None:
    report = Learned("m", connections=20, hours=0.5)
    report.services.update({"ssh": 3, "dns": 100})
    report.undecoded.update({"half_written_line": 1, "bad_checksum": 7})
    warnings = report.warnings()
    assert [w.split(":")[0].split(",")[0] for w in warnings] == [
        "only 20 connections",
        "only 30 minutes",
        "seen too rarely to know what is normal",
        "some input was cut off or damaged",
    ]
    assert "ssh 3" in warnings[2]
    assert "dns" not in warnings[2]
    assert "bad_checksum" not in warnings[3]


def test_a_host_that_is_like_known_attacks_is_named() -> None:
    windows = office(1500, scan=300)
    suspects = Suspects()
    suspects.receive(windows, everything(windows))
    suspects.resembling(gather([Recording("x", windows)], load_schema()))
    assert set(suspects.attacks) == {"10.0.1.66"}
    assert suspects.attacks["10.0.1.66"] > 200
    suspects.scans.clear()
    assert any(
        w.endswith("like attacks that an earlier model knows; --exclude 10.0.1.66 leaves it out")
        for w in suspects.words()
    )
