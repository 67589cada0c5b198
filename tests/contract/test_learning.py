"""`cmdana train --live` beside a stand-in for Zeek: it says that it learns, judges meanwhile, and resumes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import WebSocketPeer, instance_of, running, wait_for

from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.wire import Event
from cmdana_plugin.training.spool import Spool

pytestmark = pytest.mark.slow

START = 1_763_769_600.0
STEP = 5.0  # seconds of network time from connection to connection


def observations(to: str, seq: int, first: int, n: int) -> Event:
    records: list[Any] = []
    for i in range(first, first + n):
        ts, sent, got = START + STEP * i, 40 + i % 9, 300 + i % 50
        records.append(
            ["dns", {"ts": ts, "uid": f"C{i}", "query": f"host{i % 20}.example", "qtype_name": "A"}]
        )
        records.append(
            [
                f"C{i} 10.0.0.{i % 12 + 2} 10.0.0.1 SF Dd dns {ts} {ts + 0.02} 0.02",
                [1, 40000 + i % 9000, 53, 17, 0, 1, sent + 28, 1, got + 28, 0, sent, got],
                [0, sent + 28, 0, 20_000, sent + 28, got + 28],
            ]
        )  # fmt: skip
    message = {
        "v": wire.WIRE_VERSION, "node": "zeek", "run": "run-1", "to": to, "seq": seq, "before": first, "finals": n,
        "records": len(records), "now": START + STEP * (first + n), "last": False, "r": records,
    }  # fmt: skip
    return Event("observations", wire.OBSERVATIONS, json.dumps(message, separators=(",", ":")))


def learn(folder: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "cmdana_plugin.cli", "train", "--live", "30m", "--out", "site.safetensors",
        "--config", "plugin.toml",
        "--epochs", "1",
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def verdicts(peer: WebSocketPeer) -> list[dict[str, Any]]:
    answers = [json.loads(e.payload) for e in list(peer.received) if e.name == wire.VERDICTS]
    return [
        dict(zip(("uid", "p_value", "score"), row, strict=True)) | {"model": a["model"]}
        for a in answers
        for row in zip(a["uid"], a["p_value"], a["score"], strict=True)
    ]


@pytest.mark.timeout(600)
def test_a_learning_phase_is_seen_judges_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    peer = WebSocketPeer(secret=bytes(range(32)))
    (tmp_path / "secret").write_text(bytes(range(32)).hex())
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "plugin.toml").write_text(
        f'[endpoint]\nurl = "ws://127.0.0.1:{peer.port}/v1/messages/json"\n'
        'topic_events = "observations"\ntopic_verdicts = "verdicts"\nsecret_file = "secret"\n'
    )
    with running(peer):
        process = learn(tmp_path)
        wait_for(peer.subscribed, "the learner", 300)
        to = instance_of(peer)
        for k in range(2):
            peer.publish(observations(to, k + 1, 100 * k, 100))
        wait_for(lambda: len(verdicts(peer)) == 200, "its verdicts", 300)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert out == ""
        last = err.splitlines()[-1]
        assert last.startswith("cmdana: site.safetensors.learning: stopped at 5")
        assert "200 connections; the same command goes on from there" in last
        assert not (tmp_path / "site.safetensors").exists()
        spool = Spool(tmp_path / "site.safetensors.learning")
        assert spool.connections == sum(len(w) for w in spool.windows()) == 200
        spool.close()

        wait_for(lambda: not peer.subscribed(), "the stopped learner to be gone")
        said = verdicts(peer)
        peer.received.clear()
        process = learn(tmp_path)
        wait_for(peer.subscribed, "the learner again", 300)
        to = instance_of(peer)
        for k in range(2, 6):
            peer.publish(observations(to, k + 1, 100 * k, 100))
        out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "cmdana: goes on learning: 5" in err
    assert "until `cmdana run` starts, Zeek's connections are not judged" in err
    assert "learned from" in out
    assert "dns" in out
    assert (tmp_path / "site.safetensors").exists()
    assert not (tmp_path / "site.safetensors.learning").exists()
    said += verdicts(peer)
    assert all(v["score"] > 0 or v["p_value"] == 1.0 for v in said)
    assert len({v["p_value"] for v in said}) > 10
    assert {v["model"].split(" (")[1].split(",")[0] for v in said} == {"learning"}
    assert said[-1]["model"] != said[0]["model"]
