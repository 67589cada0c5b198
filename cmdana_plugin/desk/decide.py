"""What follows from a decision: labels for the next training, and entries of the allow-list, scoped and for a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final, Literal

from cmdana_plugin.analyst import label, printable
from cmdana_plugin.desk.incidents import Incident
from cmdana_plugin.logs import Field, find_logs, number, read_rows, text
from feature_extractors import CmdanaError
from feature_extractors.readers import PassedOver

Scope = Literal["host", "pair", "behaviour"]
SCOPES: Final[tuple[Scope, ...]] = ("host", "pair", "behaviour")
MOST_ROWS: Final = 50_000  # connections of an incident that are labelled
_MOST_ENTRIES: Final = 16  # of the allow-list, from one incident
_WORDS: Final[Mapping[str, label.Word]] = {
    # `known` is something of one's own that no normal should be learned from: a scanner, an exercise
    "benign": "benign", "malicious": "malicious", "known": "unknown", "open": "unknown",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Followed:
    """What came of a decision."""

    labelled: int = 0  # connections
    unlabelled: int = 0  # connections past what is labelled at once
    store: Path | None = None
    entries: Sequence[str] = ()  # of the allow-list
    settings: Path | None = None


def connections(incident: str, folder: Path, passed: PassedOver) -> tuple[list[Mapping[str, Field]], int]:
    """The rows of an incident's connections, the latest of each, and how many there were past `MOST_ROWS`."""
    rows: dict[str, Mapping[str, Field]] = {}
    more = 0
    for file in find_logs([folder], "cmdana"):
        for row in read_rows(file, "cmdana", passed, only=_ROW, containing=incident):
            if text(row, "incident") != incident or text(row, "stage") == "early":
                continue
            uid = text(row, "uid")
            if uid in rows or len(rows) < MOST_ROWS:
                rows[uid] = row
            else:
                more += 1
    return list(rows.values()), more


def learned(
    incident: Incident, state: str, folder: Path, labels: Path, passed: PassedOver
) -> tuple[int, int]:
    """How many of an incident's connections got the label that a state stands for, and how many did not fit.

    Raises `LabelError` for a label file that cannot be used.
    """
    word = _WORDS.get(state)
    if word is None:
        return 0, 0
    found, more = connections(incident.id, folder, passed)
    rows = [row for row in found if label.fits(row)]
    more += len(found) - len(rows)
    if not rows:
        return 0, more
    family = re.sub(r"[^a-z0-9]+", "-", incident.kind.lower()).strip("-") if word == "malicious" else ""
    label.store_all(
        rows, word, labels, family=family, reason=f"incident {printable(incident.id, 64)}: {state}"
    )
    return len(rows), more


def allowed(
    incident: Incident, scope: Scope, until: str, folder: Path, settings: Path, passed: PassedOver
) -> list[str]:
    """The entries that were put into `[verdict] allow` of `settings`, or were there.

    Raises `CmdanaError` where the incident is too wide for the scope, `ConfigError` for a file that cannot be changed.
    """
    if until:
        try:
            date.fromisoformat(until)
        except ValueError:
            raise CmdanaError(f"--until: found {until!r}; expected a day such as 2026-12-31") from None
    rows, _ = connections(incident.id, folder, passed)
    wanted = [f"{entry} until {until}" if until else entry for entry in entries(incident, scope, rows)]
    settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in wanted:
        label.allow(entry, settings)
    return wanted


def entries(incident: Incident, scope: Scope, rows: Sequence[Mapping[str, Field]]) -> list[str]:
    """The entries of the allow-list that a scope comes to for an incident.

    `host`: the host with whomever and whatever. `pair`: each originator with each responder and port that there were.
    `behaviour`: the host with these services, whoever is at the other end; all of them where there are too many.
    """
    if scope == "host":
        return [incident.host]
    ends = sorted({
        (text(r, "id.orig_h"), text(r, "id.resp_h"), int(number(r, "id.resp_p")), text(r, "proto")) for r in rows
    })  # fmt: skip
    if not ends:
        raise CmdanaError(
            f"incident {incident.id}: no cmdana.log there has its connections; --allow host goes without"
        )
    if scope == "pair":
        pairs = sorted({label.allow_entry(r) for r in rows})
        hosts = sorted({f"{orig} -> {resp}" for orig, resp, _, _ in ends})
        found = pairs if len(pairs) <= _MOST_ENTRIES else hosts
        if len(found) > _MOST_ENTRIES:
            raise CmdanaError(
                f"incident {incident.id}: {len(hosts):,} pairs of hosts are no pair; take --allow behaviour or host"
            )
        return found
    ports = sorted({(port, proto) for _, _, port, proto in ends if proto in ("tcp", "udp", "icmp")})
    one = incident.role == "originator"
    other = f"[{incident.host}]" if ":" in incident.host else incident.host
    if not ports or len(ports) > _MOST_ENTRIES:
        return [f"{incident.host} -> any" if one else f"any -> {incident.host}"]
    return [
        f"{incident.host} -> any:{port}/{proto}" if one else f"any -> {other}:{port}/{proto}"
        for port, proto in ports
    ]


_ROW: Final = frozenset(
    ("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "service", "stage", "incident")
)
