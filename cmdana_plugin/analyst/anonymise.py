"""Pseudonymised logs and labels: addresses by prefix-preserving Crypto-PAn (Xu et al. 2002), names by keyed hash.

Addresses keep their common prefixes (Xu et al., Prefix-Preserving IP Address Anonymization, ICNP 2002). A string is
kept only where its field is known to hold none of the site's own words; every other one is hashed, label by label so
that names of one domain still share their ending. Sentences are left out: they can hold names in any form.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import hmac
import io
import ipaddress
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Final, cast

from yacryptopan import CryptoPAn

from cmdana_plugin import files
from cmdana_plugin.logs import bounded_lines
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import (
    NO_FIT,
    Layout,
    LogLines,
    PassedOver,
    chunks,
    files_below,
    is_parquet,
    may_be_log,
    named_stream,
    records,
)

_HASH_CHARACTERS: Final = 12  # of each label of a name: 48 bits

_UIDS: Final = frozenset(
    (
        "uid", "uids", "fuid", "fuids", "conn_uids", "orig_fuids", "resp_fuids", "parent_fuid", "tunnel_parents",
        "cert_chain_fuids", "client_cert_chain_fuids",
    )
)  # fmt: skip
# Fields of Zeek's and our own logs whose strings are words of protocols and of Zeek, never a site's.
_KEPT: Final = frozenset(
    (
        "proto", "conn_state", "history", "stage", "verdict", "modalities", "model", "note", "actions", "method",
        "qclass_name", "qtype_name", "rcode_name", "version", "mime_type", "orig_mime_types", "resp_mime_types",
        "file_mime_type", "analyzers", "analyzer", "source", "cipher", "curve", "next_protocol", "ssl_history",
        "direction", "cipher_alg", "mac_alg", "compression_alg", "kex_alg", "host_key_alg", "request_type", "operation",
        "func", "exception", "fc_request", "fc_reply", "security_protocol", "encryption_level", "encryption_method",
        "tunnel_type", "action", "certificate.key_alg", "certificate.sig_alg", "certificate.key_type",
        "cmdana.verdict", "cmdana.role", "cmdana.services", "cmdana.traffic",
        "cmdana.kind", "cmdana.technique",
    )
)  # fmt: skip
_KNOWN_LOGS: Final = frozenset(
    (
        "conn", "cmdana", "notice", "dns", "http", "ssl", "x509", "files", "ssh", "weird", "smtp", "ftp", "rdp", "ntp",
        "modbus", "dnp3", "dce_rpc", "smb_files", "smb_mapping", "kerberos", "ntlm", "sip", "snmp", "tunnel", "dpd",
        "analyzer", "quic", "dhcp", "irc", "mqtt_connect", "mqtt_publish", "ldap", "radius", "rfb", "socks",
    )
)  # fmt: skip
# Words of Zeek in these logs only: elsewhere `name` is a file's or a person's, and Kerberos names a host in `service`.
_NARROW: Final = {"name": ("weird",), "service": ("conn", "cmdana")}
_LEFT_OUT: Final = frozenset(
    (
        "msg",
        "sub",
        "reasons",
        "cmdana.reasons",
        "cmdana.latest_reasons",
        "community_id",
        "addl",
        "email_dest",
        "peer_descr",
        "peer",
    )
)
_HEADER: Final = re.compile(
    r"#(separator|set_separator|empty_field|unset_field|path|open|close|fields|types)(?!\w)", re.ASCII
)
_PACKERS: Final[dict[str, Callable[[IO[bytes]], IO[bytes]]]] = {
    ".gz": lambda raw: cast("IO[bytes]", gzip.open(raw, "wb")),
    ".bz2": lambda raw: cast("IO[bytes]", bz2.open(raw, "wb")),
    ".xz": lambda raw: cast("IO[bytes]", lzma.open(raw, "wb")),
}
# Types whose values are numbers and words of Zeek's, as the header says; what it says wrongly, a line's parsing finds.
_NO_TEXT: Final = frozenset(("time", "interval", "double", "count", "int", "port", "bool", "enum"))
_WORD: Final = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_LABELS: Final = ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p", "label")


@dataclass(slots=True)
class Done:
    """The outcome of `anonymise`: rows written by file, and what was passed over."""

    files: dict[str, int] = field(default_factory=dict)
    not_logs: list[str] = field(default_factory=list)  # files of other kinds, which were not copied
    passed: PassedOver = field(default_factory=PassedOver)


class Anonymiser:
    """A deterministic pseudonymisation of addresses and names under one key."""

    def __init__(self, key: bytes) -> None:
        pan = CryptoPAn(hashlib.sha256(b"addresses" + key).digest())
        secret = hashlib.sha256(b"names" + key).digest()

        @lru_cache(maxsize=1 << 17)
        def address(text: str) -> str:
            return str(pan.anonymize(text))

        @lru_cache(maxsize=1 << 17)
        def name(text: str) -> str:
            labels = text.lower().split(".")
            if len(labels) > 16:
                labels = [*labels[:1], ".".join(labels[1:])]
            hashed = []
            for i in range(len(labels)):
                suffix = ".".join(labels[i:]).encode("utf-8", "surrogatepass")
                hashed.append(hmac.new(secret, suffix, hashlib.sha256).hexdigest()[:_HASH_CHARACTERS])
            return ".".join(hashed)

        self.address: Callable[[str], str] = (
            address  # of an IPv4 or IPv6 address; ValueError for anything else
        )
        self.name: Callable[[str], str] = name

    def string(self, field_name: str, text: str, log: str) -> str:
        """The pseudonymised text of a string field of a log."""
        kept = (field_name in _KEPT and log in _KNOWN_LOGS) or log in _NARROW.get(field_name, ())
        if not text or kept or field_name in _UIDS:
            return text
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return self.name(text)
        return self.address(text)


def anonymise(
    folder: Path,
    out: Path,
    key: bytes,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> Done:
    """The outcome of writing every Zeek log and label file of `folder` to the same place under `out`, pseudonymised.

    A log in TSV keeps its columns; one in JSON has Zeek's names and times in seconds. Nothing else is copied.
    Raises `CmdanaError` where `out` is not empty or cannot be written.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: is no folder; expected one that holds Zeek logs")
    with _alone(out):
        return _anonymised(folder, out, Anonymiser(key), progress)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The folder, made if need be, for one run at a time; one that stays empty goes again."""
    if out.exists() and not out.is_dir():
        raise CmdanaError(f"{out}: is a file; --out needs a folder")
    made = not out.exists()
    try:
        with ExitStack() as held:
            try:
                out.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.alone(out))
            except OSError as error:
                raise CmdanaError(f"{out}: cannot be written: {error.strerror}") from None
            if any(path.name != files.LOCK for path in out.iterdir()):
                raise CmdanaError(f"{out}: is not empty; choose another --out")
            yield
    except BaseException:
        if made:
            with suppress(OSError):  # what holds anything by now stays
                out.rmdir()
        raise


def _anonymised(
    folder: Path, out: Path, anonymiser: Anonymiser, progress: Callable[[str, float], None]
) -> Done:
    done = Done()
    found = sorted(f for f in files_below(folder) if not f.name.startswith(".") and out not in f.parents)
    for k, file in enumerate(found):
        name = str(file.relative_to(folder))
        passed = PassedOver()
        try:
            if file.suffix == ".csv" and named_stream(file.name) in ("", "labels"):
                lines = _labels(file, anonymiser, passed)
            elif may_be_log(file):
                lines = _log(file, anonymiser, passed)
                name += ".json" if is_parquet(file) else ""
            else:
                done.not_logs.append(name)
                continue
            first = next(lines, None)
        except RecordError:
            done.not_logs.append(name)
            continue
        try:
            rows = _write(out / name, first, lines)
            done.files[name] = passed.read if may_be_log(file) else rows
        except RecordError:  # a header, and then no rows of a log
            (out / name).unlink(missing_ok=True)
            done.not_logs.append(name)
            continue
        for reasons in passed.by_file.values():
            for reason, n in reasons.items():
                done.passed.add(name, reason, n)
        progress("anonymising", (k + 1) / len(found))
    if not done.files:
        raise RecordError(f"{folder}: holds no Zeek log and no label file")
    if done.passed.by_file and not any(done.files.values()):
        raise RecordError(f"{folder}: no record could be read{done.passed.words()}")
    return done


def _write(path: Path, first: str | None, lines: Iterator[str]) -> int:
    rows = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as raw, _words(raw, path) as file:
            for line in chain(() if first is None else (first,), lines):
                file.write(line)
                rows += line[:1] != "#"
    except OSError as error:
        raise CmdanaError(f"{path}: cannot be written: {error.strerror}") from None
    return rows


@contextmanager
def _words(raw: IO[bytes], path: Path) -> Iterator[IO[str]]:
    """The file to write text to, packed where its name will say so; `raw` stays open."""
    with ExitStack() as more:
        pack = _zstd if path.suffix == ".zst" else _PACKERS.get(path.suffix)
        packed = raw if pack is None else more.enter_context(pack(raw))
        text = io.TextIOWrapper(packed, encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            yield text
        finally:
            text.flush()
            text.detach()


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    import zstandard

    return cast("IO[bytes]", zstandard.ZstdCompressor().stream_writer(raw, closefd=False))


def _log(path: Path, anonymiser: Anonymiser, passed: PassedOver) -> Iterator[str]:
    """The log line by line, TSV as TSV and JSON as JSON. Raises `RecordError` where it is no Zeek log."""
    if is_parquet(path):
        for stream, record in records(path, passed):
            passed.read += 1
            yield _json(record, anonymiser, stream, "")
        return
    lines = LogLines(str(path), named_stream(path.name), passed)
    for chunk, whole in chunks(path, passed):
        for line in chunk.split(b"\n"):
            if not line:
                continue
            before = lines.layout
            found = lines.receive(line, whole=whole)
            passed.read += found is not None
            text = line.decode("utf-8", "backslashreplace").rstrip("\r")
            if found is not None and lines.layout is not None and not line.lstrip().startswith((b"{", b"[")):
                cells = lines.cells(text)
                fields = zip(lines.layout.names, lines.layout.types, cells, strict=True)
                try:
                    new = [_cell(n, t, c, anonymiser, found[0], lines.layout) for n, t, c in fields]
                    yield lines.joined(new) + "\n"
                except ValueError:  # no address where one is due
                    passed.add(str(path), NO_FIT)
            elif found is not None:
                yield _json(found[1], anonymiser, found[0], lines.stream)
            elif _HEADER.match(text) or (lines.layout is not before and not text.startswith("#")):
                yield text + "\n"


def _json(record: Mapping[str, object], anonymiser: Anonymiser, log: str, known: str) -> str:
    kept = {k: _value(k, v, anonymiser, log) for k, v in record.items() if k not in _LEFT_OUT}
    path_field = {} if log == known else {"_path": log if _WORD.fullmatch(log) else anonymiser.name(log)}
    return json.dumps(path_field | kept, ensure_ascii=False, separators=(",", ":")) + "\n"


def _value(name: str, value: object, anonymiser: Anonymiser, log: str) -> object:
    if isinstance(value, str):
        return anonymiser.string(name, value, log)
    if isinstance(value, list):
        return [_value(name, v, anonymiser, log) for v in value]
    if isinstance(value, dict):
        # A name inside a record of a script of the site's own: nothing is known of it.
        return {k: _value("", v, anonymiser, log) for k, v in value.items()}
    return value


def _cell(name: str, kind: str, cell: str, anonymiser: Anonymiser, log: str, layout: Layout) -> str:
    if cell in (layout.unset, layout.empty) or name == "ts":
        return cell
    if name in _LEFT_OUT:
        return layout.unset
    inner = kind.removeprefix("set[").removeprefix("vector[").removesuffix("]")
    if inner not in _NO_TEXT:
        parts = cell.split(layout.within) if inner != kind else [cell]
        return layout.within.join(_part(name, inner, part, anonymiser, log, layout) for part in parts)
    return cell


def _part(name: str, kind: str, text: str, anonymiser: Anonymiser, log: str, layout: Layout) -> str:
    if kind == "subnet":
        address, _, bits = text.partition("/")
        return f"{anonymiser.address(address)}/{bits}"
    if text in (layout.unset, layout.empty):
        return text
    if kind == "addr":
        return anonymiser.address(text)
    return anonymiser.string(name, text, log)


def _labels(path: Path, anonymiser: Anonymiser, passed: PassedOver) -> Iterator[str]:
    """A label file. Raises `RecordError` at the first line for a file of another kind."""
    with open(path, encoding="utf-8", errors="backslashreplace", newline="") as file:
        reader = csv.DictReader(bounded_lines(file, str(path), passed))
        try:
            columns = list(reader.fieldnames or ())
        except csv.Error:
            raise RecordError(f"{path}: no label file") from None
        if any(c not in columns for c in _LABELS):
            raise RecordError(f"{path}: no label file")
        yield _csv_line(columns)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error:
                passed.add(str(path), "no CSV record")
                continue
            yield _csv_line([_label(c, row.get(c) or "", anonymiser) for c in columns])


def _label(column: str, cell: str, anonymiser: Anonymiser) -> str:
    if column in ("uid", "ts", "proto", "orig_p", "resp_p", "label", "family", "strength"):
        return cell
    if column == "reason" or not cell:
        return ""
    return anonymiser.string(column, cell, "labels")


def _csv_line(cells: list[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def done_object(done: Done, out: Path) -> Mapping[str, object]:
    """The outcome as an object for `--json`."""
    return {
        "out": str(out),
        "files": done.files,
        "not_copied": done.not_logs,
        "passed_over": done.passed.object(),
    }
