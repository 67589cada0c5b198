"""An operator's labels of verdicts: the label store that the next training reads, and the allow-list."""

from __future__ import annotations

import csv
import io
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cmdana_plugin import config as configuration
from cmdana_plugin import files
from cmdana_plugin.analyst.printing import printable
from cmdana_plugin.config import ConfigError
from cmdana_plugin.decision import AllowList
from cmdana_plugin.logs import (
    Field,
    Held,
    LabelError,
    find_logs,
    number,
    read_rows,
    text,
)
from cmdana_plugin.logs import rows as label_rows
from feature_extractors import RecordError
from feature_extractors.readers import PassedOver

Word = Literal["benign", "malicious", "unknown"]

_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,30}", re.ASCII)
_NO_FORMULA: Final = re.compile(r"^[=+\-@\s]+|[\x00-\x1f\x7f]")

COLUMNS: Final = (
    "capture", "uid", "ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p", "label", "family", "strength", "reason",
)  # fmt: skip


def find(uid: str, folder: Path, passed: PassedOver | None = None) -> Mapping[str, Field]:
    """The latest verdict on `uid` in the logs of `folder`; lines passed over are counted in `passed`.

    Raises `RecordError` where there is none, or where several connections bear that uid.
    """
    files = find_logs([folder], "cmdana")
    if not files:
        raise RecordError(f"{folder}: no cmdana.log there")
    passed = PassedOver() if passed is None else passed
    held = Held(passed)
    for file in files:
        for row in read_rows(file, "cmdana", passed, containing=uid):
            if text(row, "uid") == uid:
                held.add(row, str(file))
    found = held.rows
    if not found:
        raise RecordError(f"{folder}: no verdict on uid {printable(uid, 60)}{passed.words()}")
    if len({_key(_label_row(row, "unknown", "", "")) for row in found}) > 1:
        raise RecordError(
            f"{folder}: several connections bear the uid {printable(uid, 60)}; name the folder of one run with --logs"
        )
    return found[-1]


def store(
    row: Mapping[str, Field], label: Word, path: Path, *, family: str = "", reason: str = ""
) -> str | None:
    """The label that this one of a verdict's connection replaces in the store, None for none.

    The store has one row for each connection, the latest label. The file is replaced whole, so that an interruption
    leaves the old one. Raises `LabelError` for a file of another kind.
    """
    before = store_all([row], label, path, family=family, reason=reason)
    return before[0] if before else None


