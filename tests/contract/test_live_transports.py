"""The endpoint over each transport beside a stand-in for Zeek: the same observations, the same verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from peers import BrokerPeer, WebSocketPeer, free_port, instance_of, running, step, wait_for

from cmdana_plugin.config import Config, Endpoint
from cmdana_plugin.decision.judge import Judge
from cmdana_plugin.detector.scores import Scores
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.live import Live, run
from cmdana_plugin.endpoint.transport import TransportError, make_transport
from cmdana_plugin.endpoint.wire import Event
from feature_extractors.features.encoding import Encoded

sys.path.insert(0, str(Path(__file__).parents[1] / "zeek"))
from endpoint import StandIn, judge


class Recorder(StandIn):
    """Keeps how many rows it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.received = self.explained = 0

    def receive(self, windows: Encoded) -> Scores:
        self.received += len(windows)
        return super().receive(windows)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        self.explained += len(rows)
        return super().explain(windows, scores, rows)


WORDS = "10.0.0.1 10.0.0.2 SF ShADadFf ssl 100.5 101.5 1.0"
COUNTS = [1, 1024, 443, 6, 0, 5, 300, 4, 400, 0, 10, 20_000]


def observations(to: str, seq: int, uids: list[str], before: int, last: bool = False) -> Event:
    records: list[Any] = [["dns", {"ts": 100.0, "uid": uid, "query": "a.example"}] for uid in uids]
    records += [[f"{uid} {WORDS}", COUNTS, [0, 60, 0]] for uid in uids]
    message = {
        "v": wire.WIRE_VERSION, "node": "zeek", "run": "run-1", "to": to, "seq": seq, "before": before,
        "finals": len(uids), "records": len(records), "now": 102.0, "last": last, "r": records,
    }  # fmt: skip
    return Event("observations", wire.OBSERVATIONS, json.dumps(message, separators=(",", ":")))


@pytest.fixture(params=["websocket", "broker"])
def setting(request: pytest.FixtureRequest) -> tuple[Any, Endpoint]:
    if request.param == "websocket":
        web = WebSocketPeer()
        url = f"ws://127.0.0.1:{web.port}/v1/messages/json"
        return web, Endpoint(url=url, topic_events="observations", topic_verdicts="verdicts")
    try:
        from cmdana_plugin.endpoint.broker import bindings

        module = bindings()
    except TransportError as absent:
        pytest.skip(str(absent))
    peer = BrokerPeer(module)
    return peer, Endpoint(
        transport="broker",
        broker_port=peer.port,
        broker_ssl=False,
        topic_events="observations",
        topic_verdicts="verdicts",
    )


def test_observations_in_verdicts_out_and_the_end_is_answered(setting: tuple[Any, Endpoint]) -> None:
    peer, settings = setting
    with running(peer):
        live = Live(settings, judge(Config()), make_transport(settings, "1.0"), lambda _: None)
        live.start()
        try:
            wait_for(lambda: any(e.name == wire.ALIVE for e in peer.received), "the hello")
            to = instance_of(peer)
            peer.publish(observations(to, 1, ["C1", "C2"], 0))
            peer.publish(observations(to, 3, ["C5"], 4, last=True))

            def finished() -> bool:
                step(live, 0.1)
                return live.session.finished

            wait_for(finished, "the end to be reached")
            answers = [json.loads(e.payload) for e in peer.received if e.name == wire.VERDICTS]
            wait_for(
                lambda: any('"finished":"run-1"' in e.payload for e in peer.received),
                "the end to be answered",
            )
        finally:
            live.leave()
    answers = [json.loads(e.payload) for e in peer.received if e.name == wire.VERDICTS]
    assert [uid for a in answers for uid in a["uid"]] == ["C1", "C2", "C5"]
    assert [o["verdict"] for a in answers for o in a["odd"]] == ["anomalous"] * 3
    assert {m for a in answers for m in a["modalities"]} == {7}  # packet, connection and log
    assert next(n["note"] for a in answers for n in a["notices"]) == "CMDANA::Anomalous_Connection"
    assert live.session.judged == 3
    assert live.session.lost == 2
    wait_for(lambda: '"leaving":true' in peer.received[-1].payload, "the goodbye")
    last = wire.decode_alive(peer.received[-1].payload)
    assert (last.leaving, last.judged, last.lost) == (True, 3, 2)


def test_a_detector_has_run_once_before_the_first_connection_comes_and_the_one_that_judges_has_not() -> None:
    made: list[Recorder] = []

    def load() -> Judge:
        made.append(Recorder())
        return Judge(made[-1], Config())

    nobody = Config(endpoint=Endpoint(url=f"ws://127.0.0.1:{free_port()}/", authentication="none"))
    assert run(nobody, load, until=lambda: True, notify=lambda _: None) == 0
    warmed, judges = made
    assert warmed.received
    assert warmed.explained
    assert not judges.received


@pytest.mark.parametrize(("quiet", "lines"), [(False, True), (True, False)])
def test_a_line_of_counts_is_told_every_so_often_unless_quiet_is_wanted(quiet: bool, lines: bool) -> None:
    told: list[str] = []
    nobody = Endpoint(url=f"ws://127.0.0.1:{free_port()}/", authentication="none", counts_seconds=0.1)
    steps = iter(range(4))
    run(
        Config(endpoint=nobody), lambda: judge(Config()), until=lambda: next(steps, None) is None,
        notify=told.append, quiet=quiet,
    )  # fmt: skip
    assert any("0 connections told, 0 judged, 0 odd verdicts, 0 notices" in line for line in told) is lines
    assert any('authentication = "none": whoever reaches' in line for line in told)
