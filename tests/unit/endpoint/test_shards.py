"""Shards: an originator has one, Zeek and detector agree on which, and evidence reaches the responder's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from incident_rows import connection, rows
from test_session import welcome

from cmdana_plugin.config import Config, ConfigError, Endpoint, Incident, parse
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import REVISED, Decided, Decider
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.seal import Seal, sealed_by_zeek
from cmdana_plugin.endpoint.session import Identity, Session
from cmdana_plugin.endpoint.shards import (
    MAX_ROWS,
    Shard,
    Shares,
    decode_evidence,
    encode_evidence,
)
from cmdana_plugin.endpoint.transport import TransportError, make_transport
from cmdana_plugin.endpoint.wire import Event, WireError
from feature_extractors import addresses_of

SECRET = bytes.fromhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
# As a Zeek with this secret, and one without, says them for eight shards (tests/btest/cmdana/shards.zeek).
SAID_BY_ZEEK = {
    "10.0.0.1": (4, 5), "10.0.0.2": (2, 5), "192.168.17.254": (4, 7), "255.255.255.255": (6, 8), "::1": (8, 3),
    "2001:db8::1": (7, 1), "2001:db8:0:1::": (2, 7), "fe80::aede:48ff:fe00:1122": (8, 3),
}  # fmt: skip


@pytest.mark.parametrize("address", SAID_BY_ZEEK)
def test_zeek_and_the_detector_agree_on_the_shard_of_an_address(address: str) -> None:
    assert (Shares(8, SECRET).of(address), Shares(8, None).of(address)) == SAID_BY_ZEEK[address]


def test_the_shards_of_a_column_are_those_of_its_addresses() -> None:
    shares, texts = Shares(8, SECRET), list(SAID_BY_ZEEK)
    assert shares.of_all(addresses_of(texts)).tolist() == [shares.of(text) for text in texts]
    assert shares.of_all(np.zeros((0, 16), np.uint8)).tolist() == []


def test_shards_are_of_like_size_and_another_secret_makes_others() -> None:
    hosts = [f"10.{a}.{b}.{c}" for a in range(4) for b in range(10) for c in range(50)]
    mine, theirs = ([Shares(8, secret).of(h) for h in hosts] for secret in (SECRET, bytes(32)))
    assert np.bincount(mine, minlength=9)[1:].min() > len(hosts) / 8 * 0.8
    assert 0.05 < np.mean(np.array(mine) == np.array(theirs)) < 0.2


def test_no_topic_is_the_beginning_of_another() -> None:
    topics = [Shard(k, 16).topic("t/o") for k in range(1, 17)]
    assert not [(a, b) for a, b in itertools.permutations(topics, 2) if b.startswith(a)]
    assert Shard().topic("t/o") == "t/o"


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/257", "-1/8", "1/8/2", "a/b", "1/\u0968"])
def test_a_shard_that_cannot_be_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r'\[endpoint\] shard: found .*expected such as "2/8"'):
        parse(f'[endpoint]\nshard = "{text}"\n'.encode(), "plugin.toml")
    assert parse(b'[endpoint]\nshard = "8/8"\n', "plugin.toml").endpoint.shard == "8/8"


def test_shards_need_the_websocket() -> None:
    with pytest.raises(TransportError, match=r'\[endpoint\] shard: found "2/8" with transport = "broker"'):
        make_transport(Endpoint(shard="2/8", transport="broker"), "1")


def odd(resp: str, n: int = 1, begin: float = 0.0, p: float = 1e-3) -> list[Seen]:
    """Odd connections of as many hosts to one."""
    return [
        connection(begin + 10.0 * i, p, orig=f"10.1.{i // 200}.{i % 200}", resp=resp, port=443)
        for i in range(n)
    ]


def events(
    seen: Sequence[Seen], n: int = 1, /, sender: str = "it", to: str = "me", **changes: Any
) -> list[Event]:
    told, _ = encode_evidence(seen, Shares(2, SECRET), "t", {1: to, 2: to})
    return [
        Event(e.topic, e.name, json.dumps(json.loads(e.payload) | {"instance": sender, "n": n + i} | changes))
        for i, e in enumerate(told)
    ]


def test_evidence_comes_as_it_was_told() -> None:
    seen = odd("10.0.0.9", 3)
    (event,) = events(seen)
    heard = decode_evidence(event.payload)
    assert (heard.instance, heard.n, heard.to, heard.seen) == ("it", 1, "me", seen)
    assert sum(len(decode_evidence(e.payload).seen) for e in events(odd("10.0.0.9", 2 * MAX_ROWS + 1))) == 513


def test_evidence_goes_to_the_responder_s_shard_and_what_nobody_is_there_for_is_counted() -> None:
    shares, seen = Shares(4, SECRET), odd("10.0.0.9") + odd("10.0.0.10") + odd("10.0.0.11") + odd("10.0.0.12")
    homes = [shares.of(s.verdict.resp_h) for s in seen]
    told, untold = encode_evidence(seen, shares, "t", {homes[0]: "there"})
    assert {e.topic for e in told} == {f"t/{homes[0]}/4"}
    assert untold == sum(home != homes[0] for home in homes) > 0


ROW = json.loads(events(odd("10.0.0.9"))[0].payload)["seen"][0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v": 1}, "found wire version 1"),
        ({"n": -1}, "n: found"),
        ({"seen": {}}, "seen: found"),
        ({"seen": [1]}, "expected a connection"),
        ({"seen": [ROW] * (MAX_ROWS + 1)}, f"at most {MAX_ROWS}"),
        ({"seen": [[*ROW[:1], "now", *ROW[2:]]]}, "expected a connection"),
        ({"seen": [[*ROW[:1], 1e999, *ROW[2:]]]}, "found Infinity"),
        ({"seen": [[*ROW[:2], 1000.0, *ROW[3:]]]}, "evidence: found"),
        ({"seen": [[[*ROW[0][:2], "nowhere", *ROW[0][3:]], *ROW[1:]]]}, "expected a connection"),
        ({"seen": [[[*ROW[0][:3], 70_000, *ROW[0][4:]], *ROW[1:]]]}, "texts and ports"),
        ({"seen": [[*ROW[:9], "x" * 5000, *ROW[10:]]]}, "texts and ports"),
    ],
)
def test_evidence_that_cannot_be_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words):
        decode_evidence(events(odd("10.0.0.9"), **changes)[0].payload)


def test_evidence_is_believed_once_of_a_detector_that_zeek_has_accepted_and_if_it_is_meant_for_us() -> None:
    session = Session(Identity("me", "0.1", "m", "s", shard=Shard(1, 2)), "verdicts")
    (told,) = events(odd("10.0.0.9", 2))
    session.receive([told])  # before Zeek has said who is there
    assert session.heard() == []
    session.receive([welcome(True, detectors=["me", "it"]), told, told, *events(odd("10.0.0.9"), 2)])
    assert len(session.heard()) == 3
    assert session.heard() == []
    assert session.counts.by_reason["evidence_repeated"] == 1
    session.receive([*events(odd("10.0.0.9"), 3, to="another"), *events(odd("10.0.0.9"), 4, sender="other")])
    assert session.heard() == []
    assert session.counts.by_reason["evidence_for_another"] == 4
    session.receive([welcome(True, detectors=["me", ""]), *events(odd("10.0.0.9"), 5)])  # it is gone by now
    assert session.heard() == []


def test_detectors_seal_evidence_for_one_another_and_neither_zeek_s_nor_their_own_words_pass_for_it() -> None:
    sent: list[Event] = []
    (event,) = encode_evidence(odd("10.0.0.9"), Shares(2, SECRET), "t", {1: "me", 2: "me"})[0]
    Seal(SECRET, "it").send(event, sent.append)
    opened, fault = Seal(SECRET, "me").opened(sent)
    assert (len(opened), fault) == (1, "")
    assert decode_evidence(opened[0].payload).instance == "it"  # type: ignore[union-attr]
    for forged in (event, sealed_by_zeek(SECRET, event), Event(sent[0].topic, wire.WELCOME, sent[0].payload)):
        opened, fault = Seal(SECRET, "me").opened([forged])
        assert opened == []
        assert "not authentic" in fault


def shared(seen: list[Seen], shards: int, *, telling: bool = True) -> list[list[Decided]]:
    """What each shard's decider makes of a stream, the odd connections told to one another after each block."""
    shares = Shares(shards, SECRET)
    deciders = [Decider(Budget(), Incident()) for _ in range(shards)]
    for number, decider in enumerate(deciders, 1):
        decider.ours = lambda resp, number=number: shares.of_all(resp) == number  # type: ignore[misc]
    out: list[list[Decided]] = [[] for _ in deciders]
    for begin in range(0, len(seen), 50):
        told: list[Seen] = []
        for number, decider in enumerate(deciders, 1):
            own = [s for s in seen[begin : begin + 50] if shares.of(s.verdict.orig_h) == number]
            if own:
                out[number - 1].append(decider.receive(rows(own)))
                told += out[number - 1][-1].elsewhere
        for number, decider in enumerate(deciders, 1):
            heard = sorted((s for s in told if shares.of(s.verdict.resp_h) == number), key=lambda s: s.end)
            if telling and heard:
                out[number - 1].append(decider.overheard(heard))
    return out


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_a_responder_that_many_hosts_find_odd_is_one_incident_of_its_own_shard(shards: int) -> None:
    """None of the hosts has done anything that were an incident of its own."""
    seen = odd("10.0.0.9", 200, p=10**-2.5)
    found = shared(seen, shards)
    incidents = {
        (number, n.incident.role, n.incident.host)
        for number, some in enumerate(found, 1)
        for d in some for raised in d.notices.values() for n in raised if n.incident is not None
    }  # fmt: skip
    home = Shares(shards, SECRET).of("10.0.0.9")
    assert incidents == {(home, "responder", "10.0.0.9")}
    assert len({n.identifier for d in found[home - 1] for some in d.notices.values() for n in some}) == 1
    if shards > 1:  # the rows of others' connections say so afterwards
        revised = [v for d in found[home - 1] for _, v in d.revised]
        assert {v.stage for v in revised} == {REVISED}
        assert len({v.incident for v in revised}) == 1


