"""The join of log entries with their connections, and of rows about files and certificates; both are bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_extractors.frames import Counts
from feature_extractors.observations import MAX_LOG_ENTRIES, LogEntry, LogValue
from feature_extractors.readers.dialects.lines import Reads, Record

_LEFT_OUT: Final = frozenset(
    (
        "ts", "uid", "uids", "conn_uids", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "label", "detailedlabel",
        "detailed-label", "label_tactic", "label_technique", "label_binary", "label_cve",
    )
)  # fmt: skip
_LOG_VALUES: Final = (bool, int, float, str, list)
_JOINING: Final = frozenset(
    ("ts", "uid", "uids", "conn_uids", "fuid", "fingerprint", "id", "cert_chain_fps", "cert_chain_fuids")
)
# they name a file or certificate instead of a connection
_OF_FILES: Final = frozenset({"x509", "pe", "ocsp"})

_MAX_NAME: Final = 256  # characters of a uid, a file id or a fingerprint
_UID: Final = 20  # of which a connection bears so many (`Connections.uid`)
_MAX_WAITING: Final = 256 * 1024 * 1024  # bytes of entries that wait, and of what is said of files
_MAX_PENDING: Final = 200_000  # connections for whose row the entries of other logs wait
_MAX_SHOWING: Final = 16  # connections of a file that is not described yet
_MAX_FILES: Final = 65_536  # certificates and files that are remembered


def reads_of(fields: Mapping[str, Collection[str]]) -> Reads:
    """What has to be read of each stream so that its entries can be joined, and have these fields."""
    return {stream: _JOINING | set(names) for stream, names in fields.items()} | {"": _JOINING}


class Waiting:
    """The log entries that wait for their connection's row, by uid; those of the oldest are dropped first."""

    def __init__(self, counts: Counts, fields: Mapping[str, Collection[str]] | None = None) -> None:
        """`fields` are those that entries of each stream have, of another one none; None: all."""
        self._counts = counts
        self._fields = fields
        self._entries: OrderedDict[str, _Held] = OrderedDict()
        self._bytes = 0  # about, of the entries
        self._shown = _Shown()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def receive(self, stream: str, record: Record) -> None:
        ts = record["ts"]
        assert isinstance(ts, float | int)
        fields = self._told(stream, record)
        named: LogValue
        if stream in _OF_FILES:
            named = record.get("fingerprint", record.get("id"))
            uids = [] if _too_long(named) else self._shown.described(named, stream, fields)
        else:
            named = _file_shown(record)
            uids = _uids(record)
        if _too_long(named) or any(map(_too_long, uids)):
            self._counts.add("bad_record")
            return
        uids = [uid[:_UID] for uid in uids]
        size = _size(fields)
        for uid in uids:
            self._add(LogEntry(stream, ts, uid, fields), size)
        if stream in ("ssl", "files"):
            for uid in uids:
                for stream_of_file, said in self._shown.by_connection(named, uid):
                    self._add(LogEntry(stream_of_file, ts, uid, said), _size(said))

    def take(self, uid: str) -> list[LogEntry]:
        """The entries of a connection in order of time, which no longer wait."""
        held = self._entries.pop(uid, None)
        if held is None:
            return []
        self._bytes -= held.bytes
        if len(held.entries) > 1:
            held.entries.sort(key=lambda entry: entry.ts)
        return held.entries

    def finish(self) -> None:
        self._counts.add(
            "entry_without_connection", sum(len(held.entries) for held in self._entries.values())
        )
        self._entries.clear()

    def _told(self, stream: str, record: Record) -> dict[str, LogValue]:
        if self._fields is not None:
            return {
                name: value
                for name in self._fields.get(stream, ())
                if isinstance(value := record.get(name), _LOG_VALUES)
            }
        return {
            name: value
            for name, value in record.items()
            if isinstance(value, _LOG_VALUES) and name not in _LEFT_OUT and not name.startswith("_")
        }

    def _add(self, entry: LogEntry, size: int) -> None:
        held = self._entries.get(entry.uid)
        if held is None:
            self._entries[entry.uid] = _Held([entry], size)
            if len(self._entries) > _MAX_PENDING:
                self._drop("entry_without_connection")
        elif len(held.entries) < MAX_LOG_ENTRIES:
            held.entries.append(entry)
            held.bytes += size
        else:
            self._counts.add("entry_over_limit")
            return
        self._bytes += size
        while self._bytes > _MAX_WAITING:
            self._drop("entries_over_memory")

    def _drop(self, reason: str) -> None:
        _, dropped = self._entries.popitem(last=False)
        self._bytes -= dropped.bytes
        self._counts.add(reason, len(dropped.entries))


