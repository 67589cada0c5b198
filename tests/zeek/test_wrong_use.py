"""Wrong use of a real Zeek and of the endpoint beside it: a clear line where the operator looks."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import SCRIPTS, WATCHED, Endpoint, Program, Zeek, can_make_namespaces, namespace, wait_for

from cmdana_plugin.endpoint.broker import bindings
from cmdana_plugin.endpoint.transport import TransportError

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
]
WSS = "wss://127.0.0.1:27759/v1/messages/json"
WS = WSS.replace("wss", "ws")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a certificate of it for 127.0.0.1, and a second authority that signed nothing."""
    folder = tmp_path_factory.mktemp("pem")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=zeek", "-keyout", "key.pem", "-out", "zeek.csr"
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "zeek.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")  # fmt: skip
    return folder


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace() as name:
        yield name


def tried(ns: str, folder: Path, zeek: dict[str, Any], endpoint: str, words: str) -> None:
    """Starts both and waits until the endpoint says `words`; Zeek goes on."""
    options = [f"{name}={value}" for name, value in zeek.items() if name != "listen"]
    program = Zeek(ns, folder / "zeek", *options, listen=zeek.get("listen", "listen-websocket"))
    peer = Endpoint(ns, folder / "endpoint", config=f"[endpoint]\nreconnect_max = 1.0\n{endpoint}")
    try:
        wait_for(lambda: words in peer.said(), f"{words!r} in {peer.said()!r}", 60)
        assert program.process.poll() is None
    finally:
        peer.stop(signal.SIGKILL)
        program.stop(signal.SIGKILL)


def wss(pem: Path) -> dict[str, Any]:
    return {"CMDANA::websocket_cert_file": pem / "cert.pem", "CMDANA::websocket_key_file": pem / "key.pem"}


def test_wss_with_the_right_authority_is_welcomed(ns: str, tmp_path: Path, pem: Path) -> None:
    tried(ns, tmp_path, wss(pem), f'url = "{WSS}"\nca_file = "{pem}/ca.pem"\n', "welcomes us")


@pytest.mark.parametrize(
    ("secured", "url", "authority", "words"),
    [
        (True, WS, "", "does Zeek expect TLS here (wss://)?"),
        (True, WSS, "other.pem", "certificate verify failed"),
        (True, WSS, "", "certificate verify failed"),
        (False, WSS, "ca.pem", "does Zeek offer TLS here"),
    ],
    ids=["ws to wss", "another authority", "the system's authorities", "wss to ws"],
)
def test_a_tls_mismatch_over_the_websocket_is_named(
    ns: str, tmp_path: Path, pem: Path, secured: bool, url: str, authority: str, words: str
) -> None:
    settings = f'url = "{url}"\n' + (f'ca_file = "{pem / authority}"\n' if authority else "")
    tried(ns, tmp_path, wss(pem) if secured else {}, settings, words)


def own(pem: Path, of: str = "ca") -> str:
    return f'url = "{WSS}"\nca_file = "{pem}/{of}.pem"\ncert_file = "{pem}/cert.pem"\nkey_file = "{pem}/key.pem"\n'


def test_where_zeek_asks_for_a_certificate_ours_is_welcomed(ns: str, tmp_path: Path, pem: Path) -> None:
    tried(ns, tmp_path, wss(pem) | {"CMDANA::websocket_ca_file": pem / "ca.pem"}, own(pem), "welcomes us")


@pytest.mark.parametrize("certificate", ["none", "another authority's"])
def test_where_zeek_asks_for_a_certificate_nobody_comes_in_without(
    ns: str, tmp_path: Path, pem: Path, certificate: str
) -> None:
    asks = wss(pem) | {
        "CMDANA::websocket_ca_file": pem / ("ca.pem" if certificate == "none" else "other.pem")
    }
    settings = f'url = "{WSS}"\nca_file = "{pem}/ca.pem"\n' if certificate == "none" else own(pem)
    tried(ns, tmp_path, asks, settings, "does it ask for a certificate (CMDANA::websocket_ca_file")


def test_one_self_signed_pair_serves_both_sides_as_the_documentation_has_it(ns: str, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "3650", "-subj", "/CN=cmdana", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    asks = wss(tmp_path) | {"CMDANA::websocket_ca_file": tmp_path / "cert.pem"}
    tried(ns, tmp_path, asks, own(tmp_path, "cert"), "welcomes us")


BROKER = 'transport = "broker"\n'


@pytest.mark.parametrize(
    ("zeek", "endpoint", "words"),
    [
        ({}, "broker_ssl = false\n", "no peering"),
        ({"Broker::disable_ssl": "T"}, "broker_ssl = true\n", "no peering"),
        ("certificates", "", "no peering"),
        ("certificates", 'ca_file = "{pem}/ca.pem"\n', "Broker needs all three, or none"),
        ("certificates", 'ca_file = "{pem}/other.pem"\n' + "{own}", "no peering"),
        ("certificates", 'ca_file = "{pem}/ca.pem"\n' + "{own}", "welcomes us"),
        ({"Broker::disable_ssl": "T"}, "broker_ssl = false\n", "welcomes us"),
    ],
    ids=[
        "plain to TLS", "TLS to plain", "no certificate", "none of its own", "another authority",
        "certificates of one authority", "plain to plain",
    ],
)  # fmt: skip
def test_a_tls_mismatch_over_broker_is_named(
    ns: str, tmp_path: Path, pem: Path, zeek: Any, endpoint: str, words: str
) -> None:
    try:
        bindings()
    except TransportError as absent:
        pytest.skip(str(absent))
    options = {"listen": "listen-broker"}
    if zeek == "certificates":
        for name, file in (("cafile", "ca"), ("certificate", "cert"), ("keyfile", "key")):
            options[f"Broker::ssl_{name}"] = str(pem / f"{file}.pem")
    else:
        options |= zeek
    own = f'cert_file = "{pem}/cert.pem"\nkey_file = "{pem}/key.pem"\n'
    tried(ns, tmp_path, options, BROKER + endpoint.format(pem=pem, own=own), words)


@pytest.mark.parametrize("side", ["events", "verdicts"])
def test_another_topic_than_zeeks_is_named(ns: str, tmp_path: Path, side: str) -> None:
    tried(ns, tmp_path, {}, f'topic_{side} = "another"\n', "connected, but no Zeek node answers")


@pytest.mark.parametrize("listen", ["listen-websocket", "listen-broker"])
def test_a_second_zeek_on_the_same_port_stops_with_the_name_of_the_option(
    ns: str, tmp_path: Path, listen: str
) -> None:
    first = Zeek(ns, tmp_path / "first", listen=listen)
    try:
        second = Program(ns, tmp_path / "second", "zeek", "zeek", "-C", "-i", WATCHED, SCRIPTS,
                         SCRIPTS / f"{listen}.zeek")  # fmt: skip
        assert second.process.wait(60) != 0
        assert "is the port taken?" in second.said()
        assert f"CMDANA::{listen.removeprefix('listen-')}_port" in second.said()
    finally:
        first.stop(signal.SIGKILL)
