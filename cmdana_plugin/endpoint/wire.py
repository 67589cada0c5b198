"""The wire format between Zeek and the endpoint: every message is one event with one JSON string, versioned.

The other half of this contract is `zeek_scripts/types.zeek`; both sides state `WIRE_VERSION` in every message and
refuse another one in words. Zeek tells `observations` and `welcome`, the endpoint `verdicts` and `alive`, and to other
endpoints `evidence` (`shards.py`).
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from cmdana_plugin.config import MAX_SHARDS
from cmdana_plugin.decision import NO_VERDICTS, REVISED, Notice, Verdicts
from cmdana_plugin.detector import BENIGN
from cmdana_plugin.logs import notice_columns, notice_fields
from feature_extractors import CmdanaError, Stage

T = TypeVar("T")
WIRE_VERSION: Final = 8
# bytes of one message; Zeek flushes a batch at 256 KiB and one record more
MAX_PAYLOAD: Final = 16 * 1024 * 1024
VERDICTS_PER_EVENT: Final = 256

OBSERVATIONS: Final = "CMDANA::observations"
WELCOME: Final = "CMDANA::welcome"
VERDICTS: Final = "CMDANA::verdicts"
ALIVE: Final = "CMDANA::alive"
EVIDENCE: Final = "CMDANA::evidence"


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
    """Zeek's error message for a message that it could not take; the connection stays up."""

    code: str
    context: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """A Zeek node's answer to a heartbeat: its version and run, and whether it accepts the endpoint."""

    node: str
    run: str
    zeek: str
    accepted: bool
    why: str
    to: str = ""  # the instance of the detector that it is meant for
    n: int = 0  # 1, 2, 3 ... within a run
    parted: bool = False  # the answer to our goodbye: nothing more comes from this node
    # whether it writes down benign verdicts; None from a node that writes none at all
    benign: bool | None = None
    # the detectors that are accepted, by shard, "" for none; empty without shards, and where no verdicts are written
    detectors: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether the node accepts us and waits for its run to be named."""
        return not (self.accepted or self.parted or self.why)


@dataclass(frozen=True, slots=True)
class Alive:
    """The heartbeat of the endpoint, on connecting and every second; `endpoint.seal` adds number and seal."""

    cmdana: str
    model: str
    schema: str
    judged: int  # final connections
    lost: int  # final connections that Zeek published and that never came to be judged
    finished: str = ""  # the run whose last batch has been judged and answered
    leaving: bool = False
    streams: Sequence[str] = ()  # paths of the logs that the model looks at; empty: all
    brief: Sequence[str] = ()  # those of them of which the fields in `observed.BRIEF` are enough
    runs: Sequence[str] = ()  # those that have answered on this connection: a Zeek believes who names its own
    endpoint: str = ""  # what Zeek calls our connection
    shard: int = 1  # which of how many shards we judge
    shards: int = 1
    stands_in: int = 0  # the shard whose detector has begun us to stand in; 0 where this is our own
    known: str = ""  # what we go on from, in words


# Lengths at which Zeek cuts a field as it writes a log (Log::default_max_field_*), and at which we do the same.
MAX_TEXT: Final = 4096
_INT64: Final = 2**63 - 1
MAX_NUMBER: Final = 1e300  # a number beyond it is none that Zeek writes
MAX_WORD: Final = 256  # characters of a node's name and the like
_EARLY: Final = Stage.EARLY.name.lower()
_FINAL: Final = Stage.FINAL.name.lower()
_STAGES: Final = {_EARLY: 0, _FINAL: 1, REVISED: 2}
_PROTOS: Final = {"tcp": 1, "udp": 2, "icmp": 3}
_MODALITIES: Final = (("packet", 1), ("connection", 2), ("log", 4))
# What was there, as the sum that crosses.
_SUMS: Final = {tuple(name for name, bit in _MODALITIES if bit & code): code for code in range(8)}
_SHORT: Final = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist = 4, 12
_SHORT.maxstring = _SHORT.maxother = 80


def decode_welcome(payload: str) -> Welcome:
    """The welcome in a payload. Raises `WireError`."""
    message = message_of(WELCOME, payload)
    return Welcome(
        node=word(message, "node"), run=word(message, "run"), zeek=word(message, "zeek"),
        accepted=typed(message, "accepted", bool), why=typed(message, "why", str)[:MAX_TEXT],
        to=word(message, "to"), n=natural(message, "n"),
        parted=typed(message, "parted", bool),
        benign=typed(message, "benign", bool) if "benign" in message else None,
        detectors=_words(message, "detectors"),
    )  # fmt: skip


def decode_alive(payload: str) -> Alive:
    """The heartbeat in a payload, for a stand-in of Zeek. Raises `WireError`."""
    message = message_of(ALIVE, payload)
    alive_fields = {name: message[name] for name in Alive.__dataclass_fields__}
    return Alive(**alive_fields | {name: tuple(alive_fields[name]) for name in ("streams", "brief", "runs")})


def encode_verdicts(
    topic: str,
    verdicts: Verdicts,
    notices: Sequence[Notice],
    revised: Verdicts = NO_VERDICTS,
    *,
    benign: bool = True,
) -> list[Event]:
    """The events of verdicts, at most `VERDICTS_PER_EVENT` in each, with the notices after those that they belong to.

    Then come the verdicts on earlier connections that are `revised`. Without `benign`, those that are plainly so and
    belong to no incident are counted only.
    """
    everyone = range(len(verdicts))
    reported = everyone if benign else [i for i in everyone if _odd(verdicts, i) or verdicts.incident[i]]
    bodies = [_columns(verdicts, rows) | {"notices": []} for rows in _in_turn(reported)]
    if len(reported) < len(everyone):
        bodies = bodies or [_columns(verdicts, ()) | {"notices": []}]
        untold = verdicts.stage.counted() - Counter(verdicts.stage[i] for i in reported)
        bodies[0]["finals"] += untold[_FINAL]
        bodies[0]["earlies"] += untold.total() - untold[_FINAL]
    for some_notices in _in_turn(notices):
        if not bodies or bodies[-1]["notices"]:
            bodies.append(_columns(verdicts, ()))
        bodies[-1]["notices"] = [_notice(n) for n in some_notices]
    bodies += [_columns(revised, rows) | {"notices": []} for rows in _in_turn(range(len(revised)))]
    return [Event(topic, VERDICTS, dump(body)) for body in bodies]


def _in_turn(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), VERDICTS_PER_EVENT):
        yield items[start : start + VERDICTS_PER_EVENT]


def encode_alive(topic: str, alive: Alive) -> Event:
    """The event of a heartbeat."""
    body = {"v": WIRE_VERSION} | {name: getattr(alive, name) for name in Alive.__dataclass_fields__}
    return Event(topic, ALIVE, dump(body))


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
    return dump({"type": "data-message", "topic": event.topic, "@data-type": "vector", "data": data})


def decode_frame(frame: bytes) -> Event | PeerError | None:
    """The event, or the error, in a frame of Zeek's WebSocket API; None for an event that is none of ours.

    Frames are bytes, not text: a Zeek `string` that is not UTF-8 travels raw in a text frame, and a client that
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
            raise refused("frame", frame[:80], "a data-message or an error")


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
            raise refused("ack", frame[:80], 'an object of type "ack"')


