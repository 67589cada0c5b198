"""Fields of notices in logs of versions that wrote sentences only, parsed from them; nothing else parses sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from cmdana_plugin.decision import ANOMALOUS_CONNECTION, ANOMALOUS_HOST, KNOWN_ATTACK, TRAFFIC_DRIFT
from cmdana_plugin.detector import ANOMALOUS
from cmdana_plugin.logs.reader import Field, text
from feature_extractors import LogValue

_MAX_CHARACTERS: Final = 4_000  # characters of a sentence that are looked at
_CONNECTION: Final = re.compile(
    r"\S+ -> \S+ (?P<service>\S+) (?:is unlike this network's normal|looks like (?P<attack>.*)) "
    r"\(score (?P<score>\d\.\d+), threshold (?P<threshold>\d\.\d+)\)"
)
_HOST: Final = re.compile(
    r"(?P<host>[0-9a-fA-F.:]+) (?P<does>is behind|receives) \d+ odd connections (?:to|from) "
    r"(?P<peers>\d{1,3})(?: or more)? hosts? \((?P<services>[^ ]+(?:, [^ ]+)*?)(?: and (?P<more>\d{1,3}) more)?\)"
)
_EVIDENCE: Final = re.compile(r"evidence (\d{1,9}) decades")
_DRIFT: Final = re.compile(
    r"(?P<traffic>.{1,80}) is no longer as the model learned it: (?P<share>\d{1,3})% of [\d,]{1,20} connections of "
    r"(?P<hosts>\d[\d,]{0,19}) hosts in (?P<count>one|\d{1,9}(?:\.\d{1,6})?) (?P<unit>second|minute|hour|day)s? "
    r"have a p-value of (?P<tail>0\.\d{1,6}) or less, where \d+% were promised; "
    r"so for (?P<windows>\d{1,9}) times in a row"
)
_UNITS: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_LATEST: Final = "latest: "


def _connection(message: str, reasons: list[LogValue]) -> dict[str, Field]:
    match = _CONNECTION.fullmatch(message)
    if match is None:
        return {}
    return {
        "verdict": match["attack"] or ANOMALOUS,
        "score": float(match["score"]),
        "threshold": float(match["threshold"]),
        "services": [str(match["service"])],
        "service_count": 1,
        "reasons": reasons,
    }


def _host(message: str, parts: list[LogValue]) -> dict[str, Field]:
    match = _HOST.fullmatch(message)
    if match is None:
        return {}
    services: list[LogValue] = [*match["services"].split(", ")]
    fields: dict[str, Field] = {
        "role": "originator" if match["does"] == "is behind" else "responder",
        "host": match["host"],
        "peers": int(match["peers"]),
        "services": services,
        "service_count": len(services) + int(match["more"] or 0),
    }
    at = next((i for i, part in enumerate(parts) if _EVIDENCE.fullmatch(str(part))), len(parts))
    fields["reasons"], latest = parts[:at], parts[at + 1 :]
    if at < len(parts):
        fields["evidence"] = float(str(parts[at]).split(" ")[1])
    if latest:
        fields["latest_reasons"] = [str(latest[0]).removeprefix(_LATEST), *latest[1:]]
    return fields


def _drift(message: str, reasons: list[LogValue]) -> dict[str, Field]:
    match = _DRIFT.fullmatch(message)
    if match is None:
        return {}
    count = 1.0 if match["count"] == "one" else float(match["count"])
    return {
        "traffic": match["traffic"],
        "share": int(match["share"]) / 100.0,
        "tail": float(match["tail"]),
        "hosts": int(match["hosts"].replace(",", "")),
        "window": count * _UNITS[match["unit"]],
        "windows": int(match["windows"]),
        "reasons": reasons[:-1],  # the last is advice
    }


_PARSERS: Final[Mapping[str, Callable[[str, list[LogValue]], dict[str, Field]]]] = {
    ANOMALOUS_CONNECTION: _connection,
    KNOWN_ATTACK: _connection,
    ANOMALOUS_HOST: _host,
    TRAFFIC_DRIFT: _drift,
}


def old_notice(row: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of `NOTICE_FIELDS` that `msg` and `sub` of a row state, by name; of other words, `sub` as a reason."""
    parse = _PARSERS.get(text(row, "note"))
    if parse is None:
        return {}
    sub = text(row, "sub")[:_MAX_CHARACTERS]
    reasons: list[LogValue] = [*sub.split("; ")]
    fields = parse(text(row, "msg")[:_MAX_CHARACTERS], reasons) or {"reasons": [sub]}
    return {name: value for name, value in fields.items() if value not in ([], [""])}
