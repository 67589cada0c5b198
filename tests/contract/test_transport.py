"""What every transport promises, held against each of them; then what is particular to one."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import BrokerPeer, WebSocketPeer, free_port, running, wait_for

from cmdana_plugin.endpoint import broker as broker_transport
from cmdana_plugin.endpoint.broker import BrokerTransport, bindings
from cmdana_plugin.endpoint.seal import Seal
from cmdana_plugin.endpoint.transport import Disconnected, Drain, Inbox, Transport, TransportError
from cmdana_plugin.endpoint.websocket import WebSocketTransport
from cmdana_plugin.endpoint.wire import Event, PeerError, WireError, decode_ack, decode_frame, encode_frame
from feature_extractors.frames import Counts

FRAMES = Path(__file__).parents[3] / "shared" / "zeek" / "frames.jsonl"
PAYLOADS = {
    "empty": "",
    "json": '{"v":1,"r":[["c",1]]}',
    "quotes and backslashes": 'a"b\\c\\xff\\"',
    "control characters": "line\nfeed\ttab\x00nul\x7f",
    "beyond the basic plane": "\u00e9 \u4e2d \U0001f43e",
    "looks like a frame": '{"type":"error","code":"x","context":"y"}',
    "300 KiB": "x" * 300 * 1024,
}


class Pair:
    """One transport with the peer that it is made for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.peer: Any = WebSocketPeer() if kind == "websocket" else BrokerPeer(_broker())

    def transport(self, port: int | None = None) -> Transport:
        port = port or self.peer.port
        if self.kind == "websocket":
            return WebSocketTransport(f"ws://127.0.0.1:{port}/v1/messages/json", "observations", "1.0")
        return BrokerTransport("127.0.0.1", port, "observations", ssl=False)


def _broker() -> Any:
    try:
        return bindings()
    except TransportError as absent:
        pytest.skip(str(absent))


