"""Fields of Zeek's logs: their names and types as Zeek has them, whatever a shipper made of both, and times.

A time without a zone is UTC. A number is seconds since the epoch, but milli-, micro- or nanoseconds where it then lies
between the years 1990 and 2200.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from feature_extractors.frames import MAX_SECONDS
from feature_extractors.observations import LogValue

CONN_ID: Final = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")
REQUIRED: Final = (*CONN_ID, "proto")
LARGEST_COUNT: Final = (1 << 62) - 1  # a larger one comes of sequence numbers that fooled Zeek
LARGEST_INTEGER: Final = 2**64  # magnitude; Zeek's have 64 bits
MAX_DEPTH: Final = 8  # of a JSON value
MAX_FIELDS: Final = 10_000  # of a record

_TYPES: Final = {
    "time": "ts",
    "string": "uid service community_id fuid history conn_state",
    "addr": "id.orig_h id.resp_h src dst cmdana.host assigned_addr requested_addr",
    "port": "id.orig_p id.resp_p p host_p",
    "enum": "proto note",
    "interval": "duration rtt cmdana.window suppress_for lease_time",
    "count": (
        "orig_bytes resp_bytes missed_bytes orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes ip_proto trans_id qclass "
        "qtype rcode Z n trans_depth request_body_len response_body_len status_code info_code auth_attempts "
        "cmdana.peers cmdana.service_count cmdana.hosts cmdana.windows "
        "seen_bytes total_bytes missing_bytes overflow_bytes depth file_size reply_code"
    ),
    "int": "vlan inner_vlan",
    "bool": "local_orig local_resp AA TC RD RA rejected resumed established is_orig auth_success timedout tls",
    "double": (
        "score p_value threshold packet_reliance connection_reliance log_reliance state_reliance cmdana.score "
        "cmdana.p_value cmdana.threshold cmdana.evidence cmdana.tail cmdana.share"
    ),
    "set[string]": "tunnel_parents modalities tags analyzers conn_uids",
    "set[enum]": "actions",
    "vector[string]": (
        "reasons cmdana.reasons cmdana.latest_reasons cmdana.services answers cert_chain_fps client_cert_chain_fps "
        "cert_chain_fuids orig_fuids resp_fuids"
    ),
    "vector[interval]": "TTLs",
}  # fmt: skip
TYPES: Final = {name: kind for kind, names in _TYPES.items() for name in names.split()}
NUMBERS: Final = frozenset(("time", "interval", "double", "count", "int", "port"))

_DOTTED: Final = (
    *(f"certificate.{name}" for name in (
        "version", "serial", "subject", "issuer", "not_valid_before", "not_valid_after", "key_alg", "sig_alg",
        "key_type", "key_length", "exponent", "curve",
    )),
    *(f"san.{name}" for name in ("dns", "uri", "email", "ip")),
    *(f"remote_location.{name}" for name in ("country_code", "region", "city", "latitude", "longitude")),
    *(f"seen.{name}" for name in ("indicator", "indicator_type", "where", "node")),
    *(f"data_channel.{name}" for name in ("passive", "orig_h", "resp_h", "resp_p")),
    "basic_constraints.ca", "basic_constraints.path_len",
)  # fmt: skip
# The columns in Zeek's own order, for a log that names none.
_DEFAULT: Final = {
    "conn": (
        "proto service duration orig_bytes resp_bytes conn_state local_orig local_resp missed_bytes history orig_pkts "
        "orig_ip_bytes resp_pkts resp_ip_bytes tunnel_parents ip_proto"
    ),
    "dns": (
        "proto trans_id rtt query qclass qclass_name qtype qtype_name rcode rcode_name AA TC RD RA Z answers TTLs "
        "rejected"
    ),
    "http": (
        "trans_depth method host uri referrer version user_agent origin request_body_len response_body_len status_code "
        "status_msg info_code info_msg tags username password proxied orig_fuids orig_filenames orig_mime_types "
        "resp_fuids resp_filenames resp_mime_types"
    ),
    "cmdana": (
        "proto service community_id stage score p_value threshold verdict packet_reliance connection_reliance "
        "log_reliance state_reliance modalities reasons model"
    ),
}  # fmt: skip
_CUTS: Final = {"conn": (1, 0)}  # columns at the end that an older Zeek does not have

# Names that shippers give, by the name of Zeek.
_SHIPPED: Final = {
    "ts": "@timestamp timestamp _time",
    "uid": "zeek.session_id log.id.uid zeek.uid connection_uid",
    "id.orig_h": "source.ip source.address client.ip source_ip src_ip orig_h id.orig_ip src_ip_zeek id.orig_addr",
    "id.orig_p": "source.port client.port source_port src_port orig_p src_port_zeek",
    "id.resp_h": "destination.ip destination.address server.ip destination_ip dest_ip dst_ip resp_h dest_ip_zeek",
    "id.resp_p": "destination.port server.port destination_port dest_port dst_port resp_p dest_port_zeek",
    "proto": "network.transport protocol transport",
    "service": "network.protocol network.application",
    "duration": "event.duration",
    "orig_bytes": "client.bytes original_bytes",
    "resp_bytes": "server.bytes respond_bytes",
    "orig_ip_bytes": "client.ip_bytes source.bytes source.ip_bytes",
    "resp_ip_bytes": "server.ip_bytes destination.bytes destination.ip_bytes",
    "orig_pkts": "client.packets source.packets original_packets",
    "resp_pkts": "server.packets destination.packets respond_packets",
    "conn_state": "connection.state zeek.connection.state network.connection.state connection_state",
    "history": "connection.history network.connection.history",
    "missed_bytes": "connection.bytes.missed network.missed_bytes",
    "local_orig": "connection.local.originator",
    "local_resp": "connection.local.responder",
    "tunnel_parents": "log.id.tunnel_parents",
    "community_id": "network.community_id",
    "vlan": "network.vlan.id",
    "inner_vlan": "network.inner.vlan.id",
    "fuid": "log.id.fuid",
    "query": "dns.question.name dns.query.name",
    "qtype_name": "dns.question.type dns.query.type_name",
    "rcode_name": "dns.response_code dns.response.code_name",
    "trans_id": "dns.id",
    "method": "http.request.method http.method",
    "uri": "url.original http.uri",
    "host": "url.domain http.virtual_host",
    "status_code": "http.response.status_code http.status_code",
    "user_agent": "user_agent.original http.useragent",
    "referrer": "http.request.referrer",
    "server_name": "tls.client.server_name ssl.server_name",
    "cipher": "tls.cipher ssl.cipher",
}  # fmt: skip
_BY_SHIPPER: Final = {other: zeek for zeek, names in _SHIPPED.items() for other in names.split()}
_FLAT: Final = (
    frozenset(  # that may stand in a log of Zeek's own for something else where `ts` and `uid` are its own
        name for name in _BY_SHIPPER if "." not in name and not name.startswith(("@", "_"))
    )
)
_OF_SHIPPERS: Final = ("source", "destination", "client", "server", "network", "event", "zeek", "connection", "log",
                       "dns", "http", "url", "tls", "ssl", "user_agent", "corelight")  # fmt: skip
_NOT_ZEEKS: Final = frozenset((*_OF_SHIPPERS, "agent", "ecs", "fileset", "input", "observer", "related"))
STREAM: Final = (
    "_path",
    "@stream",
    "@meta.stream",
    "zeek_log_type",
    "event.dataset",
    "fileset.name",
    "zeek.log_path",
)
_WRAPPED: Final = ("_source", "result", "_raw", "message", "log", "event.original", "event", "json", "zeek")


# Fields of which more than their names must be looked at.
SHIPPED: Final = (frozenset(_BY_SHIPPER) | {*STREAM, *_WRAPPED, "id"}) - {"_path"}


def squeezed(name: str) -> str:
    """A field's name with one sign wherever a scope separator may stand."""
    return re.sub(r"[^A-Za-z0-9@]+", "_", name)