@dataclass(slots=True)
class _Held:
    """The entries of a connection, and about the bytes that they take."""

    entries: list[LogEntry]
    bytes: int


def _size(fields: Mapping[str, LogValue]) -> int:
    """About the bytes that an entry takes; the same whenever it is asked."""
    size = 512 + 128 * len(fields)
    for value in fields.values():
        if type(value) is str:
            size += len(value)
        elif type(value) is list:
            size += _list_size(value)
    return size


def _list_size(values: Sequence[Any]) -> int:
    size = 0
    for value in values:
        size += 64
        if type(value) is str:
            size += len(value)
        elif type(value) is list:
            size += _list_size(value)
    return size


class _Shown:
    """Certificates and files: which connections showed them, and what their own log says, whichever is met first."""

    def __init__(self) -> None:
        self._uids: OrderedDict[str, list[str]] = OrderedDict()
        self._said: OrderedDict[str, tuple[str, Mapping[str, LogValue]]] = OrderedDict()
        self._bytes = 0  # about, of what was said

    def by_connection(self, name: LogValue, uid: str) -> Iterator[tuple[str, Mapping[str, LogValue]]]:
        """Notes that the connection showed it; yields stream and fields of what is known of it already."""
        if not isinstance(name, str):
            return
        if name in self._said:
            yield self._said[name]
            return
        uids = self._uids.setdefault(name, [])
        if uid not in uids and len(uids) < _MAX_SHOWING:
            uids.append(uid)
        _bound(self._uids)

    def described(self, name: LogValue, stream: str, fields: Mapping[str, LogValue]) -> list[str]:
        """Keeps what a log says of it; returns the connections that showed it before."""
        if not isinstance(name, str):
            return []
        before = self._said.pop(name, None)
        self._said[name] = stream, fields
        self._bytes += _size(fields)
        if before is not None:
            self._bytes -= _size(before[1])
        while len(self._said) > _MAX_FILES or self._bytes > _MAX_WAITING:
            _, (_, said) = self._said.popitem(last=False)
            self._bytes -= _size(said)
        return self._uids.pop(name, [])


def _too_long(name: LogValue) -> bool:
    """Whether no uid, file id or fingerprint can be as long."""
    return isinstance(name, str) and len(name) > _MAX_NAME


def _bound(table: OrderedDict[str, Any]) -> None:
    if len(table) > _MAX_FILES:
        table.popitem(last=False)


def _uids(record: Record) -> list[str]:
    """The connections of a record: dhcp.log names several, as files.log did before Zeek 5."""
    uid = record.get("uid")
    if uid is not None:
        return [uid] if isinstance(uid, str) else []
    several = record.get("uids", record.get("conn_uids"))
    return [u for u in several if isinstance(u, str)] if isinstance(several, list) else []


def _file_shown(record: Record) -> LogValue:
    """The certificate of the responder, or the file, that a record of ssl.log or files.log is about."""
    chain = record.get("cert_chain_fps", record.get("cert_chain_fuids"))
    return chain[0] if isinstance(chain, list) and chain else record.get("fuid")
