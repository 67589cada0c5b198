"""The wire between Zeek and the endpoint: every message is one event with one JSON string, versioned.

The other half of this contract is `zeek_scripts/types.zeek`; both sides state `WIRE_VERSION` in every message and
refuse another one in words. Zeek tells `observations` and `welcome`, the endpoint `verdicts` and `alive`.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from cmdana_plugin.decision import Notice, Verdicts
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import notice_columns, notice_fields
from feature_extractors import CmdanaError, LogEntry, LogValue, Stage

T = TypeVar("T")
WIRE_VERSION: Final = 6
MAX_PAYLOAD: Final = (
    16 * 1024 * 1024
)  # bytes of one message; Zeek flushes a batch at 256 KiB and one record more
VERDICTS_PER_EVENT: Final = 256

OBSERVATIONS: Final = "CMDANA::observations"
WELCOME: Final = "CMDANA::welcome"
VERDICTS: Final = "CMDANA::verdicts"
ALIVE: Final = "CMDANA::alive"

_MAX_DESCRIBED: Final = 64  # packets of a connection that a message may describe


class WireError(CmdanaError):
    """A message that this version of the wire does not know; names the field, what was found and expected."""


@dataclass(frozen=True, slots=True)
class Event:
    """One Zeek event with one string argument, on one topic."""

    topic: str
    name: str
    payload: str


@dataclass(frozen=True, slots=True)
class PeerError:
    """What Zeek answers to a message that it could not take; the connection stays up."""

    code: str
    context: str


class ConnectionRow(NamedTuple):
    """One connection; a number below 0 is unset."""

    # The words of `CMDANA::tell_connection`.
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
    """Observations of one Zeek node, in the order in which it made them."""

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


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a Zeek node says to an endpoint that it met."""

    node: str
    run: str
    zeek: str
    accepted: bool
    why: str
    to: str = ""  # the instance of the detector that it is meant for
    n: int = 0  # 1, 2, 3 ... within a run
    parted: bool = False  # the answer to our goodbye: nothing more comes from this node
    benign: bool | None = (
        None  # whether it writes down benign verdicts; None from a node that writes none at all
    )

    @property
    def waits(self) -> bool:
        """It has nothing against us and waits to hear its run named."""
        return not (self.accepted or self.parted or self.why)


@dataclass(frozen=True, slots=True)
class Alive:
    """What the endpoint says of itself on connecting and every second, beside its stamp (`endpoint/seal.py`)."""

    cmdana: str
    model: str
    schema: str
    judged: int  # final connections
    lost: int  # final connections that Zeek published and that never came to be judged
    finished: str = ""  # the run whose last batch has been judged and answered
    leaving: bool = False
    streams: Sequence[str] = ()  # paths of the logs that the model looks at; empty: all
    brief: Sequence[str] = ()  # those of them of which the fields in `BRIEF` are enough
    runs: Sequence[str] = ()  # those that have answered on this connection: a Zeek believes who names its own
    endpoint: str = ""  # what Zeek calls our connection


