"""Decoding of a Zeek node's observations: batches of connections and log entries, every value checked before use.

The Zeek half is `zeek_scripts/batches.zeek`, `connections.zeek` and `logs.zeek`. A record in which something cannot be
is counted and passed over, a message that is no batch refused in words (`WireError`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.wire import (
    MAX_NUMBER,
    MAX_TEXT,
    MAX_WORD,
    OBSERVATIONS,
    WireError,
    dump,
    finite,
    message_of,
    natural,
    refused,
    typed,
    word,
)
from feature_extractors import LogEntry, LogValue

_MAX_DESCRIBED: Final = 64  # packets of a connection that a message may describe


class ConnectionRow(NamedTuple):
    """One connection as Zeek publishes it; a number below 0 is unset."""

    # The words of `CMDANA::publish_connection`.
    uid: str
    orig_h: str
    resp_h: str
    conn_state: str
    history: str
    service: str
    ts: float
    end: float
    duration: float
    # Its counts.
    stage: int
    orig_p: int
    resp_p: int
    ip_proto: int
    missed_bytes: int
    orig_pkts: int
    orig_ip_bytes: int
    resp_pkts: int
    resp_ip_bytes: int
    tunneled: int
    orig_bytes: int
    resp_bytes: int
    vlan: int
    inner_vlan: int
    # Three for each packet: microseconds since the connection began, and IP bytes that orig and resp had sent by then.
    packets: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """A decoded batch of one Zeek node: its connections and log entries in the order in which Zeek published them."""

    node: str
    run: str  # one start of that node
    to: str  # the instance of the detector that it is meant for
    seq: int  # 1, 2, 3 ... within a run
    before: int  # final connections that this run published in earlier batches
    finals: int  # final connections in this batch
    now: float  # network time
    last: bool  # nothing follows: the capture has ended
    connections: Sequence[ConnectionRow]
    logs: Sequence[LogEntry]
    log_bytes: Sequence[int]  # [len(logs)] a bound on the memory each holds
    bad: int = 0  # records passed over because something in them cannot be
    why: str = ""  # the first of them in words


_MAX_ELEMENTS: Final = 100
# What stands elsewhere, and what the default filter of Zeek's ssl.log leaves out, so that no model has seen it
# (base/protocols/ssl/files.zeek).
_NOT_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("ts", "uid"),
    "ssl": ("ts", "uid", "subject", "issuer", "client_subject", "client_issuer"),
}
_PLAIN: Final = frozenset((int, float, bool))
_INT: Final = (int,)
_FLOAT: Final = (float, int)
_NONE: Final = (type(None),)
MAX_RECORDS: Final = 65_536  # in a batch
_MIN_RECORD_CHARACTERS: Final = 4  # characters of a record at least
_MAX_NESTED: Final = 16  # levels of a log field that are looked into
_MAX_COUNT: Final = 2**64 - 1  # Zeek counts in 64 bits without sign, and its differences may wrap
# The logs that Zeek can tell in brief (`CMDANA::compact_renderers`): the words in one string, and what follows them.
# Of `answers` only their number is told.
BRIEF: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "dns": (("uid", "ts", "qtype_name", "rcode_name", "rtt", "answers"), ("query", "TTLs")),
    "http": (
        ("uid", "ts", "request_body_len", "response_body_len", "status_code"),
        ("method", "host", "uri", "user_agent", "referrer", "resp_mime_types", "orig_mime_types"),
    ),
    "ssl": (
        ("uid", "ts", "version", "cipher", "curve", "last_alert"),
        ("established", "resumed", "server_name", "next_protocol"),
    ),
}  # fmt: skip
_NUMBERS: Final[Mapping[str, Callable[[str], float]]] = {
    "rtt": float,
    "answers": int,
    "request_body_len": int,
    "response_body_len": int,
    "status_code": int,
}
_ROW: Final = (str, list, list)  # a connection
_CONNECTION_WORDS: Final = 9  # of a connection
_CONNECTION_TEXTS: Final = 6  # those of them that are no numbers
_MIN_COUNTS: Final = 12  # without VLANs
_MAX_COUNTS: Final = 14
_UID: Final = re.compile(r"[A-Za-z0-9]{1,20}\Z")
_HEAD: Final = re.compile(
    r'\{"v":\d{1,9},"node":"[^"\\]{0,256}","run":"[^"\\]{0,256}","to":"[^"\\]{0,64}","seq":\d{1,19},"before":\d{1,19},'
    r'"finals":(\d{1,9}),"records":(\d{1,9}),'
)


def head(payload: str) -> tuple[int, int]:
    """The numbers of final connections and of records that a payload of observations states, without decoding it.

    (0, 0) for another payload, and where it states more records than its length can hold.
    """
    match = _HEAD.match(payload)
    if match is None:
        return 0, 0
    finals, records = int(match[1]), int(match[2])
    return (finals, records) if finals <= records <= len(payload) // _MIN_RECORD_CHARACTERS else (0, 0)


def decode_batch(payload: str) -> Batch:
    """The batch in an `observations` event. Raises `WireError` for what is no batch, or states other numbers than it
    holds; a record in which something cannot be is counted and passed over.
    """
    message = message_of(OBSERVATIONS, payload)
    records = typed(message, "r", list)
    if len(records) != natural(message, "records", MAX_RECORDS):
        raise refused("records", message["records"], f"{len(records)}, as many as there are")
    connections: list[ConnectionRow] = []
    logs: list[LogEntry] = []
    bad: list[str] = []
    rows = 0
    for record in records:
        # By hand: a match statement takes as long as all the rest.
        kinds = tuple(map(type, record[:3])) if type(record) is list else ()
        try:
            if kinds == _ROW and len(record) == len(_ROW):
                rows += 1
                connections.append(_connection(*record))
                continue
            if kinds[:2] == (str, str):
                entry = _brief(record)
            elif kinds == (str, dict):
                entry = log_entry(*record)
            else:
                raise refused("r", record, "a connection, or a log in full or in brief")
        except WireError as error:
            bad.append(str(error))
            continue
        if entry is not None:
            logs.append(entry)
    finals = natural(message, "finals", MAX_RECORDS)
    try:
        _check(connections)
    except WireError:
        connections = list(_checked(connections, bad))
    if not bad and finals != sum(row.stage for row in connections):
        raise refused("finals", finals, "as many as there are")
    if finals > rows + len(bad):
        raise refused("finals", finals, f"at most {rows + len(bad)}, as many as there are connections")
    return Batch(
        node=word(message, "node"), run=word(message, "run"), to=word(message, "to"),
        seq=natural(message, "seq"), before=natural(message, "before"), finals=finals,
        now=finite(typed(message, "now", float, int), "now"), last=typed(message, "last", bool),
        connections=connections, logs=logs,
        log_bytes=[256 + sum(map(_size, entry.fields.values())) for entry in logs],
        bad=len(bad), why=bad[0] if bad else "",
    )  # fmt: skip


def sample() -> str:
    """The payload of a small batch with every kind of record in it, to warm up on."""
    parsed = [
        ["dns", "C1 1.0 A NOERROR 0.01 1", "a.example", [60.0]],
        ["C1 10.0.0.1 10.0.0.2 SF Dd dns 1.0 1.01 0.01", [1, 1024, 53, 17, 0, 1, 55, 1, 71, 0, 27, 43],
         [0, 55, 0, 10_000, 55, 71]],
        ["http", "C2 1.1 0 512 200", "GET", "a.example", "/", "agent", None, ["text/html"], None],
        ["C2 2001:db8::1 2001:db8::2 S1 ShADd http 1.0 1.2 0.2", [0, 1025, 80, 6, 0, 3, 250, 2, 700, 0, 70, 580],
         [0, 60, 0, 50_000, 60, 60, 100_000, 120, 60]],
        ["ssl", "C3 1.2 TLSv13 - x25519 unknown_ca", True, False, "b.example", None],
        ["weird", {"ts": 1.2, "uid": "C3", "name": "odd"}],
        ["C3 10.0.0.1 10.0.0.3 SF ShADadFf ssl 1.0 1.3 0.3",
         [1, 1026, 443, 6, 0, 5, 800, 5, 4000, 0, 600, 3700, 7], []],
    ]  # fmt: skip
    message = {
        "v": wire.WIRE_VERSION, "node": "", "run": "", "to": "", "seq": 1, "before": 0, "finals": 2,
        "records": len(parsed), "now": 1.3, "last": False, "r": parsed,
    }  # fmt: skip
    return dump(message)


def _connection(words: str, counts: list[Any], packets: list[Any]) -> ConnectionRow:
    parsed: list[Any] = words.split(" ")
    if len(parsed) != _CONNECTION_WORDS:
        raise refused("r", words, f"{_CONNECTION_WORDS} words of a connection")
    if not _MIN_COUNTS <= len(counts) <= _MAX_COUNTS:
        raise refused("r", f"{len(counts)} counts", f"{_MIN_COUNTS} to {_MAX_COUNTS} in a connection")
    try:
        ts, end, duration = map(float, parsed[_CONNECTION_TEXTS:])
    except ValueError:
        raise refused("r", parsed[_CONNECTION_TEXTS:], "ts, end and duration in seconds") from None
    if duration <= 0:  # as in conn.log: where all was seen at one time there is none
        duration = counts[_MIN_COUNTS - 2] = counts[_MIN_COUNTS - 1] = -1
    unset = [-1] * (_MAX_COUNTS - len(counts))
    return ConnectionRow._make([*parsed[:_CONNECTION_TEXTS], ts, end, duration, *counts, *unset, packets])


def _brief(record: list[Any]) -> LogEntry | None:
    stream, words, *values = record
    names, others = BRIEF.get(stream, ((), ()))
    texts = words.split(" ")
    if not names or len(texts) != len(names) or len(values) != len(others):
        raise refused("r", [stream, words], "a stream that is told in brief, and as many fields as it has")
    uid, text = texts[:2]
    try:
        ts = finite(float(text), "ts")
    except ValueError:
        raise refused("ts", text, "a number") from None
    if not _UID.match(uid):
        return None
    fields: dict[str, LogValue] = {}
    for name, text in zip(names[2:], texts[2:], strict=True):
        if text == "-":
            continue
        number = _NUMBERS.get(name)
        try:
            fields[name] = text if number is None else finite(number(text), name)
        except ValueError:
            raise refused(name, text, "a number") from None
    for name, value in zip(others, values, strict=True):
        if value is not None:
            _flatten(name, value, fields)
    return LogEntry(stream, ts, uid, fields)


def log_entry(stream: str, record: Mapping[str, Any]) -> LogEntry | None:
    """The log entry of a record as Zeek's `to_json` renders it, flat; None where it has neither uid nor ts.

    `x509` records have no uid in Zeek: theirs is "" and the fingerprint joins them.
    """
    ts, uid = record.get("ts"), record.get("uid", "" if stream == "x509" else None)
    if type(ts) not in _FLOAT or type(uid) is not str or (uid and not _UID.match(uid)):
        return None
    finite(ts, "ts")  # type: ignore[arg-type]
    fields: dict[str, LogValue] = {}
    for name, value in record.items():
        if (type(value) in _PLAIN and -MAX_NUMBER < value < MAX_NUMBER) or (
            type(value) is str and len(value) <= MAX_TEXT
        ):
            fields[name] = value
        elif name != "id":
            _flatten(name, value, fields)
    for name in _NOT_FIELDS.get(stream, _NOT_FIELDS[""]):
        fields.pop(name, None)
    return LogEntry(stream, float(ts), uid, fields)  # type: ignore[arg-type]


# The numbers of a ConnectionRow: types, least and greatest value.
_COLUMNS: Final[Mapping[str, tuple[tuple[type, ...], float, float]]] = {
    "ts": (_FLOAT, -1e12, 1e12),
    "end": (_FLOAT, -1e12, 1e12),
    "duration": (_FLOAT, -1, 1e12),
    "stage": (_INT, 0, 1),
    "orig_p": (_INT, 0, 65535),
    "resp_p": (_INT, 0, 65535),
    "ip_proto": (_INT, 0, 65535),
    "missed_bytes": (_INT, 0, _MAX_COUNT),
    "orig_pkts": (_INT, 0, _MAX_COUNT),
    "orig_ip_bytes": (_INT, 0, _MAX_COUNT),
    "resp_pkts": (_INT, 0, _MAX_COUNT),
    "resp_ip_bytes": (_INT, 0, _MAX_COUNT),
    "tunneled": (_INT, 0, 1),
    "orig_bytes": (_INT, -1, _MAX_COUNT),
    "resp_bytes": (_INT, -1, _MAX_COUNT),
    "vlan": (_INT, -1, 65535),
    "inner_vlan": (_INT, -1, 65535),
}


def _check(rows: Sequence[ConnectionRow]) -> None:
    """Column by column, which is a tenth of the time of row by row."""
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    for (name, (types, least, most)), column in zip(
        _COLUMNS.items(), columns[_CONNECTION_TEXTS:-1], strict=True
    ):
        if not set(map(type, column)) <= set(types):
            bad = next(v for v in column if type(v) not in types)
            raise refused(name, bad, " or ".join(t.__name__ for t in types))
        # min and max pass over what is not a number, but not a sum.
        if not (least <= min(column) and max(column) <= most) or (
            types is _FLOAT and math.isnan(sum(column))
        ):
            raise refused(name, [min(column), max(column)], f"{least}..{most}")
    for uid in columns[0]:
        if not _UID.match(uid):
            raise refused("uid", uid, "1 to 20 letters and digits")
    for packets in columns[-1]:
        if len(packets) % 3 or len(packets) > 3 * _MAX_DESCRIBED:
            raise refused("packets", packets, f"three numbers for each of at most {_MAX_DESCRIBED}")
    flat = list(itertools.chain.from_iterable(columns[-1]))
    if not set(map(type, flat)) <= {int} or (flat and not -(2**53) <= min(flat) <= max(flat) <= 2**53):
        raise refused("packets", flat, "whole numbers of -2^53..2^53")  # a capture's time may run back


def _checked(rows: Sequence[ConnectionRow], bad: list[str]) -> Iterator[ConnectionRow]:
    """The rows that pass `_check` each on its own."""
    for row in rows:
        try:
            _check([row])
        except WireError as error:
            bad.append(str(error))
        else:
            yield row


def _flatten(name: str, value: object, into: dict[str, LogValue], level: int = 0) -> None:
    if type(value) is str:
        into[name] = value[:MAX_TEXT]
    elif isinstance(value, dict):
        if value.keys() == {"port", "proto"} and type(value["port"]) is int:
            into[name] = value["port"]
        elif level >= _MAX_NESTED or len(value) > _MAX_ELEMENTS or len(name) > MAX_WORD:
            raise refused(
                name[:MAX_WORD],
                value,
                f"at most {_MAX_NESTED} levels and {_MAX_ELEMENTS} short names in one",
            )
        else:
            for inner, v in value.items():
                _flatten(f"{name}.{inner}", v, into, level + 1)
    elif isinstance(value, list):
        into[name] = [_element(name, v, level) for v in value[:_MAX_ELEMENTS]]
    elif value is not None:
        into[name] = finite(value, name)  # type: ignore[arg-type]


def _element(name: str, value: object, level: int) -> LogValue:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, dict):
        if value.keys() == {"port", "proto"} and type(value["port"]) is int:
            return value["port"]
        try:
            return dump(value)[:MAX_TEXT]
        except (ValueError, RecursionError):
            raise refused(name, value, "finite numbers and few levels") from None
    if isinstance(value, list):
        if level >= _MAX_NESTED:
            raise refused(name, value, f"at most {_MAX_NESTED} levels")
        return [_element(name, v, level + 1) for v in value[:_MAX_ELEMENTS]]
    return value if value is None else finite(value, name)  # type: ignore[arg-type]


def _size(value: LogValue) -> int:
    if type(value) is str:
        return 64 + 4 * len(value)
    return 64 + sum(map(_size, value)) if type(value) is list else 64
