"""The notices of a notice.log as they are read, whichever version wrote it; `notices` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cmdana_plugin.logs.notices import connection_title
from cmdana_plugin.logs.old_notices import old_notice
from cmdana_plugin.logs.reader import Field, read_rows, text, texts
from cmdana_plugin.logs.streams import NOTICE_FIELDS
from feature_extractors.readers import PassedOver


def read_notices(path: Path, passed: PassedOver) -> Iterator[Mapping[str, Field]]:
    """The notices of cmdana in one notice.log, with the columns of the present version whichever version wrote it.

    Lines that are no record are counted in `passed`. Raises `RecordError` for a file that is no Zeek log.
    """
    for row in read_rows(path, "notice", passed):
        if is_notice(row):
            yield completed(row)


def is_notice(row: Mapping[str, Field]) -> bool:
    """Whether a row of notice.log is a notice of cmdana."""
    return text(row, "note").startswith("CMDANA::")


def completed(row: Mapping[str, Field]) -> Mapping[str, Field]:
    """A notice of cmdana with the columns of the present version; those of an older one are read from its words."""
    if any(f"cmdana.{name}" in row for name in NOTICE_FIELDS):
        return row
    return {**row, **{f"cmdana.{name}": value for name, value in old_notice(row).items()}}


def title(row: Mapping[str, Field]) -> str:
    """`msg` of a completed row, without the score where it is about one connection."""
    services = texts(row, "cmdana.services")
    if "cmdana.score" not in row or "cmdana.role" in row or not services:
        return text(row, "msg")
    return connection_title(
        text(row, "id.orig_h"), text(row, "id.resp_h"), services[0], text(row, "cmdana.verdict")
    )
