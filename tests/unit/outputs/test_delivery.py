"""Events reach their receivers over real sockets: framed, signed, again where they could not, once where asked."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import exported
import pytest

from cmdana_plugin.outputs import Order, export, roads
from cmdana_plugin.outputs.delivery import Counts, Sender, Waiting, backoff
from cmdana_plugin.outputs.roads import Later, Refused, in_the_open, road_to
from feature_extractors import CmdanaError

KEY = bytes(range(32))
HOW_MANY = len(exported.rows())


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return exported.written(tmp_path / "logs", exported.rows())


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses that it is told to, then 204; keeps what came."""

    statuses: list[int]
    came: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 204
        self.came.append((dict(self.headers.items()), body))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiver(*statuses: int) -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("Kind", (Receiver,), {"statuses": list(statuses), "came": []})
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook?x=1", kind
        server.shutdown()
        thread.join()


def test_a_webhook_gets_every_event_signed(logs: Path) -> None:
    with receiver() as (url, kind):
        counts = export(Order([logs], "ecs", url, key=KEY), print, follow=False)
    assert counts == Counts(sent=HOW_MANY)
    for headers, body in kind.came:
        signed = headers["X-Cmdana-Timestamp"].encode() + b"." + body
        assert headers["X-Cmdana-Signature"] == "sha256=" + hmac.new(KEY, signed, hashlib.sha256).hexdigest()
        assert abs(int(headers["X-Cmdana-Timestamp"]) - time.time()) < 300
        assert json.loads(body)["event"]["module"] == "cmdana"


def test_what_cannot_be_taken_now_is_sent_again_and_what_is_refused_is_not(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdana_plugin.outputs.delivery.backoff", lambda _tried: 0.0)
    said: list[str] = []
    with receiver(503, 429, 204, 400, 302) as (url, kind):
        counts = export(Order([logs], "ocsf", url), said.append, follow=False)
    assert (counts.sent, counts.refused, counts.retries) == (HOW_MANY - 2, 2, 2)
    assert len(kind.came) == HOW_MANY + 2
    assert "status 400" in " ".join(said)
    assert "X-Cmdana-Signature" not in kind.came[0][0]


def test_nobody_there_is_one_line_after_some_attempts(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdana_plugin.outputs.delivery.backoff", lambda _tried: 0.0)
    with pytest.raises(CmdanaError, match=r"127\.0\.0\.1:1: Connection refused; 0 events sent, 5 attempts"):
        export(Order([logs], "syslog", "tcp://127.0.0.1:1"), print, follow=False)


def test_an_earlier_run_is_remembered(logs: Path, tmp_path: Path) -> None:
    remember = tmp_path / "sent.json"
    with receiver() as (url, _):
        first = export(Order([logs], "ecs", url, remember=remember), print, follow=False)
        again = export(Order([logs], "ecs", url, remember=remember), print, follow=False)
    assert (first.sent, again.sent, again.known) == (HOW_MANY, 0, HOW_MANY)
    remember.write_text("{")
    with pytest.raises(CmdanaError, match=r"sent\.json: found no list of events sent"):
        export(Order([logs], "ecs", str(tmp_path / "x"), remember=remember), print, follow=False)


def taken(listener: socket.socket, tls: ssl.SSLContext | None, into: list[bytes]) -> None:
    plain, _ = listener.accept()
    with tls.wrap_socket(plain, server_side=True) if tls else plain as s:
        while chunk := s.recv(65536):
            into.append(chunk)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_syslog_over_a_stream_is_framed_by_its_length(logs: Path, tmp_path: Path, scheme: str) -> None:
    tls = None
    if scheme == "tls":
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem",
            ],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=taken, args=(listener, tls, came))
        thread.start()
        to = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        export(
            Order([logs], "syslog", to, ca_file=tmp_path / "cert.pem" if tls else None), print, follow=False
        )
        thread.join(20)
    rest = b"".join(came)
    messages = []
    while rest:
        length, _, rest = rest.partition(b" ")
        messages.append(rest[: int(length)])
        rest = rest[int(length) :]
    assert len(messages) == HOW_MANY
    assert all(m.startswith(b"<") for m in messages)


def test_a_certificate_of_nobody_known_is_not_believed(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="--ca-file"):
        road_to("tls://127.0.0.1", frame=bytes, content_type="", ca_file=tmp_path / "none.pem")