# Lengths at which Zeek cuts a field as it writes a log (Log::default_max_field_*), and at which we do the same.
_MAX_TEXT: Final = 4096
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
_INT64: Final = 2**63 - 1
_MOST: Final = 1e300  # a number beyond it is none that Zeek writes
MAX_RECORDS: Final = 65_536  # in a batch
_LEAST_RECORD: Final = 4  # characters of a record at least
_MAX_WORD: Final = 256  # characters of a node's name and the like
_MAX_NESTED: Final = 16  # levels of a log field that are looked into
_COUNT: Final = 2**64 - 1  # Zeek counts in 64 bits without sign, and its differences may wrap
_FINAL: Final = Stage.FINAL.name.lower()
# The logs that Zeek can tell in brief (`CMDANA::compact_renderers`): the words in one string, and what follows them.
# Of `answers` only their number is told.
BRIEF: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "dns": (("uid", "ts", "qtype_name", "rcode_name", "rtt", "answers"), ("query", "TTLs")),
    "http": (
        ("uid", "ts", "request_body_len", "response_body_len", "status_code"),
        ("method", "host", "uri", "user_agent", "referrer", "resp_mime_types", "orig_mime_types"),
    ),
    "ssl": (
        ("uid", "ts", "version", "cipher", "curve"),
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
_WORDS: Final = 9  # of a connection
_TEXTS: Final = 6  # those of them that are no numbers
_LEAST_COUNTS: Final = 12  # without VLANs
_MOST_COUNTS: Final = 14
_PROTOS: Final = {"tcp": 1, "udp": 2, "icmp": 3}
_MODALITIES: Final = (("packet", 1), ("connection", 2), ("log", 4))
# What was there, as the sum that crosses.
_SUMS: Final = {tuple(name for name, bit in _MODALITIES if bit & code): code for code in range(8)}
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist = 4, 12
_SHORT.maxstring = _SHORT.maxother = 80
_UID: Final = re.compile(r"[A-Za-z0-9]{1,20}\Z")
_HEAD: Final = re.compile(
    r'\{"v":\d{1,9},"node":"[^"\\]{0,256}","run":"[^"\\]{0,256}","to":"[^"\\]{0,64}","seq":\d{1,19},"before":\d{1,19},'
    r'"finals":(\d{1,9}),"records":(\d{1,9}),'
)


def head(payload: str) -> tuple[int, int]:
    """Final connections and records in a payload of observations, without decoding it; (0, 0) for another, and where
    it states more records than its length can hold.
    """
    match = _HEAD.match(payload)
    if match is None:
        return 0, 0
    finals, records = int(match[1]), int(match[2])
    return (finals, records) if finals <= records <= len(payload) // _LEAST_RECORD else (0, 0)


def decode_batch(payload: str) -> Batch:
    """The batch in an `observations` event. Raises `WireError` for what is no batch, or states other numbers than it
    holds; a record in which something cannot be is counted and passed over.
    """
    message = _object(OBSERVATIONS, payload)
    records = _typed(message, "r", list)
    if len(records) != _natural(message, "records", MAX_RECORDS):
        raise _refused("records", message["records"], f"{len(records)}, as many as there are")
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
                raise _refused("r", record, "a connection, or a log in full or in brief")
        except WireError as error:
            bad.append(str(error))
            continue
        if entry is not None:
            logs.append(entry)
    finals = _natural(message, "finals", MAX_RECORDS)
    try:
        _check(connections)
    except WireError:
        connections = list(_checked(connections, bad))
    if not bad and finals != sum(row.stage for row in connections):
        raise _refused("finals", finals, "as many as there are")
    if finals > rows + len(bad):
        raise _refused("finals", finals, f"at most {rows + len(bad)}, as many as there are connections")
    return Batch(
        node=_word(message, "node"), run=_word(message, "run"), to=_word(message, "to"),
        seq=_natural(message, "seq"), before=_natural(message, "before"), finals=finals,
        now=_number(_typed(message, "now", float, int), "now"), last=_typed(message, "last", bool),
        connections=connections, logs=logs,
        log_bytes=[256 + sum(map(_size, entry.fields.values())) for entry in logs],
        bad=len(bad), why=bad[0] if bad else "",
    )  # fmt: skip


def sample() -> str:
    """A small batch with every kind of thing in it, to see that all runs."""
    told = [
        ["dns", "C1 1.0 A NOERROR 0.01 1", "a.example", [60.0]],
        ["C1 10.0.0.1 10.0.0.2 SF Dd dns 1.0 1.01 0.01", [1, 1024, 53, 17, 0, 1, 55, 1, 71, 0, 27, 43],
         [0, 55, 0, 10_000, 55, 71]],
        ["http", "C2 1.1 0 512 200", "GET", "a.example", "/", "agent", None, ["text/html"], None],
        ["C2 2001:db8::1 2001:db8::2 S1 ShADd http 1.0 1.2 0.2", [0, 1025, 80, 6, 0, 3, 250, 2, 700, 0, 70, 580],
         [0, 60, 0, 50_000, 60, 60, 100_000, 120, 60]],
        ["ssl", "C3 1.2 TLSv13 - x25519", True, False, "b.example", None],
        ["weird", {"ts": 1.2, "uid": "C3", "name": "odd"}],
        ["C3 10.0.0.1 10.0.0.3 SF ShADadFf ssl 1.0 1.3 0.3",
         [1, 1026, 443, 6, 0, 5, 800, 5, 4000, 0, 600, 3700, 7], []],
    ]  # fmt: skip
    message = {
        "v": WIRE_VERSION, "node": "", "run": "", "to": "", "seq": 1, "before": 0, "finals": 2, "records": len(told),
        "now": 1.3, "last": False, "r": told,
    }  # fmt: skip
    return _dump(message)


def decode_welcome(payload: str) -> Welcome:
    """What a node says to us. Raises `WireError`."""
    message = _object(WELCOME, payload)
    return Welcome(
        node=_word(message, "node"), run=_word(message, "run"), zeek=_word(message, "zeek"),
        accepted=_typed(message, "accepted", bool), why=_typed(message, "why", str)[:_MAX_TEXT],
        to=_word(message, "to"), n=_natural(message, "n"),
        parted=_typed(message, "parted", bool),
        benign=_typed(message, "benign", bool) if "benign" in message else None,
    )  # fmt: skip


def decode_alive(payload: str) -> Alive:
    """What an endpoint says of itself; the stand-in for Zeek in our tests reads it. Raises `WireError`."""
    message = _object(ALIVE, payload)
    said = {name: message[name] for name in Alive.__dataclass_fields__}
    return Alive(**said | {name: tuple(said[name]) for name in ("streams", "brief", "runs")})


def _connection(words: str, counts: list[Any], packets: list[Any]) -> ConnectionRow:
    told: list[Any] = words.split(" ")
    if len(told) != _WORDS:
        raise _refused("r", words, f"{_WORDS} words of a connection")
    if not _LEAST_COUNTS <= len(counts) <= _MOST_COUNTS:
        raise _refused("r", f"{len(counts)} counts", f"{_LEAST_COUNTS} to {_MOST_COUNTS} in a connection")
    try:
        ts, end, duration = map(float, told[_TEXTS:])
    except ValueError:
        raise _refused("r", told[_TEXTS:], "ts, end and duration in seconds") from None
    if duration <= 0:  # as in conn.log: where all was seen at one time there is none
        duration = counts[_LEAST_COUNTS - 2] = counts[_LEAST_COUNTS - 1] = -1
    unset = [-1] * (_MOST_COUNTS - len(counts))
    return ConnectionRow._make([*told[:_TEXTS], ts, end, duration, *counts, *unset, packets])


def _brief(record: list[Any]) -> LogEntry | None:
    stream, words, *values = record
    names, others = BRIEF.get(stream, ((), ()))
    texts = words.split(" ")
    if not names or len(texts) != len(names) or len(values) != len(others):
        raise _refused("r", [stream, words], "a stream that is told in brief, and as many fields as it has")
    uid, text = texts[:2]
    try:
        ts = _number(float(text), "ts")
    except ValueError:
        raise _refused("ts", text, "a number") from None
    if not _UID.match(uid):
        return None
    fields: dict[str, LogValue] = {}
    for name, text in zip(names[2:], texts[2:], strict=True):
        if text == "-":
            continue
        number = _NUMBERS.get(name)
        try:
            fields[name] = text if number is None else _number(number(text), name)
        except ValueError:
            raise _refused(name, text, "a number") from None
    for name, value in zip(others, values, strict=True):
        if value is not None:
            _flatten(name, value, fields)
    return LogEntry(stream, ts, uid, fields)


def log_entry(stream: str, record: Mapping[str, Any]) -> LogEntry | None:
    """A log record as `to_json` renders it, flat and in Zeek's field names; None where it has neither uid nor ts.

    `x509` records have no uid in Zeek: theirs is "" and the fingerprint joins them.
    """
    ts, uid = record.get("ts"), record.get("uid", "" if stream == "x509" else None)
    if type(ts) not in _FLOAT or type(uid) is not str or (uid and not _UID.match(uid)):
        return None
    _number(ts, "ts")  # type: ignore[arg-type]
    fields: dict[str, LogValue] = {}
    for name, value in record.items():
        if (type(value) in _PLAIN and -_MOST < value < _MOST) or (
            type(value) is str and len(value) <= _MAX_TEXT
        ):
            fields[name] = value
        elif name != "id":
            _flatten(name, value, fields)
    for name in _NOT_FIELDS.get(stream, _NOT_FIELDS[""]):
        fields.pop(name, None)
    return LogEntry(stream, float(ts), uid, fields)  # type: ignore[arg-type]


def encode_verdicts(
    topic: str, verdicts: Verdicts, notices: Sequence[Notice], *, benign: bool = True
) -> list[Event]:
    """The verdicts, at most `VERDICTS_PER_EVENT` in an event, and the notices after those that they belong to.

    Without `benign`, those that are plainly so are counted only.
    """
    everyone = range(len(verdicts))
    told = everyone if benign else [i for i in everyone if _odd(verdicts, i)]
    bodies = [_columns(verdicts, rows) | {"notices": []} for rows in _in_turn(told)]
    if len(told) < len(everyone):
        bodies = bodies or [_columns(verdicts, ()) | {"notices": []}]
        untold = verdicts.stage.counted() - Counter(verdicts.stage[i] for i in told)
        bodies[0]["finals"] += untold[_FINAL]
        bodies[0]["earlies"] += untold.total() - untold[_FINAL]
    for some_notices in _in_turn(notices):
        if not bodies or bodies[-1]["notices"]:
            bodies.append(_columns(verdicts, ()))
        bodies[-1]["notices"] = [_notice(n) for n in some_notices]
    return [Event(topic, VERDICTS, _dump(body)) for body in bodies]


def _in_turn(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), VERDICTS_PER_EVENT):
        yield items[start : start + VERDICTS_PER_EVENT]


