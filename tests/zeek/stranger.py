"""Any local user at Zeek's WebSocket: `stranger.py PORT WHAT`; becomes nobody before it says a word."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - nobody may be unable to read the interpreter's files
import hashlib
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NOBODY = 65534
OBSERVATIONS, VERDICTS = "zeek/cmdana/observations", "zeek/cmdana/verdicts"
ALIVE = f"{VERDICTS}/alive"
V = 7
COLUMNS = {
    "ts": 1.7e9, "orig_h": "192.0.2.1", "orig_p": 1, "resp_h": "192.0.2.2", "resp_p": 443, "proto": 1, "service": "ssl",
    "community_id": "x", "stage": 1, "score": 0.1, "p_value": 0.9, "packet_reliance": 0.25,
    "connection_reliance": 0.25, "log_reliance": 0.25, "state_reliance": 0.25, "modalities": 7,
}  # fmt: skip
NOTICE = {"ts": 1.7e9, "note": "CMDANA::Known_Attack", "msg": "forged", "sub": "forged", "identifier": "x",
          "src": "8.8.8.8", "dst": "10.0.0.1", "fields": {}}  # fmt: skip


class Stranger:
    """One connection, and what has been heard on it."""

    def __init__(self, port: int, name: str = "cmdana/0.1.0") -> None:
        self.connection: ClientConnection = connect(
            f"ws://127.0.0.1:{port}/v1/messages/json", max_size=None, compression=None, ping_interval=None,
            additional_headers={"X-Application-Name": name},
        )  # fmt: skip
        self.connection.send(json.dumps(["zeek/cmdana/"]))
        self.connection.recv()

    def listen(self, seconds: float) -> list[tuple[str, str, str]]:
        """Topic, event and argument of all that is said."""
        heard = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                frame = json.loads(self.connection.recv(timeout=0.2))
                if frame["type"] == "data-message":
                    name, arguments = (part["data"] for part in frame["data"][2]["data"])
                    heard.append((frame["topic"], name, arguments[0]["data"]))
        return heard

    def publish(self, topic: str, name: str, *arguments: Any) -> None:
        self.send(self.frame(topic, name, *arguments))

    def frame(self, topic: str, name: str, *arguments: Any) -> str:
        told = [a if isinstance(a, dict) else {"@data-type": "string", "data": a} for a in arguments]
        event = [{"@data-type": "string", "data": name}, {"@data-type": "vector", "data": told}]
        one = {"@data-type": "count", "data": 1}
        data = [one, one, {"@data-type": "vector", "data": event}]
        return json.dumps({"type": "data-message", "topic": topic, "@data-type": "vector", "data": data})

    def send(self, frame: str) -> None:
        self.connection.send(frame)


def every_way(name: str, message: str) -> list[str]:
    """Without a seal, with one of chance, of another secret, of an empty one, and with the seal of another kind."""
    marks = ["", "0" * 64, "f" * 64]
    for secret in (b"", bytes(32), b"cmdana"):
        key = hmac.digest(secret, b"cmdana detector", hashlib.sha256)
        marks.append(hmac.digest(key, name.encode() + message.encode(), hashlib.sha256).hex())
    return [mark + message for mark in marks]


def forge(s: Stranger) -> None:
    """Verdicts and a notice."""
    columns = {name: [value] for name, value in COLUMNS.items()}
    answer = {"v": V, "instance": instance(s), "n": 10**9, "finals": 1, "earlies": 0, "model": "m",
              "threshold": 0.5, "uid": ["Cforged"], **columns, "odd": [], "notices": [NOTICE]}  # fmt: skip
    for words in every_way("CMDANA::verdicts", json.dumps(answer)):
        s.publish(VERDICTS, "CMDANA::verdicts", words)
    ragged = answer | {"finals": 10**18, "ts": []}
    s.publish(VERDICTS, "CMDANA::verdicts", json.dumps(ragged))


def takeover(s: Stranger) -> None:
    """Another detector, one that leaves, and the one that is there under its own name."""
    heard = s.listen(2.5)
    runs = sorted({m[1] for _, _, words in heard for m in re.finditer(r'"run":"([^"]+)"', words)})
    for name in ("evil", "", "x" * 5000, instance(s)):
        for leaving in (False, True):
            alive = {"v": V, "instance": name, "n": 10**9, "cmdana": "0.1.0", "model": "none", "schema": "",
                     "judged": 0, "lost": 0, "finished": "", "streams": [], "brief": [],
                     "leaving": leaving, "runs": runs, "endpoint": ""}  # fmt: skip
            for words in every_way("CMDANA::alive", json.dumps(alive)):
                s.publish(ALIVE, "CMDANA::alive", words)


def repeat(s: Stranger) -> None:
    """What Zeek and the detector have said, again, cut short, with a key said twice, and as what it was not."""
    heard = s.listen(3.0)
    assert {name for _, name, _ in heard} >= {"CMDANA::observations", "CMDANA::verdicts", "CMDANA::alive"}
    for topic, name, words in [*heard, *reversed(heard)]:
        s.publish(topic, name, words)
    for topic, name, words in heard[:200]:
        for changed in (
            words[:-1], words[: len(words) // 2], words[64:], words[:64], words[1:], words + " ", words + "}",
            words[:-1] + ',"n":999999999}', words[:64] + '{"v":8,' + words[65:], words.replace('"seq":', '"seq":1'),
        ):  # fmt: skip
            s.publish(topic, name, changed)
        for other in ("CMDANA::verdicts", "CMDANA::alive", "CMDANA::observations", "CMDANA::welcome"):
            s.publish(topic, other, words)
            s.publish(VERDICTS, other, words)


def lost(s: Stranger) -> None:
    """Connections that never were."""
    for i in range(4):
        for before in (0, 2**63 - 1):
            message = batch(s, run=f"x{i}", seq=1 + (before > 0), before=before)
            for words in every_way("CMDANA::observations", message):
                s.publish(OBSERVATIONS, "CMDANA::observations", words)


def blind(s: Stranger) -> None:
    """A number far ahead for each run that is there."""
    heard = s.listen(2.5)
    runs = {m[1] for _, _, words in heard for m in re.finditer(r'"run":"([^"]+)"', words)}
    assert runs
    for run in runs:
        for seq in (2**63 - 1, 10**6, 2**31):
            for words in every_way("CMDANA::observations", batch(s, run=run, seq=seq)):
                s.publish(OBSERVATIONS, "CMDANA::observations", words)


def shutdown(s: Stranger) -> None:
    """Events that end Zeek, or the detector for it."""
    topics = (VERDICTS, ALIVE, OBSERVATIONS, "zeek/supervisor", "zeek/control/zeek", "zeek/cluster/nodeid/x/")
    heard = s.listen(2.5)
    endpoints = {m[1] for _, _, words in heard for m in re.finditer(r'"endpoint":"([^"]+)"', words)}
    assert endpoints
    for topic in topics:
        for name in (
            "Control::shutdown_request", "Control::terminate_event", "SupervisorControl::stop_request", "zeek_done",
            "CMDANA::check_detector", "CMDANA::flush_due", "Control::configuration_update_request",
        ):  # fmt: skip
            s.publish(topic, name)
        s.publish(topic, "CMDANA::detector_lost", "it was stopped")
        s.publish(topic, "Control::id_value_request", "CMDANA::key_from_detector")
        for endpoint in endpoints:
            network = vector(string("127.0.0.1"), port("1/tcp"))
            info = vector(string(endpoint), network, string("cmdana/0.1.0"))
            s.publish(topic, "Cluster::websocket_client_lost", info, count(1000), string(""))


def kill(s: Stranger) -> None:
    """Messages that no reader should have to bear."""
    for words in (
        '{"v":8,"now":' + "9" * 5000 + "}", '{"v":8,"now":1e999}', "[" * 100_000, '{"a":' * 100_000, "\ud800", "", "{",
        '{"v":8,"seq":' + "1" + "0" * 400 + "}", "x" * 3_000_000, "0" * 64, "0" * 64 + '{"v":8}', "\x00" * 100,
    ):  # fmt: skip
        for topic, name in (
            (OBSERVATIONS, "CMDANA::observations"), (OBSERVATIONS, "CMDANA::welcome"),
            (VERDICTS, "CMDANA::verdicts"), (ALIVE, "CMDANA::alive"),
        ):  # fmt: skip
            s.publish(topic, name, words)
    s.send('{"type":' + "9" * 5000 + "}")
    s.send("[" * 10_000)
    s.send("")


def crowd(s: Stranger) -> None:
    """Comes and goes under the detector's name."""
    port_of = s.connection.remote_address[1]
    for _ in range(5):
        other = Stranger(port_of)
        other.connection.close()


