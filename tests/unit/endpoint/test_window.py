"""The aligner brings the three modalities of a connection together, bounded and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_wire import ROW, payload, told

from cmdana_plugin.endpoint import observed
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.observed import Batch
from feature_extractors.observations import CONN_STATES, MAX_LOG_ENTRIES, Stage


def connection(uid: str, end: float = 101.5, **changes: Any) -> list[Any]:
    return told(ROW._replace(uid=uid, end=end, **changes))


def log(uid: str, ts: float = 100.6, stream: str = "dns", **fields: Any) -> list[Any]:
    return [stream, {"ts": ts, "uid": uid} | fields]


def batch(*records: list[Any]) -> Batch:
    return observed.decode_batch(payload(list(records)))


def logs_of(windows: Any, row: int) -> list[Any]:
    return list(windows.logs[windows.log_start[row] : windows.log_start[row + 1]])


def test_a_connection_gets_its_own_logs_in_order_of_time_whatever_came_between() -> None:
    aligner = Aligner()
    first = aligner.receive(
        [batch(log("C1", 3.0, query="c"), log("C2", query="x"), log("C1", 2.0, query="b"))]
    )
    assert len(first) == 0
    windows = aligner.receive([batch(connection("C1")), batch(connection("C2"), connection("C3"))])
    assert windows.connections.uid.tolist() == [b"C1", b"C2", b"C3"]
    assert [[e.fields["query"] for e in logs_of(windows, k)] for k in range(3)] == [["b", "c"], ["x"], []]
    assert not aligner.counts.by_reason


def test_windows_come_in_order_of_end() -> None:
    windows = Aligner().receive(
        [batch(connection("C1", 9.0), connection("C2", 7.0)), batch(connection("C3", 8.0))]
    )
    assert windows.connections.uid.tolist() == [b"C2", b"C3", b"C1"]


@pytest.mark.parametrize(
    ("end", "expected", "behind"),
    [(1000.0, 1000.0, 0), (990.0, 1000.0, 1), (500.0, 500.0, 0)],
    ids=["same time", "a worker a little behind", "another capture"],
)
def test_time_does_not_run_back_between_blocks_but_for_another_capture(
    end: float, expected: float, behind: int
) -> None:
    aligner = Aligner()
    aligner.receive([batch(connection("C1", 1000.0))])
    windows = aligner.receive([batch(connection("C2", end))])
    assert windows.connections.end.tolist() == [expected]
    assert aligner.counts.by_reason["connection_behind_others"] == behind


def test_an_early_window_has_the_logs_so_far_and_leaves_them_for_the_final_one() -> None:
    aligner = Aligner()
    early = aligner.receive([batch(log("C1"), connection("C1", stage=0))])
    final = aligner.receive([batch(log("C1", stream="http"), connection("C1"))])
    assert early.connections.stage.tolist() == [Stage.EARLY]
    assert [e.stream for e in early.logs] == ["dns"]
    assert [e.stream for e in final.logs] == ["dns", "http"]


def test_a_log_after_its_connection_is_counted_and_passed_over() -> None:
    aligner = Aligner()
    aligner.receive([batch(connection("C1"))])
    aligner.receive([batch(log("C1"))])
    assert aligner.counts.by_reason == {"late_log": 1}


def test_logs_beyond_what_the_detector_looks_at_are_counted() -> None:
    aligner = Aligner()
    windows = aligner.receive(
        [batch(*[log("C1", float(k)) for k in range(MAX_LOG_ENTRIES + 4)], connection("C1"))]
    )
    assert len(windows.logs) == MAX_LOG_ENTRIES
    assert aligner.counts.by_reason == {"log_beyond_window": 4}


def test_the_uid_longest_without_a_new_entry_is_let_go_first() -> None:
    aligner = Aligner(max_uids=2)
    aligner.receive([batch(log("C1"), log("C2"), log("C1"), log("C3"))])
    windows = aligner.receive([batch(connection("C1"), connection("C2"), connection("C3"))])
    assert [len(logs_of(windows, k)) for k in range(3)] == [2, 0, 1]
    assert aligner.counts.by_reason == {"log_evicted": 1}


def test_bytes_held_are_bounded_too() -> None:
    aligner = Aligner(max_bytes=100_000)
    aligner.receive([batch(log(f"C{k}", uri="x" * 10_000)) for k in range(50)])
    windows = aligner.receive([batch(*[connection(f"C{k}") for k in range(50)])])
    assert 0 < len(windows.logs) <= 10
    assert aligner.counts.by_reason["log_evicted"] == 50 - len(windows.logs)


def test_what_never_met_its_connection_is_counted_at_the_end() -> None:
    aligner = Aligner()
    aligner.receive([batch(log("C1"), log("C1"))])
    aligner.finish()
    assert aligner.counts.by_reason == {"log_without_connection": 2}


def test_certificates_are_bounded_in_bytes_and_those_let_go_are_counted() -> None:
    aligner = Aligner(max_bytes=80_000)
    for k in range(10):
        x509 = ["x509", {"ts": 1.0, "fingerprint": f"f{k}", "certificate": {"subject": "x" * 4000}}]
        aligner.receive([batch(x509), batch(x509)])
    assert aligner.counts.by_reason["certificate_forgotten"] == 9
    windows = aligner.receive([batch(log("C1", stream="ssl", cert_chain_fps=["f8", "f9"]), connection("C1"))])
    assert sorted(e.stream for e in windows.logs) == ["ssl", "x509"]


def test_certificates_join_by_fingerprint_again_and_again() -> None:
    aligner = Aligner()
    x509 = ["x509", {"ts": 1.0, "fingerprint": "ab", "certificate": {"subject": "CN=a"}}]
    ssl = {"stream": "ssl", "cert_chain_fps": ["ab", "cd"]}
    first = aligner.receive([batch(x509, log("C1", **ssl), connection("C1"))])
    second = aligner.receive([batch(log("C2", **ssl), connection("C2"))])
    for windows, uid in ((first, "C1"), (second, "C2")):
        assert [(e.stream, e.uid) for e in windows.logs] == [("ssl", uid), ("x509", uid)]
        assert windows.logs[1].fields["certificate.subject"] == "CN=a"


def test_unset_stays_unset_and_zero_means_zero() -> None:
    unset = {"duration": 0.0, "orig_bytes": 0, "resp_bytes": 0, "vlan": -1, "conn_state": "", "service": ""}
    c = (
        Aligner()
        .receive([batch(connection("C1", **unset), connection("C2", orig_bytes=0, vlan=0))])
        .connections
    )
    assert np.isnan(c.duration[0])
    assert (c.orig_bytes.tolist(), c.resp_bytes.tolist(), c.vlan.tolist()) == ([-1, 0], [-1, 20], [-1, 0])
    assert [CONN_STATES[k] if k >= 0 else None for k in c.conn_state] == [None, "SF"]
    assert c.service == ["", "ssl"]


def test_addresses_are_sixteen_bytes_and_services_sorted() -> None:
    c = Aligner().receive([batch(connection("C1", service="ssl,http"))]).connections
    assert bytes(c.orig_h[0]) == b"\0" * 10 + b"\xff\xff\x0a\x00\x00\x01"
    assert bytes(c.resp_h[0]) == bytes.fromhex("20010db8000000000000000000000001")
    assert c.service == ["http,ssl"]


def test_counts_that_zeek_let_wrap_are_the_greatest_we_know() -> None:
    c = Aligner().receive([batch(connection("C1", orig_bytes=2**64 - 5))]).connections
    assert c.orig_bytes.tolist() == [2**63 - 1]


def packets(*sent: tuple[str, int]) -> list[int]:
    """Packets a tenth of a second apart: who sent it, and its size; "turn" exchanges the roles."""
    seen: list[int] = []
    total = {"orig": 0, "resp": 0}
    for who, size in sent:
        if who == "turn":
            total = {"orig": total["resp"], "resp": total["orig"]}
            continue
        total[who] += size
        seen += [100_000 * (len(seen) // 3), total["orig"], total["resp"]]
    return seen


def test_packets_know_time_direction_and_size_and_nothing_else() -> None:
    talk = packets(("orig", 60), ("resp", 60), ("orig", 52), ("orig", 1500), ("resp", 40))
    windows = Aligner().receive(
        [batch(connection("C1", ts=100.0, packets=talk), connection("C2", packets=[])), batch()]
    )
    p = windows.packets
    assert windows.packet_start.tolist() == [0, 5, 5]
    assert p.ts.tolist() == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4])
    assert p.is_orig.tolist() == [True, False, True, True, False]
    assert p.ip_length.tolist() == [60, 60, 52, 1500, 40]
    assert (p.payload == -1).all()


@pytest.mark.parametrize(
    ("sent", "is_orig", "sizes"),
    [
        ([("orig", 60), ("turn", 0), ("orig", 40)], [False, True], [60, 40]),
        ([("orig", 60), ("turn", 0), ("resp", 80)], [False, False], [60, 80]),
        ([("orig", 60), ("resp", 44), ("turn", 0), ("resp", 90)], [False, True, False], [60, 44, 90]),
        ([("turn", 0), ("resp", 60), ("orig", 44)], [False, True], [60, 44]),
        (
            [("orig", 60), ("turn", 0), ("orig", 40), ("turn", 0), ("orig", 50)],
            [True, False, True],
            [60, 40, 50],
        ),
    ],
)
def test_where_zeek_changed_the_roles_the_last_ones_hold(
    sent: list[tuple[str, int]], is_orig: list[bool], sizes: list[int]
) -> None:
    around = connection("C0", packets=packets(("orig", 9000), ("resp", 9)))
    p = Aligner().receive([batch(around, connection("C1", packets=packets(*sent)), around)]).packets
    assert p.is_orig.tolist() == [True, False, *is_orig, True, False]
    assert p.ip_length.tolist() == [9000, 9, *sizes, 9000, 9]


def test_packets_beyond_what_a_window_holds_are_left_out() -> None:
    talk = packets(*[("orig", 60)] * 40)
    windows = Aligner().receive([batch(connection("C1", packets=talk), connection("C2", packets=talk))])
    assert windows.packet_start.tolist() == [0, 32, 64]
    assert (windows.packets.ip_length == 60).all()
