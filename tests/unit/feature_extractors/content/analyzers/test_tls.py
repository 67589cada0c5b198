"""TLS: what both hellos say, how far a handshake came, certificates, and fingerprints held against their authors."""

from __future__ import annotations

import struct

import pytest
from made_segments import Said, analysed, datagrams, stream

from feature_extractors.content.analyzers.base import ParseError
from feature_extractors.content.analyzers.der import certificate, matches
from feature_extractors.content.analyzers.tls_fingerprints import ja4


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">H", kind) + vector(2, data)


def handshake(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + vector(3, body)


def record(kind: int, body: bytes, version: int = 0x0301) -> bytes:
    return struct.pack(">BH", kind, version) + vector(2, body)


def client_hello(name: bytes = b"www.example.com", session: bytes = b"", more: bytes = b"") -> bytes:
    extensions = (
        extension(0, vector(2, b"\0" + vector(2, name)))
        + extension(10, vector(2, b"\0\x1d\0\x17"))
        + extension(11, vector(1, b"\0"))
        + extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1")))
        + more
    )
    suites = vector(2, b"\x13\x01\xc0\x2f")
    return handshake(
        1, b"\x03\x03" + bytes(32) + vector(1, session) + suites + b"\1\0" + vector(2, extensions)
    )


def server_hello(
    cipher: bytes = b"\xc0\x2f", extensions: bytes = b"", session: bytes = b"", random: bytes = b"\1" * 32
) -> bytes:
    return handshake(2, b"\x03\x03" + random + vector(1, session) + cipher + b"\0" + vector(2, extensions))


TLS13 = extension(43, b"\x03\x04") + extension(51, b"\0\x1d" + vector(2, bytes(32)))
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
PSK = extension(41, b"x")  # a key shared before, offered or taken
CCS = record(20, b"\1")
DATA = record(23, b"x" * 50)
KEYS = handshake(12, b"\3\0\x17" + bytes(20)) + handshake(14, b"")


def ssl(said: list[Said], size: int = 1 << 20) -> dict[str, object]:
    service, entries, _ = analysed(stream(said, 443, size))
    assert service == "ssl"
    return dict(entries[0].fields)


@pytest.mark.parametrize("size", [1, 5, 100, 10_000])
def test_a_tls12_handshake_is_followed_to_its_end(size: int) -> None:
    entry = ssl([
        (True, record(22, client_hello())),
        (False, record(22, server_hello(extensions=extension(16, vector(2, vector(1, b"h2")))) + KEYS)),
        (True, record(22, handshake(16, bytes(10))) + CCS + record(22, bytes(40))),
        (False, CCS + record(22, bytes(40))),
        (True, DATA),
    ], size)  # fmt: skip
    ja = {k: entry.pop(k) for k in ("ja3", "ja3s", "ja4")}
    assert entry == {
        "version": "TLSv12", "cipher": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "curve": "secp256r1",
        "server_name": "www.example.com", "next_protocol": "h2", "resumed": False, "established": True,
        "ssl_history": "CsknGIi",
    }  # fmt: skip
    assert all(ja.values())


def test_a_tls13_handshake_is_established_with_the_first_encrypted_record_of_both() -> None:
    entry = ssl([
        (True, record(22, client_hello())), (False, record(22, server_hello(b"\x13\x01", TLS13)) + CCS + DATA),
        (True, CCS + DATA),
    ])  # fmt: skip
    assert (entry["version"], entry["curve"], entry["established"], entry["ssl_history"]) == (
        "TLSv13", "x25519", True, "CsiI",
    )  # fmt: skip


def test_a_session_id_that_comes_back_is_a_resumption() -> None:
    entry = ssl(
        [
            (True, record(22, client_hello(session=b"s" * 32))),
            (False, record(22, server_hello(session=b"s" * 32))),
        ]
    )
    assert entry["resumed"] is True


def test_a_server_may_ask_for_another_hello_and_go_on_with_a_key_of_before() -> None:
    entry = ssl([
        (True, record(22, client_hello())), (False, record(22, server_hello(b"\x13\x01", TLS13, random=RETRY))),
        (True, record(22, client_hello(more=PSK))), (False, record(22, server_hello(b"\x13\x01", TLS13 + PSK)) + DATA),
        (True, DATA),
    ])  # fmt: skip
    assert (entry["resumed"], entry["established"], entry["ssl_history"]) == (True, True, "CjCs")


def test_an_alert_is_named() -> None:
    entry = ssl([(True, record(22, client_hello())), (False, record(21, b"\2\x28"))])
    assert (entry["last_alert"], entry["ssl_history"]) == ("handshake_failure", "Cl")


def test_the_service_needs_a_client_hello() -> None:
    assert analysed(stream([(False, record(22, server_hello()))], 443))[0] == ""


def test_what_is_no_tls_is_let_go() -> None:
    service, entries, content = analysed(stream([(True, b"GET / HTTP/1.1\r\n\r\n")], 443))
    assert (service, [e.stream for e in entries]) == ("http", ["http"])
    assert content.counts.by_reason["ssl_bad_version"] == 1


def test_dtls_is_told_by_its_client_hello() -> None:
    body = client_hello()[4:]
    hello = b"\xfe\xfd" + body[2:34] + b"\0\0" + body[35:]
    message = b"\1" + vector(3, hello)[:3] + b"\0\0" + bytes(3) + vector(3, hello)[:3] + hello
    service, entries, _ = analysed(datagrams([(True, b"\x16\xfe\xff" + bytes(8) + vector(2, message))], 5000))
    assert service == "dtls"
    assert entries[0].fields["ssl_history"] == "C"


def test_ja4_is_what_its_authors_say() -> None:
    # The worked example of FoxIO's technical details of JA4.
    suites = [0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D,
              0x002F, 0x0035]  # fmt: skip
    extensions = [0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D, 0x0005, 0x0023, 0x0012, 0x002B,
                  0xFF01, 0x000B, 0x000A, 0x0015]  # fmt: skip
    signatures = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]
    said = ja4("t", 0x0304, True, suites, extensions, signatures, [b"h2"])
    assert said == "t13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("name", "names", "matched"),
    [
        ("a.example.com", ["*.example.com"], True), ("a.b.example.com", ["*.example.com"], False),
        ("Example.com", ["example.com"], True), ("other.com", ["example.com"], False), ("com", ["*.com"], False),
    ],
)  # fmt: skip
def test_names_match_certificates(name: str, names: list[str], matched: bool) -> None:
    assert matches(name, {"san.dns": list(names)}) is matched


def test_a_certificate_is_read() -> None:
    import datetime

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([
        x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(x509.NameOID.COMMON_NAME, "a, b"),
    ])  # fmt: skip
    start = datetime.datetime(2024, 2, 29, 12, 0, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(0x1234)
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(days=40000))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), False)
        .add_extension(x509.BasicConstraints(True, 1), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    fields = certificate(made.public_bytes(serialization.Encoding.DER), "ab")
    assert fields["fingerprint"] == "ab"
    assert fields["certificate.subject"] == "CN=a\\, b,C=DE"
    assert fields["certificate.serial"] == "1234"
    assert fields["certificate.not_valid_before"] == start.timestamp()
    assert fields["certificate.not_valid_after"] == (start + datetime.timedelta(days=40000)).timestamp()
    assert (fields["certificate.curve"], fields["certificate.key_length"]) == ("secp384r1", 384)
    assert fields["certificate.sig_alg"] == "ecdsa-with-SHA256"
    assert (fields["san.dns"], fields["basic_constraints.ca"], fields["basic_constraints.path_len"]) == (
        ["a.example"], True, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80\0\0", b"\x30\3\2\1\1", b"\x30" * 500]
)
def test_a_malformed_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(ParseError):
        certificate(der, "ab")