def test_datagrams_go_one_by_one(logs: Path, tmp_path: Path) -> None:
    for family, where, to in (
        (socket.AF_INET, ("127.0.0.1", 0), "udp://127.0.0.1:{}"),
        (socket.AF_UNIX, str(tmp_path / "log"), f"unix://{tmp_path}/log"),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.bind(where)
            s.settimeout(10)
            counts = export(Order([logs], "syslog", to.format(s.getsockname()[1])), print, follow=False)
            came = [s.recv(65536) for _ in range(counts.sent)]
        assert len(came) == HOW_MANY
        assert all(len(c) <= 2048 for c in came)
    big = roads.Datagrams(socket.AF_INET, ("127.0.0.1", 9))
    with pytest.raises(Refused):
        big.send(b"x" * 70_000)


def test_a_lost_connection_is_opened_anew() -> None:
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        road = road_to(f"tcp://127.0.0.1:{listener.getsockname()[1]}", frame=lambda e: e, content_type="")
        road.send(b"first")
        one, _ = listener.accept()
        came.append(one.recv(10))
        one.close()
        until(lambda: _gone(road))
        road.send(b"second")
        two, _ = listener.accept()
        came.append(two.recv(10))
        two.close()
        road.close()
    assert came == [b"first", b"second"]


def _gone(road: Any) -> bool:
    return bool(road._gone(road._socket))


def until(done: Callable[[], object]) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come")


def test_who_follows_gets_what_is_there_and_what_comes_once_each(tmp_path: Path) -> None:
    """Through a rotation, into a file that is moved away as well; ends as with Ctrl-C."""
    folder, out = tmp_path / "logs", tmp_path / "out.ndjson"
    exported.written(folder, exported.rows()[:2])
    wait = threading.Event()
    ended: list[Counts] = []

    def follow() -> None:
        order = Order([folder], "ecs", str(out), remember=tmp_path / "sent")
        with suppress(KeyboardInterrupt):
            ended.append(export(order, print, follow=True))

    with pytest.MonkeyPatch.context() as patch:
        real = Waiting.get

        def get(self: Waiting, seconds: float) -> Any:
            if wait.is_set():
                raise KeyboardInterrupt
            return real(self, min(seconds, 0.05))

        patch.setattr(Waiting, "get", get)
        patch.setattr("cmdana_plugin.analyst.alerts._POLL_SECONDS", 0.01)
        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == 2)
        (folder / "notice.log").rename(folder / "notice.2025-11-22-00-00-00.log")
        out.rename(tmp_path / "out.1")
        exported.written(folder, exported.rows()[2:])
        until(lambda: out.exists() and out.read_bytes().count(b"\n") == HOW_MANY - 2)
        wait.set()
        thread.join(20)
    assert ended == [Counts(sent=HOW_MANY)]
    text = (tmp_path / "out.1").read_text() + out.read_text()
    assert len({json.loads(line)["event"]["id"] for line in text.splitlines()}) == HOW_MANY
    assert len(json.loads((tmp_path / "sent").read_text())) == HOW_MANY


def test_a_log_that_cannot_be_followed_ends_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notice.log").write_text("no log at all\n" * 3)
    with pytest.raises(CmdanaError, match=r"notice\.log: no Zeek log: found 'no log at all'"):
        export(Order([tmp_path], "ecs", str(tmp_path / "out")), print, follow=True)


def test_a_queue_that_is_full_drops_the_oldest_and_counts_it() -> None:
    counts = Counts()
    waiting = Waiting(counts, most=3)
    for i in range(5):
        waiting.put((str(i), b""))
    assert [waiting.get(0) for _ in range(4)] == [("2", b""), ("3", b""), ("4", b""), None]
    assert counts.dropped == 2
    waiting.most_bytes = 10
    for i in range(4):
        waiting.put((str(i), b"1234"))
    assert [waiting.get(0) for _ in range(3)] == [("2", b"1234"), ("3", b"1234"), None]
    assert counts.dropped == 4


def test_attempts_come_later_and_later_and_as_late_as_the_receiver_asks() -> None:
    spans = [backoff(tried, lambda: 1.0) for tried in range(1, 12)]
    assert spans == sorted(spans)
    assert spans[0] == 1.0
    assert spans[-1] == backoff(10_000, lambda: 1.0) == 60.0
    assert backoff(3, lambda: 0.0) == backoff(3, lambda: 1.0) / 2

    class Busy:
        left = 2

        def send(self, _event: bytes) -> None:
            if self.left:
                self.left -= 1
                raise Later("status 503", 1e9)

        def close(self) -> None:
            pass

    waits: list[float] = []
    said: list[str] = []
    assert Sender(Busy(), Counts(), said.append, wait=waits.append).send(b"x")
    assert waits == [300.0, 300.0]
    assert said == ["cannot send: status 503; goes on trying", "sends again"]


@pytest.mark.parametrize(("to", "words"), [
    ("gopher://x", "found gopher://"), ("tcp://", "no host"), ("tcp://h:99999", "Port"), ("tls://h/x", "found a path"),
    ("https://me:secret@h/", "a user"), ("unix://h/x", "unix:///dev/log"),
])  # fmt: skip
def test_an_address_that_is_none_is_named(to: str, words: str) -> None:
    with pytest.raises(CmdanaError, match=words):
        road_to(to, frame=bytes, content_type="")


@pytest.mark.parametrize(("to", "open_"), [
    ("udp://siem:514", True), ("http://10.0.0.1/x", True), ("tcp://127.0.0.1", False), ("http://localhost/", False),
    ("udp://[::1]:514", False), ("https://siem/", False), ("tls://siem", False), ("file.json", False), ("-", False),
])  # fmt: skip
def test_what_leaves_unencrypted_is_known(to: str, open_: bool) -> None:
    assert in_the_open(to) == open_


def test_a_file_that_is_there_is_not_written_over(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CmdanaError, match="--force"):
        export(Order([logs], "ecs", str(out)), print, follow=False)
    assert out.read_text() == "mine"
    with pytest.raises(CmdanaError, match=r"no notice\.log there"):
        export(Order([tmp_path / "empty"]), print, follow=False)