_OURS: Final = re.compile(r"cmdana[^A-Za-z0-9]+(.+)", re.ASCII)  # a record of notice.log
_BY_SQUEEZED: Final = {squeezed(name): name for name in (*CONN_ID, *_DOTTED)}


@lru_cache(maxsize=65_536)
def zeek_name(name: str) -> str:
    """The name that Zeek gives the field by default: `id.orig_h` for `id_orig_h`, `id:orig_h` or `id$orig_h`."""
    ours = _OURS.fullmatch(name)
    return f"cmdana.{ours[1]}" if ours else _BY_SQUEEZED.get(squeezed(name), name)


def renamed(names: Iterable[str]) -> dict[str, str]:
    """Zeek's name for each of `names`, each used once; an unknown name stays as it is."""
    given = list(names)
    plan: dict[str, str] = {}
    taken = set(given)
    for name in given:
        zeek = zeek_name(name)
        if zeek != name and zeek in taken:
            zeek = name
        taken.add(zeek)
        plan[name] = zeek
    own = "ts" in taken and ("uid" in taken or "id.orig_h" in taken)
    # What a shipper prefers comes first in its row of the table.
    for zeek, others in _SHIPPED.items():
        if zeek in taken:
            continue
        for other in others.split():
            if other in plan and not (own and other in _FLAT and "id.orig_h" in taken):
                plan[other] = zeek
                taken.add(zeek)
                break
    for name in given:
        # zeek.dns.query, zeek.connection.history, corelight.conn.orig_bytes
        parts = name.split(".", 2)
        if (
            plan[name] == name
            and len(parts) == 3
            and parts[0] in ("zeek", "corelight")
            and parts[2] not in taken
        ):
            plan[name] = zeek_name(parts[2])
            taken.add(parts[2])
    return plan