def encode_alive(topic: str, alive: Alive) -> Event:
    """The endpoint's word of itself."""
    body = {"v": WIRE_VERSION} | {name: getattr(alive, name) for name in Alive.__dataclass_fields__}
    return Event(topic, ALIVE, _dump(body))


def encode_frame(event: Event) -> str:
    """The event as a text frame of Zeek's WebSocket API (`/v1/messages/json`)."""
    arguments = [{"@data-type": "string", "data": event.payload}]
    data = [
        {"@data-type": "count", "data": 1},
        {"@data-type": "count", "data": 1},
        {
            "@data-type": "vector",
            "data": [
                {"@data-type": "string", "data": event.name},
                {"@data-type": "vector", "data": arguments},
            ],
        },
    ]
    return _dump({"type": "data-message", "topic": event.topic, "@data-type": "vector", "data": data})


def decode_frame(frame: bytes) -> Event | PeerError | None:
    """The event in a frame of Zeek's WebSocket API, or its complaint; None for an event that is none of ours.

    Frames are bytes on purpose: a Zeek `string` that is not UTF-8 travels raw in a text frame, and a client that
    insists on UTF-8 loses its connection to one name in the traffic. Raises `WireError`.
    """
    message = _json("frame", _text(frame))
    match message:
        case {"type": "error", "code": str(code), "context": str(context)}:
            return PeerError(code, context)
        case {
            "type": "data-message",
            "topic": str(topic),
            "data": [_, _, {"data": [{"data": str(name)}, {"data": arguments}, *_]}],
        }:
            match arguments:
                case [{"@data-type": "string", "data": str(payload)}]:
                    return Event(topic, name, payload)
            return None
        case {"type": "data-message"}:
            return None
        case _:
            raise _refused("frame", frame[:80], "a data-message or an error")