def batch(s: Stranger, **changes: Any) -> str:
    return json.dumps(
        {"v": V, "node": "z", "run": "x", "to": instance(s), "seq": 1, "before": 0, "finals": 0, "records": 0,
         "now": 1.0, "last": False, "r": []} | changes, separators=(",", ":"),
    )  # fmt: skip


_INSTANCE: list[str] = []


def instance(s: Stranger) -> str:
    """That of the detector that is there, as anybody hears it."""
    if not _INSTANCE:
        for _, name, words in s.listen(2.5):
            found = re.search(r'"instance":"([^"]+)"', words)
            if name == "CMDANA::alive" and found:
                _INSTANCE.append(found[1])
    return _INSTANCE[0]


def string(text: str) -> dict[str, Any]:
    return {"@data-type": "string", "data": text}


def count(n: int) -> dict[str, Any]:
    return {"@data-type": "count", "data": n}


def port(text: str) -> dict[str, Any]:
    return {"@data-type": "port", "data": text}


def vector(*values: dict[str, Any]) -> dict[str, Any]:
    return {"@data-type": "vector", "data": list(values)}


KINDS: dict[str, Callable[[Stranger], None]] = {
    f.__name__: f for f in (forge, takeover, repeat, lost, blind, shutdown, kill, crowd)
}

if __name__ == "__main__":
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    assert os.geteuid() != 0
    stranger = Stranger(int(sys.argv[1]))
    KINDS[sys.argv[2]](stranger)
    with contextlib.suppress(ConnectionClosed):
        stranger.listen(2.0)  # until Zeek has taken it all
    stranger.connection.close()
    print("done")