@pytest.fixture(params=["websocket", "broker"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(request.param)
    with running(pair.peer):
        yield pair


@pytest.fixture
def opened(pair: Pair) -> Iterator[tuple[Transport, Any]]:
    transport = pair.transport()
    transport.open()
    wait_for(pair.peer.subscribed, "the subscription")
    yield transport, pair.peer
    transport.close()


def gather(transport: Transport, n: int) -> list[Any]:
    received: list[Any] = []

    def enough() -> bool:
        received.extend(transport.receive(0.1))
        return len(received) >= n

    wait_for(enough, f"{n} events")
    return received


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_what_zeek_publishes_arrives_unchanged(opened: tuple[Transport, Any], payload: str) -> None:
    transport, peer = opened
    event = Event("observations", "CMDANA::observations", payload)
    peer.publish(event)
    assert gather(transport, 1) == [event]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_what_we_send_arrives_unchanged(opened: tuple[Transport, Any], payload: str) -> None:
    transport, peer = opened
    event = Event("verdicts/alive", "CMDANA::alive", payload)
    transport.send(event)
    wait_for(lambda: peer.received, "the event")
    assert peer.received == [event]


def test_two_thousand_events_arrive_in_order(opened: tuple[Transport, Any]) -> None:
    transport, peer = opened
    sent = [Event("observations/worker-1", "CMDANA::observations", str(k)) for k in range(2000)]
    for event in sent:
        peer.publish(event)
    assert gather(transport, 2000) == sent


def test_other_topics_and_events_of_others_do_not_arrive(opened: tuple[Transport, Any]) -> None:
    transport, peer = opened
    peer.publish(Event("elsewhere", "CMDANA::observations", "1"))
    peer.publish_foreign("observations")
    peer.publish(Event("observations", "CMDANA::observations", "3"))
    assert [event.payload for event in gather(transport, 1)] == ["3"]


def test_receive_gives_nothing_when_nothing_came(opened: tuple[Transport, Any]) -> None:
    assert list(opened[0].receive(0.05)) == []


def test_a_peer_that_is_gone_is_noticed_and_can_be_opened_again(pair: Pair) -> None:
    transport = pair.transport()
    transport.open()
    wait_for(pair.peer.subscribed, "the subscription")
    pair.peer.drop()

    def gone() -> bool:
        try:
            transport.receive(0.1)
        except Disconnected:
            return True
        return False

    wait_for(gone, "the loss to be noticed")
    transport.close()
    with pytest.raises(Disconnected):
        transport.send(Event("verdicts", "CMDANA::verdicts", "lost"))
    transport.open()
    wait_for(pair.peer.subscribed, "the subscription")
    pair.peer.publish(Event("observations", "CMDANA::observations", "again"))
    assert [event.payload for event in gather(transport, 1)] == ["again"]
    transport.close()


def test_where_nobody_listens_a_line_says_where_and_what_to_look_at(pair: Pair) -> None:
    port = free_port()
    with pytest.raises(TransportError, match=rf"127\.0\.0\.1:{port}.*does.*Zeek run.*cmdana/listen-"):
        pair.transport(port).open()


def test_a_port_that_accepts_and_says_nothing_is_given_up_in_time(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdana_plugin.endpoint.broker._CONNECT_SECONDS", 1.0)
    monkeypatch.setattr("cmdana_plugin.endpoint.websocket._OPEN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = pair.transport(silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(TransportError, match=r"no peering|no WebSocket handshake"):
            transport.open()
        assert time.monotonic() - start < 8  # Broker gives a shutdown five seconds


def test_close_may_come_at_any_time_and_twice(pair: Pair) -> None:
    transport = pair.transport()
    transport.close()
    transport.open()
    transport.close()
    transport.close()
    with pytest.raises(Disconnected):
        transport.receive(0.0)


def test_the_drain_says_hello_on_every_connection_and_loses_nothing_that_came(pair: Pair) -> None:
    counts, told = Counts(), []
    inbox = Inbox(1000, counts)
    hello = Event("verdicts/alive", "CMDANA::alive", '{"v":6}')
    # Not sooner back than the peer can see that it was gone.
    seal = Seal(None, "me")
    drain = Drain(
        pair.transport(),
        inbox,
        lambda _: [hello],
        lambda _: [],
        lambda: [],
        told.append,
        seal,
        reconnect=(1.0, 2.0),
    )
    drain.start()
    try:
        wait_for(lambda: len(pair.peer.received) == 1, "the first hello")
        assert pair.peer.received == [Event(hello.topic, hello.name, '{"v":6,"instance":"me","n":1}')]
        pair.peer.publish(Event("observations", "CMDANA::observations", "{1}"))
        wait_for(lambda: len(inbox) == 1, "the first event")
        pair.peer.drop()
        wait_for(lambda: len(pair.peer.received) == 2, "the second hello")
        wait_for(pair.peer.subscribed, "the subscription")
        pair.peer.publish(Event("observations", "CMDANA::observations", "{2}"))
        wait_for(lambda: len(inbox) == 2, "the second event")
    finally:
        drain.stop()
    assert drain.crashed is None
    assert drain.counts.by_reason["connects"] == 2
    assert any(line.startswith("lost ") for line in told)
    assert drain.send([hello]) == 0
    assert drain.counts.by_reason["events_unsent"] == 1


# The WebSocket alone.


def test_a_name_in_the_traffic_that_is_not_utf8_does_not_end_the_connection() -> None:
    with running(WebSocketPeer()) as peer:
        transport = Pair("websocket").transport(peer.port)
        transport.open()
        wait_for(peer.subscribed, "the subscription")
        frame = encode_frame(Event("observations", "CMDANA::observations", "A-B")).encode()
        peer.send_raw(frame.replace(b"A-B", b"A\xff\xfeB"), "observations")
        peer.publish(Event("observations", "CMDANA::observations", "after"))
        assert [e.payload for e in gather(transport, 2)] == ["A\\xff\\xfeB", "after"]
        transport.close()


def test_zeeks_complaints_arrive_as_such_and_frames_of_nobody_are_counted() -> None:
    with running(WebSocketPeer()) as peer:
        transport = WebSocketTransport(f"ws://127.0.0.1:{peer.port}/v1/messages/json", "observations", "1.0")
        transport.open()
        wait_for(peer.subscribed, "the subscription")
        transport.send(Event("verdicts", "No::such_event", ""))
        assert gather(transport, 1) == [
            PeerError("deserialization_failed", "failed to create Zeek event"),
        ]
        for frame in (b"not json", b"[]", b'{"type":"surprise"}', b'{"type":"data-message"'):
            peer.send_raw(frame, "observations")
        peer.publish(Event("observations", "CMDANA::observations", "after"))
        assert [e.payload for e in gather(transport, 1)] == ["after"]
        assert transport.refused_frames == 4
        assert peer.headers == ["cmdana/1.0"]
        transport.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_wss_works_with_the_right_authority_and_says_what_is_wrong_without(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    peer = WebSocketPeer()
    peer.start(server)
    try:
        url = f"wss://127.0.0.1:{peer.port}/v1/messages/json"
        transport = WebSocketTransport(url, "observations", "1.0", ca_file=str(cert))
        assert "8.2.2" in transport.open()
        transport.close()
        with pytest.raises(TransportError, match=r"wss://.*TLS fails.*certificate verify failed"):
            WebSocketTransport(url, "observations", "1.0").open()
        plain = WebSocketTransport(url.replace("wss", "ws"), "observations", "1.0")
        with pytest.raises(TransportError, match=r"no WebSocket handshake.*does Zeek expect TLS"):
            plain.open()
    finally:
        peer.stop()


def acknowledged(transport: WebSocketTransport, tries: int = 3) -> str:
    """What `open` says, tried again as the endpoint does.

    With TLS on both sides the handshake was seen to stall until its time was over, once in some twenty runs; one
    thread reads the connection then while another writes to it.
    """
    for _ in range(tries - 1):
        with contextlib.suppress(TransportError):
            return transport.open()
    return transport.open()


def test_a_zeek_that_asks_for_a_certificate_gets_ours_and_lets_in_nobody_without(
    certificate: tuple[Path, Path],
) -> None:
    cert, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(cert)
    server.verify_mode = ssl.CERT_REQUIRED
    peer = WebSocketPeer()
    peer.start(server)
    try:
        url = f"wss://127.0.0.1:{peer.port}/v1/messages/json"
        ours = WebSocketTransport(
            url, "observations", "1.0", ca_file=str(cert), cert_file=str(cert), key_file=str(key)
        )
        assert "8.2.2" in acknowledged(ours)
        ours.close()
        with pytest.raises(TransportError, match=r"TLS fails|no WebSocket handshake"):
            WebSocketTransport(url, "observations", "1.0", ca_file=str(cert)).open()
    finally:
        peer.stop()


def test_a_message_of_fragments_without_end_ends_the_connection_and_not_the_memory() -> None:
    with running(WebSocketPeer()) as peer:
        transport = Pair("websocket").transport(peer.port)
        transport.open()
        wait_for(peer.subscribed, "the subscription")
        (client,) = peer._clients
        client.socket.sendall(b"\x01\x01x")  # text, not final
        sent = 0

        def gone() -> bool:
            nonlocal sent
            with contextlib.suppress(OSError):
                sent += 1000
                client.socket.sendall(b"\x00\x00" * 1000)
            try:
                transport.receive(0.01)
            except Disconnected:
                return True
            return False

        wait_for(gone, "the connection to be ended", 30)
        assert sent < 5_000_000
        transport.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: WebSocketTransport("wss://h/", "t", "1", cert_file="/no/such"),
            r"\[endpoint\] cert_file: found without key_file",
        ),
        (
            lambda: WebSocketTransport("wss://h/", "t", "1", cert_file="/no/such", key_file="/no/such"),
            r"\[endpoint\] cert_file, key_file: /no/such",
        ),
        (
            lambda: WebSocketTransport("http://127.0.0.1/", "t", "1"),
            r"\[endpoint\] url: found 'http.*expected ws://",
        ),
        (
            lambda: WebSocketTransport("wss://h/", "t", "1", ca_file="/no/such"),
            r"\[endpoint\] ca_file: /no/such",
        ),
    ],
)
def test_what_can_never_work_is_refused_at_the_start(make: Any, words: str) -> None:
    with pytest.raises(TransportError, match=words):
        make()


@pytest.mark.skipif(not FRAMES.exists(), reason="needs the recorded frames of a real Zeek")
def test_every_recorded_frame_of_a_real_zeek_is_understood() -> None:
    frames = [json.loads(line) for line in FRAMES.read_text().splitlines()]
    from_zeek = [json.dumps(f["frame"]).encode() for f in frames if f["dir"] == "zeek"]
    assert decode_ack(from_zeek[0])[1] == "8.2.2"
    read = [decode_frame(frame) for frame in from_zeek[1:]]
    assert read[0] is None  # an event with another signature
    assert {e.context for e in read[1:] if isinstance(e, PeerError)} == {
        "failed to create Zeek event",
        "failed to decode JSON object",
    }
    assert len(read) == 5


def test_a_refusal_instead_of_the_acknowledgement_is_told_in_zeeks_words() -> None:
    with pytest.raises(WireError, match="Invalid URI"):
        decode_ack(b'{"type":"error","code":"invalid_uri","context":"Invalid URI - use /v1/messages/json"}')


# Broker alone.


def test_absent_bindings_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "broker", None)
    monkeypatch.setattr(broker_transport, "_PLACES", ())
    with pytest.raises(
        TransportError, match=r"found no Python bindings.*zeek-config --python_dir.*websocket"
    ):
        bindings()


def test_another_package_named_broker_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker.py").write_text("'''A message queue.'''\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broker", raising=False)
    try:
        with pytest.raises(TransportError, match=r"another package named 'broker'.*uninstall"):
            bindings()
    finally:
        sys.modules.pop("broker", None)