def _text(frame: bytes) -> str:
    """The frame as text; a byte that is not UTF-8 becomes \\xff in the JSON string that it stands in."""
    try:
        return frame.decode("utf-8")
    except UnicodeDecodeError:
        text = frame.decode("utf-8", "surrogateescape")
        return _RAW.sub(lambda byte: f"\\\\x{ord(byte[0]) - 0xDC00:02x}", text)


def decode_ack(frame: bytes) -> tuple[str, str]:
    """Zeek's endpoint id and version from the first frame. Raises `WireError` with Zeek's own words of refusal."""
    match _json("ack", _text(frame)):
        case {"type": "ack", "endpoint": str(endpoint), "version": str(version)}:
            return endpoint, version
        case {"type": "error", "code": str(code), "context": str(context)}:
            raise WireError(f"Zeek refuses the connection: {context} ({code})")
        case _:
            raise _refused("ack", frame[:80], 'an object of type "ack"')


_RAW: Final = re.compile("[\udc80-\udcff]")
# An escaped backslash, an escaped pair, or an escaped half of one.
_HALF: Final = re.compile(
    r"(\\\\)|(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)

# The numbers of a ConnectionRow: types, least and greatest value.
_COLUMNS: Final[Mapping[str, tuple[tuple[type, ...], float, float]]] = {
    "ts": (_FLOAT, -1e12, 1e12),
    "end": (_FLOAT, -1e12, 1e12),
    "duration": (_FLOAT, -1, 1e12),
    "stage": (_INT, 0, 1),
    "orig_p": (_INT, 0, 65535),
    "resp_p": (_INT, 0, 65535),
    "ip_proto": (_INT, 0, 65535),
    "missed_bytes": (_INT, 0, _COUNT),
    "orig_pkts": (_INT, 0, _COUNT),
    "orig_ip_bytes": (_INT, 0, _COUNT),
    "resp_pkts": (_INT, 0, _COUNT),
    "resp_ip_bytes": (_INT, 0, _COUNT),
    "tunneled": (_INT, 0, 1),
    "orig_bytes": (_INT, -1, _COUNT),
    "resp_bytes": (_INT, -1, _COUNT),
    "vlan": (_INT, -1, 65535),
    "inner_vlan": (_INT, -1, 65535),
}


def _check(rows: Sequence[ConnectionRow]) -> None:
    """Column by column, which is a tenth of the time of row by row."""
    if not rows:
        return
    columns = list(zip(*rows, strict=True))
    for (name, (types, least, most)), column in zip(_COLUMNS.items(), columns[_TEXTS:-1], strict=True):
        if not set(map(type, column)) <= set(types):
            bad = next(v for v in column if type(v) not in types)
            raise _refused(name, bad, " or ".join(t.__name__ for t in types))
        # min and max pass over what is not a number, but not a sum.
        if not (least <= min(column) and max(column) <= most) or (
            types is _FLOAT and math.isnan(sum(column))
        ):
            raise _refused(name, [min(column), max(column)], f"{least}..{most}")
    for uid in columns[0]:
        if not _UID.match(uid):
            raise _refused("uid", uid, "1 to 20 letters and digits")
    for packets in columns[-1]:
        if len(packets) % 3 or len(packets) > 3 * _MAX_DESCRIBED:
            raise _refused("packets", packets, f"three numbers for each of at most {_MAX_DESCRIBED}")
    flat = list(itertools.chain.from_iterable(columns[-1]))
    if not set(map(type, flat)) <= {int} or (flat and not -(2**53) <= min(flat) <= max(flat) <= 2**53):
        raise _refused("packets", flat, "whole numbers of -2^53..2^53")  # a capture's time may run back


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
        into[name] = value[:_MAX_TEXT]
    elif isinstance(value, dict):
        if value.keys() == {"port", "proto"} and type(value["port"]) is int:
            into[name] = value["port"]
        elif level >= _MAX_NESTED or len(value) > _MAX_ELEMENTS or len(name) > _MAX_WORD:
            raise _refused(
                name[:_MAX_WORD],
                value,
                f"at most {_MAX_NESTED} levels and {_MAX_ELEMENTS} short names in one",
            )
        else:
            for inner, v in value.items():
                _flatten(f"{name}.{inner}", v, into, level + 1)
    elif isinstance(value, list):
        into[name] = [_element(name, v, level) for v in value[:_MAX_ELEMENTS]]
    elif value is not None:
        into[name] = _number(value, name)  # type: ignore[arg-type]


def _element(name: str, value: object, level: int) -> LogValue:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, dict):
        if value.keys() == {"port", "proto"} and type(value["port"]) is int:
            return value["port"]
        try:
            return _dump(value)[:_MAX_TEXT]
        except (ValueError, RecursionError):
            raise _refused(name, value, "finite numbers and few levels") from None
    if isinstance(value, list):
        if level >= _MAX_NESTED:
            raise _refused(name, value, f"at most {_MAX_NESTED} levels")
        return [_element(name, v, level + 1) for v in value[:_MAX_ELEMENTS]]
    return value if value is None else _number(value, name)  # type: ignore[arg-type]


