"""Logs and labels without the names and addresses of a site: prefix-preserving Crypto-PAn, and keyed hashes.

Addresses keep their common prefixes (Xu et al., Prefix-Preserving IP Address Anonymization, ICNP 2002). A string is
kept only where its field is known to hold none of the site's own words; every other one is hashed, label by label so
that names of one domain still share their ending. Sentences are left out: they can hold names in any form.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import io
import ipaddress
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Final

from yacryptopan import CryptoPAn

from cmdana_plugin import files
from cmdana_plugin.logs import Skipped, bounded_lines, checked
from feature_extractors import CmdanaError, RecordError
from feature_extractors.readers import files_below

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
_TIME: Final = re.compile(r"[-+:.TZ\d]{1,40}", re.ASCII)
_LABELS: Final = ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p", "label")


@dataclass(slots=True)
class Done:
    """What was written: rows by file, and what was passed over."""

    files: dict[str, int] = field(default_factory=dict)
    not_logs: list[str] = field(default_factory=list)  # files of other kinds, which were not copied
    skipped: dict[str, Skipped] = field(default_factory=dict)


class Anonymiser:
    """Addresses and names under one key; the same in, the same out."""

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
        """A string of a field of a log, as it may leave the site."""
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
    """Writes every Zeek log (TSV, JSON, gz) and label file of `folder` to the same place under `out`.

    Nothing else is copied. Raises `CmdanaError` where `out` is not empty or cannot be written.
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
        skipped: Skipped = Counter()
        try:
            if file.suffix == ".csv":
                lines = _labels(file, anonymiser, skipped)
            elif file.suffixes[-1:] == [".log"] or file.suffixes[-2:] == [".log", ".gz"]:
                lines = _log(file, anonymiser, skipped)
            else:
                done.not_logs.append(name)
                continue
            first = next(lines, None)
        except RecordError:
            done.not_logs.append(name)
            continue
        try:
            done.files[name] = _write(out / name, first, lines)
        except RecordError:  # a header, and then no rows of a log
            (out / name).unlink(missing_ok=True)
            done.not_logs.append(name)
            continue
        if skipped:
            done.skipped[name] = skipped
        progress("anonymising", (k + 1) / len(found))
    if not done.files:
        raise RecordError(f"{folder}: holds no Zeek log and no label file")
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
        packed = more.enter_context(gzip.open(raw, "wb")) if path.suffix == ".gz" else raw
        text = io.TextIOWrapper(packed, encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            yield text
        finally:
            text.flush()
            text.detach()


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="backslashreplace", newline="\n")
    return open(path, encoding="utf-8", errors="backslashreplace", newline="\n")


def _log(path: Path, anonymiser: Anonymiser, skipped: Skipped) -> Iterator[str]:
    """The log line by line in its own format. Raises `RecordError` at the first line if it is no Zeek log."""
    log = path.name.split(".")[0]
    names: list[str] = []
    types: list[str] = []
    known = False  # as a Zeek log, by a record or by a line under a header
    with _open(path) as file:
        try:
            for line in bounded_lines(file, str(path), skipped):
                if not line.endswith("\n"):
                    skipped["half-written last line"] += 1
                elif line.startswith("#"):
                    if line.startswith("#fields\t"):
                        names = line.rstrip("\r\n").split("\t")[1:]
                    elif line.startswith("#types\t"):
                        types = line.rstrip("\r\n").split("\t")[1:]
                    yield line
                elif line.startswith("{"):
                    known = True
                    yield from _json(line, anonymiser, log, skipped)
                elif names and len(types) == len(names):
                    known = True
                    cells = line.rstrip("\r\n").split("\t")
                    fields = zip(names, types, cells, strict=True)
                    try:
                        yield "\t".join(_cell(n, t, c, anonymiser, log) for n, t, c in fields) + "\n"
                    except ValueError:  # too many fields, too few, or no address where one is due
                        skipped["fields do not match the header"] += 1
                elif not known:
                    raise RecordError(f"{path}: no Zeek log")
                elif line != "\n":
                    skipped["no JSON record"] += 1
        except (gzip.BadGzipFile, zlib.error, EOFError, OSError) as error:
            raise RecordError(f"{path}: cannot be read: {error}") from None


def _json(line: str, anonymiser: Anonymiser, log: str, skipped: Skipped) -> Iterator[str]:
    try:
        row = json.loads(line)
        checked(row)
    except (ValueError, RecursionError):
        skipped["no JSON record"] += 1
        return
    kept = {k: _value(k, v, anonymiser, log) for k, v in row.items() if k not in _LEFT_OUT}
    yield json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"


def _value(name: str, value: object, anonymiser: Anonymiser, log: str) -> object:
    if isinstance(value, str):
        return value if name == "ts" and _TIME.fullmatch(value) else anonymiser.string(name, value, log)
    if isinstance(value, list):
        return [_value(name, v, anonymiser, log) for v in value]
    if isinstance(value, dict):
        # A name inside a record of a script of the site's own: nothing is known of it.
        return {k: _value("", v, anonymiser, log) for k, v in value.items()}
    return value


def _cell(name: str, kind: str, cell: str, anonymiser: Anonymiser, log: str) -> str:
    if cell in ("-", "(empty)"):
        return cell
    if name in _LEFT_OUT:
        return "-"
    inner = kind.removeprefix("set[").removeprefix("vector[").removesuffix("]")
    if inner in ("string", "addr", "subnet"):
        parts = cell.split(",") if inner != kind else [cell]
        return ",".join(_part(name, inner, part, anonymiser, log) for part in parts)
    return cell


def _part(name: str, kind: str, text: str, anonymiser: Anonymiser, log: str) -> str:
    if kind == "subnet":
        address, _, bits = text.partition("/")
        return f"{anonymiser.address(address)}/{bits}"
    if text in ("-", "(empty)"):
        return text
    if kind == "addr":
        return anonymiser.address(text)
    return anonymiser.string(name, text, log)


def _labels(path: Path, anonymiser: Anonymiser, skipped: Skipped) -> Iterator[str]:
    """A label file. Raises `RecordError` at the first line for a file of another kind."""
    with open(path, encoding="utf-8", errors="backslashreplace", newline="") as file:
        reader = csv.DictReader(bounded_lines(file, str(path), skipped))
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
                skipped["no CSV record"] += 1
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
    """What was written, for `--json`."""
    return {
        "out": str(out),
        "files": done.files,
        "not_copied": done.not_logs,
        "passed_over": {name: dict(reasons) for name, reasons in done.skipped.items()},
    }