_RAW: Final = re.compile("[\udc80-\udcff]")
# An escaped backslash, an escaped pair, or an escaped half of one.
_HALF: Final = re.compile(
    r"(\\\\)|(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def _odd(verdicts: Verdicts, i: int) -> bool:
    return verdicts.verdict[i] != BENIGN or bool(verdicts.reasons[i])


def _columns(v: Verdicts, rows: Sequence[int]) -> dict[str, Any]:
    """These of the verdicts as `CMDANA::Answer` has them."""

    def of(name: str) -> list[Any]:
        return v.of(name, rows)

    stage = of("stage")
    packet, connection, log, state = v.reliance[list(rows)].T.tolist() if rows else ((), (), (), ())
    return {
        "v": WIRE_VERSION, "finals": stage.count(_FINAL), "earlies": stage.count(_EARLY),
        "model": v.model, "threshold": v.threshold,
        "uid": of("uid"), "ts": of("ts"),
        "orig_h": of("orig_h"), "orig_p": of("orig_p"), "resp_h": of("resp_h"), "resp_p": of("resp_p"),
        "proto": [_PROTOS.get(proto, 0) for proto in of("proto")],
        "service": [service or "" for service in of("service")],
        "community_id": of("community_id"),
        "stage": [_STAGES[s] for s in stage],
        "score": of("score"), "p_value": of("p_value"),
        "packet_reliance": packet, "connection_reliance": connection, "log_reliance": log, "state_reliance": state,
        "modalities": [_SUMS[m] for m in of("modalities")],
        "incident": [incident or "" for incident in of("incident")],
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


def dump(value: object) -> str:
    """The compact JSON of a value. Raises `ValueError` for NaN and infinity."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _json(what: str, text: str) -> object:
    if len(text) > MAX_PAYLOAD:
        raise refused(what, f"{len(text)} characters", f"at most {MAX_PAYLOAD}")
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


def message_of(what: str, payload: str) -> Mapping[str, Any]:
    """The JSON object in a payload of this wire version. Raises `WireError`, as all below."""
    message = _json(what, payload)
    if not isinstance(message, dict):
        raise refused(what, message, "a JSON object")
    if message.get("v") != WIRE_VERSION:
        raise WireError(
            f"{what}: found wire version {_SHORT.repr(message.get('v'))}; expected {WIRE_VERSION}: "
            "install the same version of the Zeek package and of the Python package"
        )
    return message


def typed(message: Mapping[str, Any], name: str, *types: type) -> Any:
    """The field `name` of a message, of exactly one of `types`."""
    value = message.get(name)
    if type(value) not in types:
        raise refused(name, value, " or ".join(t.__name__ for t in types))
    return value


def natural(message: Mapping[str, Any], name: str, most: int = _INT64) -> int:
    """The field `name` of a message, an integer of 0 to `most`."""
    value: int = typed(message, name, int)
    if not 0 <= value <= most:
        raise refused(name, value, f"0..{most}")
    return value


def word(message: Mapping[str, Any], name: str) -> str:
    """The field `name` of a message, a text of at most `MAX_WORD` characters."""
    value: str = typed(message, name, str)
    if len(value) > MAX_WORD:
        raise refused(name, value, f"at most {MAX_WORD} characters")
    return value


def _words(message: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The field `name` of a message, a list of `MAX_SHARDS` words at most; () where there is none."""
    if name not in message:
        return ()
    value: list[Any] = typed(message, name, list)
    if len(value) > MAX_SHARDS or not all(type(w) is str and len(w) <= MAX_WORD for w in value):
        raise refused(name, value, f"at most {MAX_SHARDS} words")
    return tuple(value)


def finite(value: float, name: str) -> float:
    """The value of the field `name`, where its magnitude is below `MAX_NUMBER`."""
    if (
        not -MAX_NUMBER < value < MAX_NUMBER
    ):  # whole numbers of any length too, for which there is no math.isfinite
        raise refused(name, value, "a finite number")
    return value


def _constant(name: str) -> NoReturn:
    raise WireError(f"message: found {name}; expected a finite number")


def refused(name: str, found: object, expected: str) -> WireError:
    """The error for a field, with what was found, cut short, and what was expected."""
    try:
        words = str(found) if isinstance(found, str) else _SHORT.repr(found)
    except (ValueError, RecursionError):  # a number of thousands of digits
        words = f"a {type(found).__name__} beyond all bounds"
    return WireError(f"{name}: found {words[:80]!r}; expected {expected}")