def test_without_the_others_word_no_shard_of_many_sees_it() -> None:
    found = shared(odd("10.0.0.9", 60, p=10**-1.5), 8, telling=False)
    whole = shared(odd("10.0.0.9", 60, p=10**-1.5), 8)
    assert [n for some in found for d in some for n in d.notices.values()] == []
    assert [n for some in whole for d in some for n in d.notices.values()] != []


def test_an_originator_s_incident_explains_its_connections_in_every_shard() -> None:
    """A scan is an incident of who scans; those that are scanned hear nothing of it once it is one."""
    seen = [
        connection(i / 10, 1e-4, orig="10.0.0.5", resp=f"10.9.0.{i % 200}", tried=True) for i in range(400)
    ]
    found = shared(seen, 4)
    roles = [
        n.incident.role for some in found for d in some for r in d.notices.values() for n in r if n.incident
    ]
    assert set(roles) == {"originator"}
    assert sum(len(d.elsewhere) for some in found for d in some) < 50


def test_a_shard_s_budget_is_its_part() -> None:
    from cmdana_plugin.cli.judging import _of_shard

    budget = _of_shard(Config(), "2/8").verdict
    assert (budget.alerts_per_day, budget.connections_per_day) == (10.0 / 8, 10_000 // 8)
    assert _of_shard(Config(), "") == Config()
