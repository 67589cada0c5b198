"""Rows of Zeek's application logs as lines, formatted in the extraction process: only bytes cross to the writer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from cmdana_plugin.logs.streams import Format, LocalNets, Stream, dumps
from cmdana_plugin.logs.tables import APPLICATION
from feature_extractors import LogRow

_ROWS_AT_ONCE: Final = 8192  # that are put into lines at once
_MAX_REMEMBERED_NAMES: Final = 65536  # names of weird.log by originator that are remembered
# What weird.log tells of once for each originator (Weird::actions).
_PER_ORIG: Final = frozenset((
    "DNS_label_forward_compress_offset", "DNS_label_len_gt_name_len", "DNS_label_len_gt_pkt", "DNS_label_too_long",
    "SSH_max_packet_length_exceeded", "SSH_max_string_length_exceeded", "UDP_datagram_length_mismatch",
))  # fmt: skip


class Lines(NamedTuple):
    """Lines of one stream, in the order in which Zeek writes them."""

    stream: str
    first: float  # network time of the first, seconds since the epoch
    last: float
    data: bytes


class RowWriter:
    """Formats rows as lines of TSV or JSON; stateless but for weird.log, whose repeated names Zeek writes once."""

    def __init__(self, fmt: Format, local: LocalNets) -> None:
        self._line: Mapping[str, Callable[[LogRow], str]] = {
            path: _tsv(stream) if fmt == "tsv" else _json(stream) for path, stream in APPLICATION.items()
        }
        self._local = local
        self._told: dict[tuple[str, str], None] = {}

    def lines(self, rows: Sequence[LogRow]) -> Iterator[list[Lines]]:
        """The lines of the rows by stream, `_ROWS_AT_ONCE` rows at a time, by the time at which Zeek writes them."""
        ordered = sorted(rows, key=itemgetter(0))
        for begin in range(0, len(ordered), _ROWS_AT_ONCE):
            by_stream: dict[str, list[LogRow]] = {}
            for row in ordered[begin : begin + _ROWS_AT_ONCE]:
                if row.stream == "weird" and row.fields["name"] in _PER_ORIG and not self._is_new(row):
                    continue
                by_stream.setdefault(row.stream, []).append(row)
            yield [
                Lines(
                    path, of[0].written, of[-1].written,
                    "".join(map(self._line[path], map(self._filled, of))).encode("utf-8", "backslashreplace"),
                )
                for path, of in by_stream.items()
                if path in self._line
            ]  # fmt: skip

    def _is_new(self, row: LogRow) -> bool:
        key = str(row.fields["name"]), row.orig_h
        if key in self._told:
            return False
        self._told[key] = None
        if len(self._told) > _MAX_REMEMBERED_NAMES:
            del self._told[next(iter(self._told))]
        return True

    def _filled(self, row: LogRow) -> LogRow:
        """The row with the fields that addresses make."""
        fill = _FILLED.get(row.stream)
        return row if fill is None else row._replace(fields={**row.fields, **fill(row, self._local)})


def _file(row: LogRow, local: LocalNets) -> dict[str, Any]:
    return {"local_orig": local(row.orig_h if row.fields.get("is_orig") else row.resp_h)}


def _mail(row: LogRow, _: LocalNets) -> dict[str, Any]:
    received = row.fields.get("path")
    return {"path": [row.resp_h, row.orig_h, *(received if isinstance(received, list) else ())]}


def _login(row: LogRow, local: LocalNets) -> dict[str, Any]:
    ours = local(row.orig_h)
    return {} if ours == local(row.resp_h) else {"direction": "OUTBOUND" if ours else "INBOUND"}


def _transfer(row: LogRow, _: LocalNets) -> dict[str, Any]:
    sides = {"<orig>": row.orig_h, "<resp>": row.resp_h}  # as `content.analyzers.ftp` names them
    hosts = {name: row.fields.get(name) for name in ("data_channel.orig_h", "data_channel.resp_h")}
    made: dict[str, Any] = {name: sides.get(str(host), host) for name, host in hosts.items()}
    if row.fields.get("command") in _FTP_FILES and isinstance(path := row.fields.get("arg"), str):
        host = f"[{row.resp_h}]" if ":" in row.resp_h else row.resp_h
        made["arg"] = f"ftp://{host}{'' if path.startswith('/') else '/'}{path}"
    return made


_FTP_FILES: Final = frozenset(("APPE", "DELE", "RETR", "STOR", "STOU"))
_FILLED: Final[Mapping[str, Callable[[LogRow, LocalNets], dict[str, Any]]]] = {
    "files": _file,
    "ftp": _transfer,
    "smtp": _mail,
    "ssh": _login,
}

_HEAD: Final = ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")

# --- TSV ---

_SPECIAL: Final = re.compile(r"[\x00-\x1f\x7f]|\\(?!x[0-9a-f]{2})|[\ud800-\udfff]")
_SPECIAL_IN_SET: Final = re.compile(r"[\x00-\x1f\x7f,]|\\(?!x[0-9a-f]{2})|[\ud800-\udfff]")


_READ_AS_NONE: Final = frozenset(("", "-", "(empty)"))  # texts that read like none


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    return "\\\\" if char == "\\" else "".join(f"\\x{b:02x}" for b in char.encode("utf-8", "surrogatepass"))


def _text(value: str, special: re.Pattern[str] = _SPECIAL) -> str:
    # Analyzers have put bytes that are no text as \xNN already (`content.analyzers.base.text`).
    if value.isascii() and value.isprintable() and "\\" not in value and value not in _READ_AS_NONE:
        return value if special is _SPECIAL else value.replace(",", "\\x2c")
    if not value:
        return "(empty)"
    if value in _READ_AS_NONE:
        return f"\\x{ord(value[0]):02x}{value[1:]}"
    return special.sub(_escape, value) if special.search(value) else value


def _texts(value: Sequence[Any]) -> str:
    return ",".join("-" if v is None else _text(v, _SPECIAL_IN_SET) for v in value) if value else "(empty)"


def _plain(value: Sequence[Any]) -> str:
    return ",".join(map(str, value)) if value else "(empty)"


def _seconds(value: float) -> str:
    return f"{value:.6f}"


def _intervals(value: Sequence[float]) -> str:
    return ",".join(f"{v:.6f}" for v in value) if value else "(empty)"


def _bool(value: bool) -> str:
    return "T" if value else "F"


_WORD: Final[Mapping[str, Callable[[Any], str]]] = {
    "addr": str, "bool": _bool, "count": str, "enum": str, "interval": _seconds, "port": str, "string": _text,
    "time": _seconds, "set[enum]": _plain, "set[string]": _texts, "vector[addr]": _plain, "vector[count]": _plain,
    "vector[interval]": _intervals, "vector[string]": _texts,
}  # fmt: skip


def _tsv(stream: Stream) -> Callable[[LogRow], str]:
    own = [(name, _WORD[kind]) for name, kind in stream.fields if name not in _HEAD]
    uid = [name for name, _ in stream.fields if name in _HEAD]
    fuid_first = stream.fields[1][0] == "fuid"
    whole = len(uid) == len(_HEAD)
    if fuid_first:
        own = own[1:]

    def line(row: LogRow) -> str:
        _, _, ts, uid, orig_h, orig_p, resp_h, resp_p, fields = row
        get = fields.get
        if fuid_first:
            head = f"{ts:.6f}\t{get('fuid')}\t{uid}\t{orig_h}\t{orig_p}\t{resp_h}\t{resp_p}"
        elif whole:
            head = f"{ts:.6f}\t{uid}\t{orig_h}\t{orig_p}\t{resp_h}\t{resp_p}"
        else:
            head = f"{ts:.6f}"
        cells = ["-" if (value := get(name)) is None else word(value) for name, word in own]
        return head + "\t" + "\t".join(cells) + "\n"

    return line


# --- JSON ---


def _json(stream: Stream) -> Callable[[LogRow], str]:
    own = [name for name, _ in stream.fields if name not in _HEAD]
    times = [name for name, kind in stream.fields if kind == "time" and name != "ts"]
    whole = all(name in dict(stream.fields) for name in _HEAD)
    fuid_first = stream.fields[1][0] == "fuid"

    def line(row: LogRow) -> str:
        _, _, ts, uid, orig_h, orig_p, resp_h, resp_p, fields = row
        get = fields.get
        record: dict[str, Any] = {"ts": round(ts, 6)}
        if fuid_first:
            record["fuid"] = get("fuid")
        if whole:
            record["uid"] = uid
            record["id.orig_h"] = orig_h
            record["id.orig_p"] = orig_p
            record["id.resp_h"] = resp_h
            record["id.resp_p"] = resp_p
        for name in own:
            if (value := get(name)) is not None:
                record[name] = value
        for name in times:
            if name in record:
                record[name] = round(record[name], 6)
        return dumps(record) + "\n"

    return line