def default_columns(cells: list[str]) -> tuple[str, list[str]] | None:
    """The stream and columns in Zeek's order that the cells of a headerless line fit; None where none fits."""
    if len(cells) < len(REQUIRED) or not _fits_id(cells):
        return None
    for stream, names in _DEFAULT.items():
        columns = [*CONN_ID, *names.split()]
        for cut in _CUTS.get(stream, (0,)):
            these = columns[: len(columns) - cut] if cut else columns
            if len(these) == len(cells) and all(
                cell in ("-", "(empty)") or _fits(TYPES.get(name, "string"), cell)
                for name, cell in zip(these, cells, strict=True)
            ):
                return stream, these
    return None


_SIGNS: Final = {
    "addr": re.compile(r"[0-9a-fA-F.:]{2,45}"),
    "port": re.compile(r"\d{1,5}"),
    "count": re.compile(r"\d{1,20}"),
    "int": re.compile(r"-?\d{1,20}"),
    "bool": re.compile(r"[TF]"),
    "enum": re.compile(r"[A-Za-z_:]+"),
    "double": re.compile(r"-?[\d.]+(?:e[-+]?\d+)?"),
    "interval": re.compile(r"-?[\d.]+"),
}  # fmt: skip


def _fits(kind: str, cell: str) -> bool:
    sign = _SIGNS.get(kind)
    return sign is None or sign.fullmatch(cell) is not None


def _fits_id(cells: list[str]) -> bool:
    kinds = ("addr", "port", "addr", "port")
    return (
        seconds(cells[0]) is not None
        and re.fullmatch(r"[A-Za-z0-9]{2,32}", cells[1]) is not None
        and all(_fits(kind, cell) for kind, cell in zip(kinds, cells[2:6], strict=True))
    )


# Times


_UNITS: Final = (1e3, 1e6, 1e9)
_EARLIEST_SECOND: Final = 631_152_000.0  # 1990
_LATEST_SECOND: Final = 7_258_118_400.0  # 2200
_FORMS: Final = (
    "%b %d, %Y @ %H:%M:%S.%f", "%b %d %Y %H:%M:%S.%f", "%b %d %Y %H:%M:%S", "%Y/%m/%d %H:%M:%S.%f",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d-%H:%M:%S.%f", "%d/%b/%Y:%H:%M:%S %z", "%m/%d/%Y %H:%M:%S", "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
)  # fmt: skip
_MAX_TIME_CHARACTERS: Final = 64  # characters


