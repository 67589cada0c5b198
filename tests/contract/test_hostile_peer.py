"""A hostile or broken peer at the live endpoint: whatever comes over the road, what follows is judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import WebSocketPeer, instance_of, running, step, wait_for, welcome

from cmdana_plugin.config import Config, Endpoint
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.live import Live
from cmdana_plugin.endpoint.seal import Seal, opened_by_zeek, sealed_by_zeek
from cmdana_plugin.endpoint.transport import make_transport
from cmdana_plugin.endpoint.wire import Event, encode_frame

sys.path.insert(0, str(Path(__file__).parents[1] / "zeek"))
from endpoint import judge

SECRET = bytes(range(32))
TOPIC = "observations"
ESCAPES = "x\x1b]0;owned\x07\x1b[2J\ncmdana: all is well"
WORDS = "10.0.0.1 10.0.0.2 SF ShADadFf ssl 100.5 101.5 1.0"
COUNTS = [1, 1024, 443, 6, 0, 5, 300, 4, 400, 0, 10, 2_000]


class Beside:
    """A `Live` beside a peer, which has been welcomed; `judged` are the uids whose verdicts have come to the peer."""

    def __init__(self, peer: WebSocketPeer, **more: Any) -> None:
        self.peer = peer
        self.told: list[str] = []
        settings = Endpoint(
            url=f"ws://127.0.0.1:{peer.port}/v1/messages/json", topic_events=TOPIC, topic_verdicts="verdicts",
            reconnect_min=0.05, **more,
        )  # fmt: skip
        self.live = Live(
            settings, judge(Config()), make_transport(settings, "1.0"), self.told.append, secret=peer.secret
        )
        self.live.start()
        self.me = instance_of(peer)
        self.seq = self.before = 0
        peer.publish(welcome(self.me))
        self.until(lambda: self.live.session.nodes, "the welcome")

    def until(self, condition: Any, what: str) -> None:
        def stepped() -> bool:
            step(self.live, 0.02)
            return bool(condition())

        wait_for(stepped, what)

    def batch(self, *uids: str, **changes: Any) -> str:
        records: list[Any] = [[f"{uid} {WORDS}", COUNTS, [0, 60, 0]] for uid in uids]
        message = {
            "v": wire.WIRE_VERSION, "node": "zeek", "run": "run-1", "to": self.me, "seq": self.seq + 1,
            "before": self.before, "finals": len(records), "records": len(records), "now": 102.0, "last": False,
            "r": records,
        }  # fmt: skip
        return json.dumps(message | changes, separators=(",", ":"))

    def publish(self, payload: str) -> None:
        self.peer.publish(Event(TOPIC, wire.OBSERVATIONS, payload))

    def ordinary(self, uid: str) -> None:
        """One batch of one connection, which is judged."""
        self.publish(self.batch(uid))
        self.seq += 1
        self.before += 1
        self.until(lambda: uid in self.judged(), f"the verdict on {uid}; told: {self.told[-3:]}")

    def judged(self) -> list[str]:
        answers = [json.loads(e.payload) for e in list(self.peer.received) if e.name == wire.VERDICTS]
        return [uid for a in answers for uid in a["uid"]]


@pytest.fixture(params=[SECRET, None], ids=["sealed", "believing everybody"])
def beside(request: pytest.FixtureRequest) -> Iterator[Beside]:
    with running(WebSocketPeer(secret=request.param)) as peer:
        made = Beside(peer)
        yield made
        made.live.drain.stop()


def test_no_payload_of_zeeks_own_ends_the_detector_or_keeps_it_from_the_next(beside: Beside) -> None:
    beside.ordinary("C0")
    huge, deep = "9" * 5000, "[" * 950 + "]" * 950
    plain, version = beside.batch("C1"), f'"v":{wire.WIRE_VERSION}'
    for i, hostile in enumerate(
        (
            plain.replace('"now":102.0', f'"now":{huge}'), plain.replace('"now":102.0', '"now":1e999'),
            plain.replace("100.5 101.5 1.0", "nan nan nan"), plain.replace("100.5", "1" + "0" * 400),
            plain.replace("[0,60,0]", deep), plain.replace("ssl", r"\ud800\udfff"), plain.replace("1024", huge[:4000]),
            deep, "[" * 100_000, '{"a":' * 100_000, huge, "", "{", "null", '"x"', r'"\ud800"', "{}" * 10_000,
            beside.batch(run="another", r=[[]], records=1), beside.batch(records=999_999_999),
            plain.replace(version, '"v":99'), plain.replace(version, '"v":' + deep),
        )
    ):  # fmt: skip
        beside.publish(hostile)
        if i % 4 == 0:
            # What a bad record left of a batch counts as told, so the run's own numbers go on from there.
            beside.seq, beside.before = beside.seq + 1, beside.before + 1
    beside.until(lambda: not len(beside.live.inbox), "all to be taken")
    beside.live.session._runs.clear()
    beside.ordinary("C2")
    counted = beside.live.counters()
    assert counted["message_refused"] + counted.get("message_not_authentic", 0) > 10
    assert counted["bad_record"] >= 1


def test_no_frame_at_all_ends_the_detector(beside: Beside) -> None:
    for frame in (
        b"[" * 100_000, b'{"type":' + b"9" * 5000 + b"}", b'{"type":1e999}', b"", b"\xff\xfe", b'"\\ud800"',
        json.dumps({"type": "error", "code": ESCAPES, "context": ESCAPES}).encode(),
        encode_frame(Event(TOPIC + ESCAPES, ESCAPES, "x")).encode(),
        encode_frame(Event(TOPIC, wire.OBSERVATIONS, "x")).replace('"x"', r'"\ud800"').encode(),
    ):  # fmt: skip
        beside.peer.send_raw(frame, TOPIC)
    beside.ordinary("C1")
    assert all(line.isprintable() for line in beside.told)
    assert any("owned" in line for line in beside.told)


def test_what_a_node_says_of_itself_is_shown_without_its_escapes(beside: Beside) -> None:
    words = json.loads(welcome(beside.me, n=2).payload) | {"node": ESCAPES, "zeek": ESCAPES}
    beside.peer.publish(Event(TOPIC, wire.WELCOME, json.dumps(words)))
    beside.until(lambda: any("owned" in line for line in beside.told), "the node's words")
    assert all(line.isprintable() for line in beside.told)


def test_a_number_far_ahead_is_refused_in_words_and_what_follows_is_judged(beside: Beside) -> None:
    beside.ordinary("C0")
    for uid, lie in (("C1", {"seq": 2**63 - 1}), ("C2", {"before": 2**63 - 1}), ("C3", {"seq": 10**7})):
        beside.publish(beside.batch(**lie))
        beside.ordinary(uid)
    assert any("told what cannot be" in line for line in beside.told)
    assert beside.live.session.lost == 0


def test_hosts_whose_evidence_was_let_go_are_among_the_counts(beside: Beside) -> None:
    beside.ordinary("C0")
    assert "hosts_forgotten" not in beside.live.counters()
    beside.live._judge.decider.evidence.forgotten += 3
    assert beside.live.counters()["hosts_forgotten"] >= 3


def test_what_a_stranger_says_beside_zeek_is_passed_over(beside: Beside) -> None:
    if beside.peer.secret is None:
        pytest.skip("there everybody is believed")
    beside.ordinary("C0")
    genuine = sealed_by_zeek(SECRET, Event(TOPIC, wire.OBSERVATIONS, beside.batch("F1")))
    for payload in (
        beside.batch("F2"),
        "0" * 64 + beside.batch("F3"),
        sealed_by_zeek(b"another", Event(TOPIC, wire.OBSERVATIONS, beside.batch("F4"))).payload,
        genuine.payload[:-1],
        genuine.payload + " ",
        genuine.payload.upper(),
        genuine.payload.replace("F1", "F5"),
    ):
        beside.peer.publish_as_it_is(Event(TOPIC, wire.OBSERVATIONS, payload))
    # As another kind of message, and Zeek's own sealed by the key of the other direction.
    beside.peer.publish_as_it_is(Event(TOPIC, wire.WELCOME, genuine.payload))
    stolen = next(e for e in beside.peer.sealed if e.name == wire.VERDICTS)
    beside.peer.publish_as_it_is(Event(TOPIC, wire.OBSERVATIONS, stolen.payload))
    beside.ordinary("C1")
    assert beside.live.counters()["message_not_authentic"] == 9
    assert beside.judged() == ["C0", "C1"]


def test_what_was_said_once_is_not_believed_again_by_this_start_or_the_next(beside: Beside) -> None:
    if beside.peer.secret is None:
        pytest.skip("there everybody is believed")
    said = [Event(TOPIC, wire.OBSERVATIONS, beside.batch("C0"))]
    beside.ordinary("C0")
    for event in said * 3:
        beside.peer.publish(event)
    beside.ordinary("C1")
    assert beside.live.counters()["batch_repeated"] == 3
    beside.live.drain.stop()
    wait_for(lambda: not beside.peer.subscribed(), "the first to be gone")
    beside.peer.received.clear()
    second = Beside(beside.peer)
    for event in said:
        beside.peer.publish(event)
    second.ordinary("C2")
    second.live.drain.stop()
    assert second.live.counters()["batch_for_another"] == 1
    assert second.judged() == ["C2"]


def test_messages_are_numbered_in_the_order_in_which_they_are_sent_and_sealed_for_their_direction() -> None:
    sent: list[Event] = []
    seal = Seal(SECRET, "me")
    for k in range(3):
        seal.send(Event("t", wire.ALIVE, json.dumps({"k": k})), sent.append)
    opened = [opened_by_zeek(SECRET, e) for e in sent]
    assert [json.loads(e.payload) for e in opened if e] == [
        {"k": k, "instance": "me", "n": k + 1} for k in range(3)
    ]
    assert opened_by_zeek(b"another", sent[0]) is None
    assert opened_by_zeek(SECRET, Event("t", wire.VERDICTS, sent[0].payload)) is None


def test_what_waits_is_bounded_in_bytes_and_what_is_dropped_is_counted() -> None:
    with running(WebSocketPeer(secret=SECRET)) as peer:
        beside = Beside(peer, queue_bytes=1_000_000)
        for k in range(40):
            filler = [["weird", {"ts": 1.0, "uid": "C1", "name": "x" * 3000}]] * 30
            message = json.loads(beside.batch(f"D{k}"))
            message |= {"r": filler + message["r"], "records": 31, "seq": k + 1, "before": k}
            beside.publish(json.dumps(message, separators=(",", ":")))
        received = beside.live.counters
        wait_for(lambda: received().get("connections_received") == 40, "all to come")
        assert received()["connections_dropped_full_queue"] >= 25
        beside.until(lambda: not len(beside.live.inbox), "what is left")
        beside.live.drain.stop()
        assert received()["connections_dropped_full_queue"] == 40 - len(beside.judged())
