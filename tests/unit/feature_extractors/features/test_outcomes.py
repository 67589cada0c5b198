"""Outcomes: each log says in its own field whether what was asked for was accepted; hostile values say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_windows import office, without_logs

from feature_extractors.features.by_stream import by_stream
from feature_extractors.features.outcomes import Ends, ends_of
from feature_extractors.features.schema import load_schema
from feature_extractors.observations import LogEntry, Windows

SCHEMA = load_schema()
AS, TGS = {"request_type": "AS"}, {"request_type": "TGS"}

# Stream, fields -> accepted, refused, and the refusal in words where there is one.
TOLD: list[tuple[str, dict[str, Any], int, int, str]] = [
    ("dns", {"rcode_name": "NOERROR"}, 1, 0, ""),
    ("dns", {"rcode_name": "NXDOMAIN"}, 0, 1, "1 name not found"),
    ("dns", {"rcode_name": "REFUSED"}, 0, 1, "1 DNS query refused"),
    ("dns", {"rcode_name": "SERVFAIL"}, 0, 1, "1 DNS query failed"),
    ("dns", {"query": "no.answer.example"}, 0, 0, ""),
    ("http", {"status_code": 200}, 1, 0, ""),
    ("http", {"status_code": 302}, 1, 0, ""),
    ("http", {"status_code": 401}, 0, 1, "1 web login refused"),
    ("http", {"status_code": 403}, 0, 1, "1 web request forbidden"),
    ("http", {"status_code": 404}, 0, 1, "1 web page not found"),
    ("http", {"status_code": "404"}, 0, 1, "1 web page not found"),
    ("http", {"status_code": 404.0}, 0, 1, "1 web page not found"),
    ("http", {"status_code": 405}, 0, 1, "1 web request refused"),
    ("http", {"status_code": 500}, 0, 1, "1 web request failed"),
    ("http", {"status_code": 100}, 0, 0, ""),
    ("ssh", {"auth_success": True, "auth_attempts": 1}, 1, 0, ""),
    ("ssh", {"auth_success": True, "auth_attempts": 4}, 1, 3, "3 SSH logins refused"),
    ("ssh", {"auth_success": False, "auth_attempts": 126}, 0, 126, "126 SSH logins refused"),
    ("ssh", {"auth_success": False}, 0, 1, "1 SSH login refused"),
    ("ssh", {"auth_success": "F", "auth_attempts": 2}, 0, 2, "2 SSH logins refused"),
    ("ssh", {"auth_attempts": 0, "client": "SSH-2.0-x"}, 0, 0, ""),
    ("ssh", {"auth_attempts": 0, "version": 2}, 0, 1, "1 SSH connection ended without a login"),
    ("ssh", {"auth_attempts": 0}, 0, 0, ""),  # a banner that nobody answered
    ("ssl", {"established": True, "last_alert": "close_notify"}, 0, 0, ""),
    ("ssl", {"established": True, "last_alert": "unknown_ca"}, 0, 0, ""),
    ("ssl", {"established": False, "last_alert": "unknown_ca"}, 0, 1, "1 TLS certificate refused"),
    ("ssl", {"established": False, "last_alert": "handshake_failure"}, 0, 1, "1 TLS handshake refused"),
    ("ssl", {"established": False}, 0, 0, ""),
    ("kerberos", AS | {"success": True}, 1, 0, ""),
    ("kerberos", AS | {"success": False, "error_msg": "KDC_ERR_PREAUTH_FAILED"}, 0, 1, "1 Kerberos login refused"),
    ("kerberos", AS | {"success": False, "error_msg": "KDC_ERR_PREAUTH_REQUIRED"}, 0, 0, ""),
    ("kerberos", TGS | {"success": False, "error_msg": "KDC_ERR_POLICY"}, 0, 1, "1 Kerberos ticket refused"),
    ("kerberos", {"success": False}, 0, 1, "1 Kerberos request refused"),
    ("ntlm", {"success": False, "username": "x"}, 0, 1, "1 NTLM login refused"),
    ("ntlm", {"username": "x"}, 0, 0, ""),
    ("smb_cmd", {"status": "LOGON_FAILURE"}, 0, 1, "1 SMB login refused"),
    ("smb_cmd", {"status": "ACCESS_DENIED"}, 0, 1, "1 SMB request refused"),
    ("smb_cmd", {"status": "BAD_NETWORK_NAME"}, 0, 1, "1 SMB share not found"),
    ("ldap", {"opcode": "bind simple", "result": "invalid credentials"}, 0, 1, "1 LDAP login refused"),
    ("ldap", {"opcode": "bind simple", "result": "success"}, 1, 0, ""),
    ("ldap", {"opcode": "bind SASL", "result": "SASL bind in progress"}, 0, 0, ""),
    ("ldap", {"opcode": "modify", "result": "insufficient access rights"}, 0, 1, "1 LDAP request refused"),
    ("ldap_search", {"result": "no such object"}, 0, 1, "1 LDAP entry not found"),
    ("ldap_search", {"result": "success"}, 1, 0, ""),
    ("radius", {"result": "failed"}, 0, 1, "1 RADIUS login refused"),
    ("radius", {"result": "unknown"}, 0, 0, ""),
    ("smtp", {"last_reply": "250 2.0.0 Ok: queued"}, 1, 0, ""),
    ("smtp", {"last_reply": "535 5.7.8 Error: authentication failed"}, 0, 1, "1 mail login refused"),
    ("smtp", {"last_reply": "550 5.1.1 no such user"}, 0, 1, "1 mail refused"),
    ("smtp", {"last_reply": "221 Bye"}, 0, 0, ""),
    ("smtp", {"last_reply": "5500 is no reply"}, 0, 0, ""),
    ("ftp", {"command": "PASV", "reply_code": 530}, 0, 1, "1 FTP login refused"),
    ("ftp", {"command": "RETR", "reply_code": 226}, 1, 0, ""),
    ("ftp", {"command": "RETR", "reply_code": 550}, 0, 1, "1 FTP request refused"),
    ("mysql", {"cmd": "login", "success": False}, 0, 1, "1 MySQL login refused"),
    ("mysql", {"cmd": "query", "success": False}, 0, 1, "1 MySQL query refused"),
    ("postgresql", {"frontend": "startup", "success": False}, 0, 1, "1 PostgreSQL login refused"),
    ("postgresql", {"frontend": "ssl_request", "success": False}, 0, 0, ""),
    ("redis", {"cmd.name": "AUTH", "success": False}, 0, 1, "1 Redis login refused"),
    ("redis", {"cmd.name": "GET", "success": True}, 1, 0, ""),
    ("rdp", {"result": "Success"}, 1, 0, ""),
    ("rdp", {"result": "encrypted"}, 0, 0, ""),
    ("rdp", {"result": "HYBRID_REQUIRED_BY_SERVER"}, 0, 1, "1 RDP login refused"),
    ("rfb", {"auth": False}, 0, 1, "1 VNC login refused"),
    ("socks", {"status": "connection not allowed by ruleset"}, 0, 1, "1 proxy connection refused"),
    ("sip", {"status_code": 401}, 0, 1, "1 SIP login refused"),
    ("sip", {"status_code": 486}, 0, 1, "1 SIP request refused"),
    ("sip", {"status_code": 200}, 1, 0, ""),
    ("mqtt_connect", {"connect_status": "Refused: not authorized"}, 0, 1, "1 MQTT login refused"),
    ("mqtt_connect", {"connect_status": "Connection Accepted"}, 1, 0, ""),
    ("modbus", {"func": "READ_COILS_EXCEPTION", "exception": "ILLEGAL_DATA_ADDRESS"}, 0, 1, "1 Modbus request refused"),
    ("weird", {"name": "odd"}, 0, 0, ""),
]  # fmt: skip


def windows_of(*connections: list[tuple[str, Mapping[str, Any]]]) -> Windows:
    """A connection each with these log entries."""
    windows = without_logs(office(len(connections)))
    return replace(
        windows,
        logs=[LogEntry(stream, 1.0, "C", fields) for entries in connections for stream, fields in entries],
        log_start=np.cumsum([0] + [len(entries) for entries in connections]).astype(np.int64),
    )


def of(*connections: list[tuple[str, Mapping[str, Any]]]) -> Ends:
    windows = windows_of(*connections)
    return ends_of(by_stream(windows.logs), windows.log_start, SCHEMA.outcomes)


@pytest.mark.parametrize(("stream", "fields", "accepted", "refused", "words"), TOLD)
def test_each_log_tells_in_its_own_field(
    stream: str, fields: dict[str, Any], accepted: int, refused: int, words: str
) -> None:
    found = of([(stream, fields)])
    assert (found.accepted[0], found.refused[0]) == (accepted, refused)
    kind = SCHEMA.outcomes[found.told_by[0] - 1] if found.told_by[0] else None
    assert (kind is None) == (accepted == refused == 0)
    assert kind is None or kind.stream == stream
    if words:
        assert kind is not None
        assert kind.words(refused) == words


def test_every_kind_of_the_schema_is_told_of_above() -> None:
    told = {int(of([(stream, fields)]).told_by[0]) for stream, fields, *_ in TOLD}
    whose = [f"{o.stream}: {o.many} {o.ended}" for i, o in enumerate(SCHEMA.outcomes, 1) if i not in told]
    assert set(whose) <= {"postgresql: PostgreSQL queries refused"}


def test_numbers_are_of_the_kind_that_is_named_and_it_is_that_with_most_refusals() -> None:
    page, login, ok = {"status_code": 404}, {"status_code": 401}, {"status_code": 200}
    found = of(
        [("http", page), ("http", login), ("http", login), ("http", ok)],
        [("http", ok), ("http", ok), ("http", login)],
        [("http", ok), ("http", page), ("http", ok)],
        [],
        [("http", page), ("http", login)],
    )
    words = [SCHEMA.outcomes[k - 1].many if k else "" for k in found.told_by]
    assert words == ["web logins", "web logins", "web pages", "", "web logins"]
    assert found.refused.tolist() == [2, 1, 1, 0, 1]
    assert found.accepted.tolist() == [0, 0, 2, 0, 0]


def test_words_count_in_one_and_in_many() -> None:
    ssh = next(o for o in SCHEMA.outcomes if o.stream == "ssh")
    assert [ssh.words(n) for n in (1, 2, 1209)] == [
        "1 SSH login refused", "2 SSH logins refused", "1,209 SSH logins refused",
    ]  # fmt: skip


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("5" * 5000),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SCHEMA.outcomes), st.data())
def test_hostile_values_break_nothing_and_count_within_bounds(outcome: Any, data: st.DataObject) -> None:
    fields = {name: data.draw(ANY) for name in outcome.fields}
    found = of([(outcome.stream, fields)] * 16, [("dns", {"rcode_name": "NXDOMAIN"})])
    assert 0 <= found.accepted[0] <= 16
    assert 0 <= found.refused[0] <= 16_000_000
    assert (found.refused[1], SCHEMA.outcomes[found.told_by[1] - 1].many) == (1, "names")


def test_an_ssh_log_that_counts_beyond_reason_is_believed_up_to_a_million() -> None:
    for attempts in (2**63, 1e300, float("inf")):
        assert of([("ssh", {"auth_success": False, "auth_attempts": attempts})]).refused.tolist() == [
            1_000_000
        ]
    for attempts in (-5, float("nan"), "many", None, [3]):
        assert of([("ssh", {"auth_success": False, "auth_attempts": attempts})]).refused.tolist() == [1]