def _size(value: LogValue) -> int:
    if type(value) is str:
        return 64 + 4 * len(value)
    return 64 + sum(map(_size, value)) if type(value) is list else 64


def _odd(verdicts: Verdicts, i: int) -> bool:
    return verdicts.verdict[i] != BENIGN or bool(verdicts.reasons[i])


def _columns(v: Verdicts, rows: Sequence[int]) -> dict[str, Any]:
    """These of the verdicts as `CMDANA::Answer` has them."""

    def of(name: str) -> list[Any]:
        return v.of(name, rows)

    stage = of("stage")
    packet, connection, log, state = v.reliance[list(rows)].T.tolist() if rows else ((), (), (), ())
    return {
        "v": WIRE_VERSION, "finals": stage.count(_FINAL), "earlies": len(stage) - stage.count(_FINAL),
        "model": v.model, "threshold": v.threshold,
        "uid": of("uid"), "ts": of("ts"),
        "orig_h": of("orig_h"), "orig_p": of("orig_p"), "resp_h": of("resp_h"), "resp_p": of("resp_p"),
        "proto": [_PROTOS.get(proto, 0) for proto in of("proto")],
        "service": [service or "" for service in of("service")],
        "community_id": of("community_id"),
        "stage": [int(s == _FINAL) for s in stage],
        "score": of("score"), "p_value": of("p_value"),
        "packet_reliance": packet, "connection_reliance": connection, "log_reliance": log, "state_reliance": state,
        "modalities": [_SUMS[m] for m in of("modalities")],
        "odd": [
            {"i": k, "verdict": v.verdict[i], "reasons": list(v.reasons[i])}
            for k, i in enumerate(rows)
            if _odd(v, i)
        ],
    }  # fmt: skip


