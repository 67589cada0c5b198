"""The session keeps account of every connection: judged, lost, or published before we came."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from made_windows import block_of, office
from test_wire import ROW, block, payload, told, verdict

from cmdana_plugin.decision.judge import Judged
from cmdana_plugin.decision.verdict import Verdicts
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.session import Identity, Session
from cmdana_plugin.endpoint.transport import Inbox
from cmdana_plugin.endpoint.wire import Event, PeerError
from feature_extractors.features.encoding import take_encoded
from feature_extractors.frames import Counts


def judged(verdicts: Verdicts) -> Judged:
    """What no windows at all came to, as far as the wire is concerned."""
    return Judged(take_encoded(block_of(office(3)), np.zeros(0, np.int64)), verdicts, [], verdicts.counted())


@pytest.fixture
def session() -> Session:
    return Session(Identity("me", "0.1", "model-1", "digest"), "verdicts")


def batch(seq: int, before: int, finals: int, run: str = "r1", **changes: Any) -> Event:
    records = [told(ROW)] * finals
    return Event(
        "t", wire.OBSERVATIONS, payload(records, seq=seq, before=before, finals=finals, run=run, **changes)
    )


numbers = itertools.count(1)


def welcome(accepted: bool, why: str = "", node: str = "zeek", parted: bool = False, **more: Any) -> Event:
    words = {
        "v": wire.WIRE_VERSION, "node": node, "run": "r1", "zeek": "8.2.2", "accepted": accepted, "why": why,
        "to": "me", "n": next(numbers), "parted": parted,
    }  # fmt: skip
    return Event("t", wire.WELCOME, json.dumps(words | more))


@pytest.mark.parametrize(
    ("events", "judged", "lost", "repeated"),
    [
        ([batch(1, 0, 2), batch(2, 2, 3)], 5, 0, 0),
        ([batch(1, 0, 2), batch(3, 7, 3)], 5, 5, 0),  # the second batch, of five, never came
        ([batch(9, 40, 2), batch(10, 42, 1)], 3, 0, 0),  # what Zeek published before we came is not our loss
        ([batch(1, 0, 2), batch(1, 0, 2)], 2, 0, 1),
        ([batch(1, 0, 2), batch(1, 0, 2, run="r2"), batch(2, 2, 1)], 5, 0, 0),  # two nodes, or one restarted
    ],
)
def test_every_connection_is_judged_or_counted(
    session: Session, events: list[Event], judged: int, lost: int, repeated: int
) -> None:
    batches = session.receive(events)
    assert sum(len(b.connections) for b in batches) == judged
    assert session.lost == lost
    assert session.counts.by_reason["batch_repeated"] == repeated


def test_a_batch_that_is_refused_is_counted_as_lost_with_the_next_one(session: Session) -> None:
    bad = batch(2, 2, 4)
    broken = Event(bad.topic, bad.name, bad.payload.replace('"now":102.0', '"now":"x"'))
    batches = session.receive([batch(1, 0, 2), broken, batch(3, 6, 1)])
    assert len(batches) == 2
    assert session.lost == 4
    assert session.counts.by_reason["message_refused"] == 1
    assert session.counts.by_reason["connections_refused"] == 4
    assert any("now" in line for line in session.news)


def test_the_answer_counts_final_verdicts_only(session: Session) -> None:
    events = session.answer(judged(block(verdict(), verdict(stage="early"))))
    assert [e.name for e in events] == [wire.VERDICTS]
    assert session.judged == 1


def test_the_last_batch_of_a_run_is_answered_with_its_end(session: Session) -> None:
    session.receive([batch(1, 0, 1, last=True)])
    assert not session.finished
    events = session.answer(judged(block(verdict())))
    assert [e.name for e in events] == [wire.VERDICTS, wire.ALIVE]
    assert wire.decode_alive(events[-1].payload).finished == "r1"
    assert session.finished


def test_the_heartbeat_says_who_we_are_and_the_goodbye_that_we_leave(session: Session) -> None:
    (hello,) = session.connected()
    assert hello.topic == "verdicts/alive"
    said = wire.decode_alive(hello.payload)
    assert (said.cmdana, said.model, said.schema, said.leaving) == ("0.1", "model-1", "digest", False)
    assert wire.decode_alive(session.finish()[0].payload).leaving


def test_a_welcome_is_news_once_on_each_connection(session: Session) -> None:
    session.receive([welcome(True), welcome(True)])
    assert session.news == ["Zeek 8.2.2 (node zeek) welcomes us"]
    session.connected()
    session.receive([welcome(True)])
    assert len(session.news) == 2


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ({}, 2),
        ({"zeek": {"benign": True}}, 2),
        ({"zeek": {"benign": False}}, 1),
        ({"worker": {}}, 2),  # the manager, which writes them, has not answered yet
        ({"worker": {}, "manager": {"benign": False}}, 1),
        ({"worker": {}, "manager": {"benign": True}}, 2),
    ],
)
def test_benign_verdicts_are_told_to_those_who_write_them_down(
    session: Session, nodes: dict[str, dict[str, bool]], told: int
) -> None:
    session.receive([welcome(True, node=node, **more) for node, more in nodes.items()])
    (answer,) = session.answer(judged(block(verdict(), verdict(verdict="benign", reasons=()))))
    body = json.loads(answer.payload)
    assert (len(body["uid"]), body["finals"]) == (told, 2)
    assert session.judged == 2


def test_what_is_written_down_may_change_without_news(session: Session) -> None:
    session.receive([welcome(True, benign=True), welcome(True, benign=False)])
    assert len(session.news) == 1


def test_a_refusal_is_told_in_zeeks_words(session: Session) -> None:
    session.receive([welcome(False, "found wire version 2; expected 1")])
    assert session.news == ["Zeek 8.2.2 (node zeek) refuses us: found wire version 2; expected 1"]


def test_we_have_parted_when_every_node_that_accepted_us_has_answered_our_goodbye(session: Session) -> None:
    assert session.parted
    session.receive([welcome(True, node="a"), welcome(True, node="b"), welcome(False, "no", node="c")])
    session.finish()
    assert not session.parted
    session.receive([welcome(False, node="a", parted=True)])
    assert not session.parted
    session.receive([welcome(False, node="b", parted=True)])
    assert session.parted


def test_what_is_not_understood_is_counted_always_and_told_when_its_number_doubles(session: Session) -> None:
    events = [Event("t", "Other::event", "x"), PeerError("code", "words")] * 3
    assert session.receive(events) == []
    assert session.counts.by_reason == {"unknown_event": 3, "zeek_refused_a_message": 3}
    assert len(session.news) == 4


def test_a_run_is_named_back_once_it_has_answered_and_is_forgotten_with_the_connection(
    session: Session,
) -> None:
    (hello,) = session.connected("ws-1")
    assert (wire.decode_alive(hello.payload).runs, wire.decode_alive(hello.payload).endpoint) == ((), "ws-1")
    waits = welcome(False)
    (named,) = session.overhear(
        [waits, Event("t", wire.WELCOME, "{"), batch(1, 0, 1), welcome(False, to="you")]
    )
    assert wire.decode_alive(named.payload).runs == ("r1",)
    session.receive([waits])
    assert session.news == []
    assert not session.nodes
    assert session.overhear([welcome(True)]) == []
    assert wire.decode_alive(session.connected("ws-2")[0].payload).runs == ()


def test_what_is_meant_for_another_detector_or_said_again_is_passed_over(session: Session) -> None:
    one = welcome(True)
    session.receive([one, one, welcome(False, "no", to="you"), batch(1, 0, 2, to="you")])
    assert next(iter(session.nodes.values())).accepted
    assert session.counts.by_reason == {
        "welcome_repeated": 1,
        "welcome_for_another": 1,
        "batch_for_another": 1,
    }


@pytest.mark.parametrize(
    "lie",
    [
        batch(2**63 - 1, 2, 0),
        batch(2_000_000, 2, 0),
        batch(2, 3, 0),  # nothing was published in between
        batch(2, 1, 1),
        batch(3, 2 + 65_537, 0),
        batch(2, 2**63 - 1, 0),
    ],
)
def test_a_number_that_cannot_be_is_refused_in_words_and_what_follows_is_judged(
    session: Session, lie: Event
) -> None:
    assert len(session.receive([batch(1, 0, 2)])) == 1
    assert session.receive([lie]) == []
    assert any("told what cannot be" in line for line in session.news)
    assert session.counts.by_reason["session_restarted"] == 1
    assert [len(b.connections) for b in session.receive([batch(2, 2, 3), batch(3, 5, 1)])] == [3, 1]
    assert session.lost == 0


def test_where_everybody_is_believed_a_number_ahead_blinds_for_one_batch_at_most() -> None:
    session = Session(Identity("me", "0.1", "model-1", "digest"), "verdicts", trusting=True)
    session.receive([batch(1, 0, 2), batch(900_000, 2, 0)])
    assert session.receive([batch(2, 2, 3)]) == []
    assert session.counts.by_reason["connections_refused"] == 3
    assert any("told what cannot be" in line for line in session.news)
    assert len(session.receive([batch(3, 5, 3), batch(4, 8, 3)])) == 2


def test_the_inbox_is_bounded_in_bytes_too_and_a_head_that_lies_moves_nobody_out() -> None:
    counts = Counts()
    inbox = Inbox(1000, counts, max_bytes=10_000)
    inbox.put([batch(1, 0, 4)], now=0.0)
    lie = batch(2, 4, 1)
    liar = Event(lie.topic, lie.name, lie.payload.replace('"records":1', '"records":999999999'))
    inbox.put([liar], now=0.0)
    assert (len(inbox), counts.by_reason["records_dropped_full_queue"]) == (5, 0)
    inbox.put([Event("t", wire.OBSERVATIONS, "x" * 9_000)], now=0.0)
    assert len(inbox) < 3
    assert counts.by_reason["connections_dropped_full_queue"] == 4


def test_the_inbox_lets_the_oldest_go_and_counts_it() -> None:
    counts = Counts()
    inbox = Inbox(10, counts)
    inbox.put([batch(k, 4 * k, 4) for k in range(4)], now=0.0)
    kept = inbox.take(100, 0.0, 0.0, lambda: 1.0)
    assert [json.loads(e.payload)["seq"] for e in kept if isinstance(e, Event)] == [2, 3]
    assert counts.by_reason["connections_received"] == 16
    assert counts.by_reason["connections_dropped_full_queue"] == 8
    assert len(inbox) == 0


def test_the_inbox_gives_whole_batches_up_to_the_number_asked_for_and_at_least_one() -> None:
    inbox = Inbox(1000, Counts())
    inbox.put([batch(k, 4 * k, 4) for k in range(5)], now=0.0)
    assert [len(inbox.take(n, 0.0, 0.0, lambda: 1.0)) for n in (10, 7, 100, 100)] == [2, 1, 2, 0]


def test_arrears_are_taken_in_larger_blocks() -> None:
    inbox = Inbox(10_000, Counts())
    inbox.put([batch(k, 4 * k, 4) for k in range(24)], now=0.0)
    assert [len(inbox.take(8, 0.0, 0.0, lambda: 1.0)) for _ in range(4)] == [20, 2, 2, 0]