def store_all(
    of: Sequence[Mapping[str, Field]], label: Word, path: Path, *, family: str = "", reason: str = ""
) -> list[str]:
    """The labels that this one of many verdicts' connections replaces in the store, as `store` does for one.

    Raises `LabelError` as well where one of them cannot be labelled (`fits`).
    """
    why = reason or f"operator, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    new = {_key(made): made for made in (_label_row(row, label, family, why) for row in of)}
    with _locked(path):
        kept = [
            {name: old.get(name) or "" for name in COLUMNS}
            for _, old in (label_rows(path) if path.exists() else ())
        ]
        replaced = {_key(old): old for old in kept if _key(old) in new}
        same = all(old["label"] == label and old["family"] == family for old in replaced.values())
        if len(replaced) == len(new) and same:
            return [label] * len(new)
        text_of = io.StringIO(newline="")
        writer = csv.DictWriter(text_of, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([old for old in kept if _key(old) not in new] + list(new.values()))
        _replace(path, text_of.getvalue())
    return [old["label"] for old in replaced.values()]


def fits(row: Mapping[str, Field]) -> bool:
    """Whether a verdict's connection can be labelled: its ends are addresses."""
    try:
        _label_row(row, "unknown", "", "")
    except LabelError:
        return False
    return True


def allow_entry(row: Mapping[str, Field]) -> str:
    """The entry of `[verdict] allow` for connections like this one: originator -> responder:port/proto."""
    orig, resp, proto = text(row, "id.orig_h"), text(row, "id.resp_h"), text(row, "proto")
    resp = f"[{resp}]" if ":" in resp else resp
    if proto not in ("tcp", "udp", "icmp"):
        return f"{orig} -> {resp.strip('[]')}"
    return f"{orig} -> {resp}:{text(row, 'id.resp_p')}/{proto}"


def allow(entry: str, path: Path) -> bool:
    """Whether the entry was added to `[verdict] allow` of a `plugin.toml`: False where it is there. All else is kept.

    Raises `ConfigError` where the file cannot be used, or has a form in which this cannot be done safely.
    """
    AllowList([entry])
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    before = configuration.parse(old.encode(), str(path))
    if entry in before.verdict.allow:
        return False
    new = _with_entry(old, entry, bool(before.verdict.allow))
    try:
        after = configuration.parse(new.encode(), str(path))
    except ConfigError:
        after = before
    want = before.model_copy(
        update={"verdict": before.verdict.model_copy(update={"allow": (entry, *before.verdict.allow)})}
    )
    if after != want:
        raise ConfigError(f'{path}: [verdict] allow: could not be edited safely; add "{entry}" by hand')
    _replace(path, new)
    return True


def _with_entry(toml: str, entry: str, more: bool) -> str:
    """The entry put first into the array, whether the table and the key are there or not."""
    lines = toml.splitlines(keepends=True)
    table = next((i for i, line in enumerate(lines) if line.split("#")[0].strip() == "[verdict]"), None)
    if table is None:
        gap = "" if not toml else "\n" if toml.endswith("\n") else "\n\n"
        return f'{toml}{gap}[verdict]\nallow = ["{entry}"]\n'
    at = sum(map(len, lines[: table + 1]))
    for line in lines[table + 1 :]:
        if line.lstrip().startswith("["):
            break
        if line.split("=")[0].strip() == "allow" and "=" in line:
            opening = toml.index("[", at) + 1
            return f'{toml[:opening]}"{entry}"{", " if more else ""}{toml[opening:]}'
        at += len(line)
    start = sum(map(len, lines[: table + 1]))
    gap = "" if toml[:start].endswith("\n") else "\n"
    return f'{toml[:start]}{gap}allow = ["{entry}"]\n{toml[start:]}'


def _label_row(row: Mapping[str, Field], label: str, family: str, reason: str) -> dict[str, str]:
    """A row of the store. What would not be told from a formula by a spreadsheet is no address, uid or protocol.

    Raises `LabelError` for ends that are no addresses.
    """
    try:
        orig, resp = (str(ipaddress.ip_address(text(row, name))) for name in ("id.orig_h", "id.resp_h"))
    except ValueError:
        raise LabelError(
            f"uid {printable(text(row, 'uid'), 60)}: its ends are no addresses: no label fits"
        ) from None
    uid, proto = text(row, "uid"), text(row, "proto")
    ports = [str(int(min(max(number(row, name), 0.0), 65535.0))) for name in ("id.orig_p", "id.resp_p")]
    return {
        "capture": "", "uid": uid if uid.isascii() and uid.isalnum() else "", "ts": f"{number(row, 'ts'):.6f}",
        "proto": proto if _WORD.fullmatch(proto) else "unknown_transport",
        "orig_h": orig, "orig_p": ports[0], "resp_h": resp, "resp_p": ports[1],
        "label": label, "family": family, "strength": "strict", "reason": _NO_FORMULA.sub(" ", reason),
    }  # fmt: skip


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    try:
        ts = f"{float(row['ts']):.6f}"
    except ValueError:
        ts = row["ts"]
    return (ts, *(row[name] for name in ("proto", "orig_h", "orig_p", "resp_h", "resp_p")))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. Raises `LabelError` where the folder cannot be written."""
    with ExitStack() as held:
        try:
            held.enter_context(files.in_turn(path))
        except OSError as error:
            raise LabelError(f"{path}: cannot be written: {error.strerror}") from None
        yield


def _replace(path: Path, content: str) -> None:
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o640
        files.replace(path, content.encode("utf-8", "backslashreplace"), mode)
    except OSError as error:
        raise LabelError(f"{path}: cannot be written: {error.strerror}") from None