def _notice(n: Notice) -> dict[str, object]:
    """As `CMDANA::RaisedNotice` has it."""
    v, columns = n.verdict, notice_columns(n)
    raised: dict[str, object] = {
        name: columns.get(name) for name in ("ts", "note", "msg", "sub", "uid", "src", "dst", "n")
    }
    raised |= {"identifier": n.identifier, "fields": notice_fields(n)}
    if v:
        orig_p, resp_p = _port(v.orig_p, v.proto), _port(v.resp_p, v.proto)
        raised |= {"orig_h": v.orig_h, "orig_p": orig_p, "resp_h": v.resp_h, "resp_p": resp_p}
        raised |= {"p": None if n.incident else resp_p, "community_id": v.community_id}
    return raised


def _port(number: int, proto: str) -> str:
    return f"{number}/{proto if proto in ('tcp', 'udp', 'icmp') else 'unknown'}"


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _json(what: str, text: str) -> object:
    if len(text) > MAX_PAYLOAD:
        raise _refused(what, f"{len(text)} characters", f"at most {MAX_PAYLOAD}")
    if not text.isascii() or "\\ud" in text or "\\uD" in text:
        text = _without_surrogates(text)
    try:
        return json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise WireError(f"{what}: found {text[:60]!r}; expected JSON ({error})") from None


def _without_surrogates(text: str) -> str:
    """The text with a question mark for half of a character, which Zeek does not write and nothing can store."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _HALF.sub(lambda found: found[1] or found[2] or "?", text)


def _object(what: str, payload: str) -> Mapping[str, Any]:
    message = _json(what, payload)
    if not isinstance(message, dict):
        raise _refused(what, message, "a JSON object")
    if message.get("v") != WIRE_VERSION:
        raise WireError(
            f"{what}: found wire version {_SHORT.repr(message.get('v'))}; expected {WIRE_VERSION}: "
            "install the same version of the Zeek package and of the Python package"
        )
    return message


def _typed(message: Mapping[str, Any], name: str, *types: type) -> Any:
    value = message.get(name)
    if type(value) not in types:
        raise _refused(name, value, " or ".join(t.__name__ for t in types))
    return value


def _natural(message: Mapping[str, Any], name: str, most: int = _INT64) -> int:
    value: int = _typed(message, name, int)
    if not 0 <= value <= most:
        raise _refused(name, value, f"0..{most}")
    return value


def _word(message: Mapping[str, Any], name: str) -> str:
    value: str = _typed(message, name, str)
    if len(value) > _MAX_WORD:
        raise _refused(name, value, f"at most {_MAX_WORD} characters")
    return value


def _number(value: float, name: str) -> float:
    if not -_MOST < value < _MOST:  # whole numbers of any length too, for which there is no math.isfinite
        raise _refused(name, value, "a finite number")
    return value


def _constant(name: str) -> NoReturn:
    raise WireError(f"message: found {name}; expected a finite number")


def _refused(name: str, found: object, expected: str) -> WireError:
    try:
        words = str(found) if isinstance(found, str) else _SHORT.repr(found)
    except (ValueError, RecursionError):  # a number of thousands of digits
        words = f"a {type(found).__name__} beyond all bounds"
    return WireError(f"{name}: found {words[:80]!r}; expected {expected}")
