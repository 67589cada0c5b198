"""The table of features: what `schema.yaml` says, checked, and its digest."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, cast

from feature_extractors.compiled import remembered
from feature_extractors.errors import SchemaError

Scale = Literal["log", "share"]
LogKind = Literal["name", "text", "enum", "number", "count"]
Values = frozenset[str | int]  # of a log field; 0 and 1 are false and true

PACKET_FIELDS: Final = ("is_orig", "length", "gap_time", "index")
_MOST_KINDS: Final = 127  # of outcomes, as one byte counts them
_TOLD: Final = {"one", "many", "field", "refused"}  # of an outcome at least
_ALSO: Final = {"ended": "refused", "accepted": [], "when": {}, "unless": {}, "times": ""}
_RANGE: Final = re.compile(r"(\d{1,3})-(\d{1,3})")
_TEXT_PARTS: Final = (("length", "length of "), ("entropy", "entropy of "), ("digits", "digits in "))


@dataclass(frozen=True, slots=True)
class Numeric:
    name: str
    words: str
    unit: str
    scale: Scale


@dataclass(frozen=True, slots=True)
class Categorical:
    """Codes: 0 unset, 1 a value that is not listed, 2.. the listed values (or hashed buckets)."""

    name: str
    words: str
    values: tuple[str, ...]
    hashed: int  # buckets where values are hashed instead of listed, else 0

    @property
    def size(self) -> int:
        return 2 + (self.hashed or len(self.values))


@dataclass(frozen=True, slots=True)
class LogField:
    """One field of one log stream, and the columns of `Features.log_summary` that it fills."""

    stream: str
    name: str
    kind: LogKind
    target: bool
    column: int  # first summary column; name and text own three, the others one


@dataclass(frozen=True, slots=True)
class BehaviourField:
    """One column of what runs of connections look like (`cmdana_plugin.behaviour`)."""

    name: str
    words: str
    unit: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One kind of thing that is asked for and accepted or refused, and how the entries of one stream tell it."""

    stream: str
    one: str  # words: SSH login
    many: str  # SSH logins
    ended: str  # how a refused one ended: refused, not found
    field: str
    accepted: Values  # of the field
    refused: Values
    when: tuple[tuple[str, Values], ...]  # values of other fields, of which one each must,
    unless: tuple[tuple[str, Values], ...]  # or none may, be there
    times: str  # a field that counts the attempts, "" none

    @property
    def fields(self) -> frozenset[str]:
        """All that it reads of an entry."""
        others = (name for name, _ in (*self.when, *self.unless))
        return frozenset((self.field, *others)) | ({self.times} if self.times else set())

    def words(self, times: int) -> str:
        """So many refused ones in words: `126 SSH logins refused`."""
        return f"{times:,} {self.one if times == 1 else self.many} {self.ended}"


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that fixes the meaning of a feature array: two with one digest give a model the same."""

    digest: str  # of all that a cross-modal model has seen: not of outcomes and behaviour
    first_packets: int
    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...]
    log_tokens: int
    log_buckets: int
    log_fields: tuple[LogField, ...]
    summary: tuple[str, ...]  # names of the log summary columns
    summary_words: tuple[str, ...]
    summary_target: tuple[bool, ...]
    summary_hashed: tuple[bool, ...]  # column holds a hashed code, not a magnitude
    spans: tuple[float, ...]  # seconds
    state: tuple[str, ...]  # names of the state columns
    state_words: tuple[str, ...]
    outcomes: tuple[Outcome, ...]  # `Encoded.told_by` is 1 + the index
    outcomes_digest: str
    behaviour: tuple[BehaviourField, ...]
    behaviour_digest: str
    further: Schema | None  # the same with the further logs behind; None: it has them

    def of(self, digest: str | None) -> Schema | None:
        """This schema or that with the further logs, whichever has the digest; None where neither has."""
        return next((s for s in (self, self.further) if s is not None and s.digest == digest), None)

    def reads(self) -> dict[str, set[str]]:
        """The fields that are read of each stream of logs, by a model or as outcomes."""
        fields: dict[str, set[str]] = {}
        for f in self.log_fields:
            fields.setdefault(f.stream, set()).add(f.name)
        for outcome in self.outcomes:
            fields.setdefault(outcome.stream, set()).update(outcome.fields)
        return fields


@functools.cache
def load_schema(path: Path | None = None) -> Schema:
    """The schema in `path`, or the one that ships. Raises `SchemaError` naming what was found and expected."""
    source = resources.files("feature_extractors.features") / "schema.yaml" if path is None else path
    where = "schema.yaml" if path is None else str(path)
    try:
        text = source.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        table = remembered("schema", digest, lambda: _table(text)) if path is None else _table(text)
    except (OSError, ValueError) as error:
        raise SchemaError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    try:
        return _schema(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(f"{where}: malformed: {type(error).__name__}: {error}") from error


def _table(text: str) -> Any:
    """What the text says. Raises `ValueError` where it is no YAML."""
    import yaml

    # By libyaml where it is there: a thirteenth of a second less.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def schema_of(digest: str) -> Schema:
    """The schema that ships, or the same with the further logs, by digest; for any other the former."""
    return load_schema().of(digest) or load_schema()


def _schema(table: Any) -> Schema:
    if table["version"] != 1:
        raise ValueError(f"version: found {table['version']!r}, expected 1")
    further, table = table.get("further"), {k: v for k, v in table.items() if k != "further"}
    if not further:
        return _without_further(table)
    streams = table["logs"]["streams"]
    if both := sorted(further.keys() & streams.keys()):
        raise ValueError(f"further: found {both}, which stand under logs.streams already")
    more = {**table, "logs": {**table["logs"], "streams": {**streams, **further}}}
    return replace(_without_further(table), further=_without_further(more))


def _without_further(table: Mapping[str, Any]) -> Schema:
    if tuple(table["packets"]["fields"]) != PACKET_FIELDS:
        raise ValueError(
            f"packets.fields: found {table['packets']['fields']}, expected {list(PACKET_FIELDS)}"
        )
    log_fields: list[LogField] = []
    summary: list[tuple[str, str, bool, bool]] = []
    for stream, entries in table["logs"]["streams"].items():
        for entry in entries:
            kind = entry["kind"]
            if kind not in ("name", "text", "enum", "number", "count"):
                raise ValueError(f"logs.streams.{stream}.{entry['name']}.kind: found {kind!r}")
            target = bool(entry.get("target", False))
            log_fields.append(LogField(stream, entry["name"], cast(LogKind, kind), target, len(summary)))
            name, words = f"{stream}.{entry['name']}", f"{stream} {entry['name'].replace('_', ' ')}"
            if kind in ("name", "text"):
                summary += [(f"{name}.{part}", prefix + words, target, False) for part, prefix in _TEXT_PARTS]
            else:
                summary.append((name, words, target, kind == "enum"))
    spans = tuple(float(s) for s in table["state"]["spans"])
    state: list[tuple[str, str]] = []
    for entry in table["state"]["fields"]:
        if entry.get("over") == "spans":
            state += [(f"{entry['name']}_{s:g}s", f"{entry['words']} in {s:g} s") for s in spans]
        else:
            state.append((entry["name"], entry["words"]))
    outcomes, behaviour = table.get("outcomes", {}), table.get("behaviour", [])
    return Schema(
        digest=_digest({k: v for k, v in table.items() if k not in ("outcomes", "behaviour")}),
        first_packets=int(table["packets"]["first"]),
        numeric=tuple(
            Numeric(f["name"], f["words"], f["unit"], f["scale"]) for f in table["connection"]["numeric"]
        ),
        categorical=tuple(
            Categorical(
                f["name"], f["words"], tuple(str(v) for v in f.get("values", ())), int(f.get("hashed", 0))
            )
            for f in table["connection"]["categorical"]
        ),
        log_tokens=int(table["logs"]["tokens"]),
        log_buckets=int(table["logs"]["buckets"]),
        log_fields=tuple(log_fields),
        summary=tuple(s[0] for s in summary),
        summary_words=tuple(s[1] for s in summary),
        summary_target=tuple(s[2] for s in summary),
        summary_hashed=tuple(s[3] for s in summary),
        spans=spans,
        state=tuple(s[0] for s in state),
        state_words=tuple(s[1] for s in state),
        outcomes=_outcomes(outcomes),
        outcomes_digest=_digest(outcomes),
        behaviour=_behaviour(behaviour),
        behaviour_digest=_digest(behaviour),
        further=None,
    )


def _digest(table: Any) -> str:
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _behaviour(lines: Any) -> tuple[BehaviourField, ...]:
    fields = tuple(BehaviourField(**line) for line in lines)
    for i, field in enumerate(fields):
        if any(type(word) is not str for word in (field.name, field.words, field.unit)) or not field.words:
            raise ValueError(f"behaviour.{i}: found {field}, expected a name, words and a unit")
    if len({field.name for field in fields}) < len(fields):
        raise ValueError("behaviour: found a name twice")
    return fields


def _outcomes(streams: Any) -> tuple[Outcome, ...]:
    found: list[Outcome] = []
    for stream, kinds in streams.items():
        for kind in kinds:
            where = f"outcomes.{stream}.{len(found)}"
            if not _TOLD <= kind.keys() <= _TOLD | _ALSO.keys():
                raise ValueError(
                    f"{where}: found {sorted(kind)}, expected {sorted(_TOLD)}, or {sorted(_ALSO)} too"
                )
            said = _ALSO | kind
            words = {name: said[name] for name in ("one", "many", "ended", "field", "times")}
            if any(type(word) is not str for word in words.values()):
                raise ValueError(f"{where}: found {words}, expected words")
            accepted, refused = _values(said["accepted"], where), _values(said["refused"], where)
            if not refused or accepted & refused:
                both = sorted(map(str, accepted & refused))
                raise ValueError(
                    f"{where}: found {both or 'nothing'} refused, expected values that are not accepted"
                )
            when, unless = (
                tuple((name, _values(values, where)) for name, values in said[part].items())
                for part in ("when", "unless")
            )
            found.append(
                Outcome(stream, accepted=accepted, refused=refused, when=when, unless=unless, **words)
            )
    if len(found) > _MOST_KINDS:
        raise ValueError(f"outcomes: found {len(found)} kinds, expected at most {_MOST_KINDS}")
    return tuple(found)


def _values(told: Any, where: str) -> Values:
    """Words and numbers, a range's one by one; a truth value is its number, and the letter that stands in a log."""
    if type(told) is not list:
        raise ValueError(f"{where}: found {told!r}, expected a list of values")
    values: set[str | int] = set()
    for value in told:
        if type(value) is bool:
            values |= {int(value), "T" if value else "F"}
        elif type(value) is str and (span := _RANGE.fullmatch(value)):
            values.update(range(int(span[1]), int(span[2]) + 1))
        elif type(value) in (int, str):
            values.add(value)
        else:
            raise ValueError(f"{where}: found {value!r}, expected a word, a number, a range, true or false")
    return frozenset(values)
