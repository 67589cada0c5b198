"""Several detectors beside a stand-in for one Zeek: each hears its own, they tell one another, and one stands in."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import WebSocketPeer, running, step, wait_for, welcome

from cmdana_plugin.config import Config, Endpoint
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.live import Live
from cmdana_plugin.endpoint.shards import Shard, Shares
from cmdana_plugin.endpoint.transport import make_transport
from cmdana_plugin.endpoint.wire import Event

sys.path.insert(0, str(Path(__file__).parents[1] / "zeek"))
from endpoint import judge

ROOT = Path(__file__).parents[2]
SECRET = bytes(range(32))
SHARES = Shares(2, SECRET)


class Manager:
    """Answers heartbeats as a manager of two shards does: the last detector of a shard is the accepted one."""

    def __init__(self, peer: WebSocketPeer) -> None:
        self.peer = peer
        self.shards: dict[int, dict[str, Any]] = {}  # what its detector said last
        self.refused: set[str] = set()
        self._numbers = itertools.count(1)
        self._seen = 0

    def look(self) -> None:
        said = self.peer.received[self._seen :]
        self._seen += len(said)
        for event in said:
            if event.name != wire.ALIVE:
                continue
            words = json.loads(event.payload)
            number, instance = words["shard"], words["instance"]
            before = self.shards.get(number, {}).get("instance")
            if words["leaving"]:
                if before == instance:
                    del self.shards[number]
                self._answer(words, accepted=False, parted=True)
            elif "run-1" not in words["runs"]:
                self._answer(words, accepted=False)
            elif instance in self.refused:
                self._answer(words, accepted=False, why="a newer detector has taken over")
            else:
                if before not in (None, instance):
                    self.refused.add(before)
                self.shards[number] = words
                self._answer(words, accepted=True)

    def _answer(self, words: dict[str, Any], **more: Any) -> None:
        there = [self.shards.get(k, {}).get("instance", "") for k in (1, 2)]
        topic = Shard(words["shard"], 2).topic("observations")
        self.peer.publish(
            welcome(words["instance"], n=next(self._numbers), topic=topic, detectors=there, **more)
        )

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        def looked() -> object:
            self.look()
            return condition()

        wait_for(looked, what, seconds)


def observations(to: str, shard: int, seq: int, hosts: list[str]) -> Event:
    counts = [1, 1024, 443, 6, 0, 5, 300, 4, 400, 0, 10, 20_000]
    records = [
        [f"C{shard}x{seq}x{i} {host} 10.0.0.9 SF ShADadFf ssl 100.5 {101.5 + seq} 1.0", counts, []]
        for i, host in enumerate(hosts)
    ]
    message = {
        "v": wire.WIRE_VERSION, "node": "zeek", "run": "run-1", "to": to, "seq": seq, "before": (seq - 1) * len(hosts),
        "finals": len(hosts), "records": len(hosts), "now": 102.0, "last": False, "r": records,
    }  # fmt: skip
    return Event(
        Shard(shard, 2).topic("observations"), wire.OBSERVATIONS, json.dumps(message, separators=(",", ":"))
    )


def test_each_detector_hears_its_own_hosts_and_the_responder_s_own_raises_the_notice_once() -> None:
    peer = WebSocketPeer(secret=SECRET)
    hosts = [f"10.1.0.{i}" for i in range(200)]
    own = {k: [h for h in hosts if SHARES.of(h) == k] for k in (1, 2)}
    with running(peer):
        lives = {}
        for k in (1, 2):
            settings = Endpoint(
                url=f"ws://127.0.0.1:{peer.port}/v1/messages/json", topic_events="observations",
                topic_verdicts="verdicts", shard=f"{k}/2",
            )  # fmt: skip
            transport = make_transport(settings, "1.0")
            lives[k] = Live(settings, judge(Config(), mild=9), transport, lambda _: None, secret=SECRET)
            lives[k].start()
        manager = Manager(peer)
        try:

            def acquainted() -> bool:
                for live in lives.values():
                    step(live, 0.05)
                return all(len(live.session.others()) == 2 for live in lives.values())

            manager.wait(acquainted, "both to know of both")
            for seq in range(1, 4):
                for k in (1, 2):
                    some = own[k][(seq - 1) * 20 : seq * 20]
                    peer.publish(observations(manager.shards[k]["instance"], k, seq, some))
            home = SHARES.of("10.0.0.9")
            other = 3 - home

            def told() -> bool:
                for live in lives.values():
                    step(live, 0.05)
                return (
                    lives[home].session.counts.by_reason["evidence_heard"] == 30
                )  # of an hour, all that count

            manager.wait(told, "the evidence of the other")
        finally:
            for live in lives.values():
                live.drain.stop()
        assert peer.passed_on
        assert {e.topic for e in peer.passed_on} == {f"observations/{home}/2"}
        assert [lives[k].session.judged for k in (1, 2)] == [60, 60]
        assert lives[other].notices == 0
        answers = [json.loads(e.payload) for e in peer.received if e.name == wire.VERDICTS]
    raised = [n for a in answers for n in a["notices"]]
    assert {(n["fields"]["role"], n["fields"]["host"]) for n in raised} == {("responder", "10.0.0.9")}
    assert len({n["identifier"] for n in raised}) == 1
    incident = raised[0]["fields"]["incident"]
    rows = {uid for a in answers for uid, of in zip(a["uid"], a["incident"], strict=True) if of == incident}
    assert {uid[:2] for uid in rows} == {"C1", "C2"}  # connections of both are in it


@contextmanager
def detector(folder: Path, shard: int) -> Iterator[subprocess.Popen[bytes]]:
    words = (
        Path(__file__).with_name("sharded.py"),
        "run",
        "--shard",
        f"{shard}/2",
        "--config",
        folder / "plugin.toml",
    )
    with (folder / f"{shard}.out").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=out, stderr=out, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


@pytest.mark.slow
def test_who_ends_is_stood_in_for_with_its_state_until_it_is_back(tmp_path: Path) -> None:
    peer = WebSocketPeer(secret=SECRET)
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(SECRET.hex() + "\n")
    (tmp_path / "plugin.toml").write_text(
        f'[endpoint]\nurl = "ws://127.0.0.1:{peer.port}/v1/messages/json"\nsecret_file = "secret"\n'
        'topic_events = "observations"\ntopic_verdicts = "verdicts"\nstand_in_seconds = 1.0\n'
        '[state]\nfolder = "state"\nseconds = 1.0\n[model]\nstate_key = "state.key"\n'
    )
    manager = Manager(peer)

    def of(shard: int, key: str) -> Any:
        return manager.shards.get(shard, {}).get(key)

    with running(peer), detector(tmp_path, 1) as first, detector(tmp_path, 2) as second:
        manager.wait(lambda: of(1, "instance") and of(2, "instance"), "both detectors", 200)
        assert (of(1, "stands_in"), of(1, "known")) == (0, "knows nothing of before")
        state = tmp_path / "state" / "shard-1-of-2.safetensors"
        manager.wait(state.exists, "a snapshot")
        first.kill()
        first.wait()
        manager.shards.pop(1)  # as Zeek does when the connection is closed
        manager.wait(lambda: of(1, "stands_in") == 2, "the second to stand in", 200)
        assert of(1, "known").startswith("goes on from shard-1-of-2.safetensors, written ")
        stands_in = of(1, "instance")
        with detector(tmp_path, 1):
            manager.wait(lambda: of(1, "instance") not in (None, stands_in), "the first to be back", 200)
            assert (of(1, "stands_in"), of(1, "known")[:32]) == (0, "goes on from shard-1-of-2.safete")
            said = (tmp_path / "1.out").read_text()
            assert "another cmdana has the state of shard 1/2" in said
            manager.wait(
                lambda: "no longer stands in for shard 1/2" in (tmp_path / "2.out").read_text(), "its word"
            )
        second.send_signal(signal.SIGTERM)
        began = time.monotonic()
        manager.wait(lambda: second.poll() is not None or time.monotonic() - began > 60, "the end")
        assert second.returncode == 0