def seconds(value: LogValue) -> float | None:
    """Seconds since the epoch of a time as Zeek or a shipper writes it; `None` for what is no time."""
    if isinstance(value, str):
        return _in_words(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if number >= _EARLIEST_SECOND * 1e3:
        for unit in _UNITS:
            if _EARLIEST_SECOND <= number / unit <= _LATEST_SECOND:
                return value / unit
    return number if abs(number) <= MAX_SECONDS else None


@lru_cache(maxsize=4096)
def _in_words(text: str) -> float | None:
    text = text.strip()
    if len(text) > _MAX_TIME_CHARACTERS or not text.isascii():
        return None
    if re.fullmatch(r"-?\d{1,20}(?:\.\d*)?(?:[eE][-+]?\d{1,2})?", text):
        return seconds(int(text) if text.lstrip("-").isdigit() else float(text))
    iso = re.sub(r" ?(?:UTC|GMT)$", "Z", text)
    try:
        return _epoch(datetime.fromisoformat(iso))
    except (ValueError, OverflowError):
        pass
    for form in _FORMS:
        try:
            return _epoch(datetime.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    return None


def _epoch(when: datetime) -> float:
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def ecs_duration(value: Any) -> Any:
    """Seconds of `event.duration`: nanoseconds as ECS has it, seconds where a shipper left Zeek's number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    # Zeek's durations are microseconds: one of less than a thousand nanoseconds is none.
    return number if number % 1.0 or abs(number) < 1000.0 else number / 1e9


# Records


Plan = tuple[tuple[str, str, Callable[[Any], Any] | None], ...]


def plan_of(names: Iterable[str]) -> Plan:
    """For each field of a JSON record its name, Zeek's name, and the function that reads its value (None: as it is)."""
    given = list(names)
    new = renamed(given)
    plan = []
    for name in given:
        if new[name] == name and (
            name.startswith(("_", "@")) or ("." in name and name.split(".", 1)[0] in _NOT_ZEEKS)
        ):
            continue  # of what carried it
        read: Callable[[Any], Any] | None = None
        if name == "event.duration" and new[name] == "duration":
            read = ecs_duration
        elif new[name] != "ts":
            read = _lower if new[name] == "proto" else _WORDED.get(TYPES.get(new[name], ""))
        plan.append((name, new[name], read))
    return tuple(plan)


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value) if len(value) <= 20 and value.lstrip("-").isdigit() else float(value)
        except ValueError:
            return value
    return value


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        return {"T": True, "true": True, "F": False, "false": False}.get(value, value)
    return value


def _many(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) and value else value


def _address(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


_WORDED: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("count", "int", "port", "double", "interval"), _number),
    "bool": _truth,
    "addr": _address,
    "set[string]": _many,
    "set[enum]": _many,
}


def flattened(record: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """The record with nested records flattened, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and depth < MAX_DEPTH:
            for inner, one in flattened(value, depth + 1).items():
                flat.setdefault(f"{name}.{inner}", one)
        else:
            flat[name] = value
        if len(flat) > MAX_FIELDS:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")
    return flat


def unwrapped(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The stream ("" unknown) and record inside an exporter's envelope: a `message`, a `_source`, the stream's name.

    Raises `ValueError` where what is inside is no record.
    """
    stream_name = ""
    for _ in range(4):
        stream_name = stream_told(record) or stream_name
        if "ts" in record or "id.orig_h" in record or "id_orig_h" in record or "source" in record:
            break
        if "source.ip" in record or "source.address" in record:
            break
        for name in _WRAPPED:
            inner = record.get(name)
            if isinstance(inner, str) and inner.lstrip().startswith("{"):
                inner = json.loads(inner)
            if isinstance(inner, dict) and (name != "zeek" or len(record) == 1):
                record = inner
                break
        else:
            if len(record) != 1:
                break
            ((name, inner),) = record.items()
            if not isinstance(inner, dict):
                break
            stream_name, record = name, inner
    if any(isinstance(record.get(name), dict) for name in ("id", "cmdana", *_OF_SHIPPERS, "@meta")):
        record = flattened(record)
    return stream_name, record


def stream_told(record: Mapping[str, Any]) -> str:
    """The stream that a record names as its own, "" for none."""
    for name in STREAM:
        value = record.get(name)
        if value is None and "." in name:
            outer, _, inner = name.partition(".")
            within = record.get(outer)
            value = within.get(inner) if isinstance(within, dict) else None
        if isinstance(value, str) and 0 < len(value) <= 64:
            stream_name = value.rpartition(".")[2] if value.startswith(("zeek.", "corelight.")) else value
            if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", stream_name):
                return stream_name
    return ""


def checked(value: Any, depth: int = 0) -> Any:
    """A JSON value with lone surrogates escaped, where a log can hold it. Raises `BadRecord`."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise BadRecord(OUT_OF_RANGE)
    elif isinstance(value, int):
        if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            raise BadRecord(OUT_OF_RANGE)
    elif isinstance(value, list | dict):
        if depth == MAX_DEPTH:
            raise BadRecord("nested too deeply")
        if isinstance(value, list):
            return [checked(v, depth + 1) for v in value]
        return {checked(k): checked(v, depth + 1) for k, v in value.items()}
    return value


class BadRecord(ValueError):
    """A line that is no record; the message is the reason to count."""


OUT_OF_RANGE: Final = "a number out of range"
NO_TIME: Final = "no time, or one out of range"
NO_JSON: Final = "no JSON record"
NO_FIT: Final = "fields do not match the header"
