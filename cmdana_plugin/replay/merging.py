"""What several detectors know of one site in one state: of shards that become fewer, or of an archive and a live Zeek.

What several know of one thing is added up where it can be (counts, histograms); else who has seen more is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import persistence_of_all
from cmdana_plugin.replay.keeping import refusal
from cmdana_plugin.statefile import State, StateError, of_text, prefixed, text_array, under

Arrays = dict[str, NDArray[Any]]
Columns = dict[str, NDArray[Any]]
# Of the rows that both know: those of the one and of the other in, those to keep out.
Both = Callable[[Columns, Columns], Columns]

_WAYS: Final = 8  # of a set, in all set-associative tables
_PROBES: Final = 16  # places that a host may take in the table of evidence
_SITE: Final = "detector."
_EVIDENCE: Final = "decider.evidence."


@dataclass(slots=True)
class _Table:
    """The taken rows of one table: how many places it has, and the columns by name."""

    size: int
    columns: Columns
    key: str


def merged(states: Sequence[State]) -> tuple[State, list[str]]:
    """All that the states know, and in words what could not be carried over.

    What is of one stream alone (drift's window, what was adapted, the paces of the last minutes) is that of the state
    of the latest network time. States that began from one common state count twice what they had from that. Raises
    `StateError` where they do not belong together.
    """
    order = sorted(states, key=lambda s: -float(s.about.get("network_time", 0.0)))
    base, left = order[0], []
    for other in order[1:]:
        if why := refusal(other.about, base.about):
            raise StateError(f"a state {why}: they are not of one site")
        if other.about.get("network") != base.about.get("network"):
            raise StateError(
                "the states are of two models: what their networks remember cannot be put together"
            )
    arrays = [dict(s.arrays) for s in order]
    try:
        out = dict(arrays[0])
        out |= _histories(arrays)
        out |= _behaviour(arrays)
        out |= _services(arrays)
        out |= _suspicion(arrays)
        out |= _persistence(arrays)
        keys = {tuple(of_text(a, f"{_EVIDENCE}numbers")["key"]) for a in arrays}
        if len(keys) == 1:
            out |= _evidence(arrays)
        else:
            left.append(
                "evidence and open incidents are those of the latest state: the others hash hosts by other keys"
            )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise StateError(f"the states cannot be put together: {error!s:.200}") from None
    left.append("drift and what was adapted are those of the latest state")
    return State(base.about, out), left


# Tables


def _read(arrays: Mapping[str, NDArray[Any]], table: str, key: str) -> _Table:
    at = arrays[f"{table}.at"]
    size = arrays[f"{table}.rows_in_all" if f"{table}.rows_in_all" in arrays else f"{table}.slots"]
    names = [n for n in arrays if n.startswith(f"{table}.") and n.count(".") == table.count(".") + 1]
    skipped = (f"{table}.at", f"{table}.rows_in_all", f"{table}.slots")
    columns = {n.removeprefix(f"{table}."): arrays[n] for n in names if n not in skipped}
    return _Table(int(size[0]), {n: c[: len(at)] for n, c in columns.items()}, key)


def _joined(tables: Sequence[_Table], both: Both) -> tuple[Columns, list[NDArray[np.int64]]]:
    """The rows of all tables, each key once, and where the rows of each are among them."""
    first = tables[0]
    columns, where = (
        {n: c.copy() for n, c in first.columns.items()},
        [np.arange(len(first.columns[first.key]))],
    )
    for other in tables[1:]:
        _, ours, theirs = np.intersect1d(columns[first.key], other.columns[first.key], return_indices=True)
        if len(ours):
            rows = both(_of(columns, ours), _of(other.columns, theirs))
            for name, column in columns.items():
                column[ours] = rows[name]
        new = np.setdiff1d(np.arange(len(other.columns[first.key])), theirs)
        place = np.empty(len(other.columns[first.key]), np.int64)
        place[theirs] = ours
        place[new] = len(columns[first.key]) + np.arange(len(new))
        columns = {n: np.concatenate([c, other.columns[n][new]]) for n, c in columns.items()}
        where.append(place)
    return columns, where


def _of(columns: Columns, rows: NDArray[np.intp]) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def _in_sets(
    columns: Columns, key: str, worth: NDArray[Any], size: int
) -> tuple[int, NDArray[np.int64], Columns]:
    """A set-associative table's size, a power of two from `size` on in which all have room, the places that are taken
    [n], rising, and the rows that they hold.
    """
    keys = columns[key]
    most = 4 * max(size, 1 << max(len(keys) - 1, 0).bit_length())
    while True:
        sets = (keys >> np.uint64(8)) % np.uint64(size // _WAYS)
        order = np.lexsort((-worth.astype(np.float64), sets))
        begins = np.searchsorted(sets[order], sets[order])
        way = np.arange(len(order)) - begins
        if size >= most or not len(way) or way.max() < _WAYS:
            break
        size *= 2
    kept = way < _WAYS  # the least used of a set that has no room go
    place = sets[order].astype(np.int64)[kept] * _WAYS + way[kept]
    rising = np.argsort(place)
    return size, place[rising], _of(columns, order[kept][rising])


def _more(by: Callable[[Columns], NDArray[Any]], added: Sequence[str] = ()) -> Both:
    """Of rows that both know those of whoever knows more by this measure, with the `added` columns of both."""

    def both(one: Columns, other: Columns) -> Columns:
        ours = by(one) >= by(other)
        out = {n: np.where(ours.reshape(-1, *[1] * (c.ndim - 1)), c, other[n]) for n, c in one.items()}
        return out | {n: (one[n] + other[n]).astype(one[n].dtype) for n in added}

    return both


# What the detector's rooms know.


def _prefix(arrays: Mapping[str, NDArray[Any]], ending: str) -> str | None:
    found = [n.removesuffix(ending) for n in arrays if n.startswith("detector.") and n.endswith(ending)]
    return min(found, key=len, default=None)


def _histories(arrays: Sequence[Arrays]) -> Arrays:
    from cmdana_plugin.detector import join_hosts, join_ports

    prefix = _prefix(arrays[0], "marks.keys")
    if prefix is None:
        return {}

    def by(column: int, *added: str) -> Both:
        return _more(lambda columns: columns["values"][:, column], added)

    def hosts(one: Columns, other: Columns) -> Columns:
        return by(24)(one, other) | {"values": join_hosts(one["values"], other["values"])}

    def ports(one: Columns, other: Columns) -> Columns:
        return by(0)(one, other) | {"values": join_ports(one["values"], other["values"])}

    out: Arrays = {}
    rules: dict[str, Both] = {
        "hosts": hosts, "services": by(0, "values"), "pairs": by(4), "marks": by(0, "values"), "ports": ports,
    }  # fmt: skip
    for name, both in rules.items():
        table = prefix + name
        size, at, rows = _sets(arrays, table, both)
        out |= rows
        out |= {f"{table}.at": at, f"{table}.rows_in_all": np.array([size])}
    return out


def _sets(arrays: Sequence[Arrays], table: str, both: Both) -> tuple[int, NDArray[np.int64], Arrays]:
    """One set-associative table of all: its places, where each row stands, and its columns as a state names them."""
    tables = [_read(a, table, "keys") for a in arrays]
    columns, _ = _joined(tables, both)
    size, at, rows = _in_sets(columns, "keys", columns["used"], max(t.size for t in tables))
    return size, at, {f"{table}.{n}": c for n, c in rows.items()}


def _behaviour(arrays: Sequence[Arrays]) -> Arrays:
    prefix = _prefix(arrays[0], "meetings.keys")
    if prefix is None:
        return {}
    for other in arrays[1:]:  # whose clusters are its own
        for name in ("pairs", "uses", "targets", "domains", "hosts"):
            held = other[f"{prefix}{name}.held"] = other[f"{prefix}{name}.held"].copy()
            held[:, 2] = 0.0
    out: Arrays = {}
    streams = _more(lambda c: c["seen"][:, 0], ("seen", "visits"))
    rules: dict[str, Both] = dict.fromkeys(("pairs", "uses", "targets", "domains", "hosts"), streams)
    rules |= {"meetings": _more(lambda c: c["value"]), "likes": _more(lambda c: c["value"], ("value",))}
    for name, both in rules.items():
        table = prefix + name
        size, at, rows = _sets(arrays, table, both)
        out |= rows
        out |= {f"{table}.at": at.astype(np.int32), f"{table}.slots": np.array([size], np.int32)}
    out[f"{prefix}clock"] = np.max([a[f"{prefix}clock"] for a in arrays], axis=0)
    out[f"{prefix}evicted"] = np.sum([a[f"{prefix}evicted"] for a in arrays], axis=0)
    return out


def _services(arrays: Sequence[Arrays]) -> Arrays:
    """The histograms of the site's services; who has none here yet gets a place that is free."""
    if f"{_SITE}names" not in arrays[0]:
        return {}
    base = arrays[0]
    names: list[str] = of_text(base, f"{_SITE}names")
    columns = ("past", "total", "top", "used", "uses", "number")
    whole: Columns = {}
    for column in columns:
        known = base[f"{_SITE}services.{column}"]
        whole[column] = np.zeros((len(names), *known.shape[1:]), known.dtype)
        whole[column][base[f"{_SITE}services.at"]] = known
    clock = base[f"{_SITE}clock"].copy()
    free = [place for place, name in enumerate(names) if not name]
    for other in arrays[1:]:
        theirs: list[str] = of_text(other, f"{_SITE}names")
        for row, place in enumerate(other[f"{_SITE}services.at"].tolist()):
            name = theirs[place]
            if name in names:
                at = names.index(name)
            elif free:
                at = free.pop(0)
                names[at] = name
                clock[1] += 1
                whole["number"][at], whole["used"][at] = clock[1], clock[0]
            else:
                continue
            for column in ("past", "total", "uses"):
                whole[column][at] += other[f"{_SITE}services.{column}"][row]
            whole["top"][at] = np.maximum(whole["top"][at], other[f"{_SITE}services.top"][row])
    taken = np.flatnonzero([bool(name) for name in names])
    out = {f"{_SITE}services.{column}": whole[column][taken] for column in columns}
    return out | {f"{_SITE}services.at": taken, f"{_SITE}names": text_array(names), f"{_SITE}clock": clock}


def _suspicion(arrays: Sequence[Arrays]) -> Arrays:
    prefix = _prefix(arrays[0], "suspicion.suspects")
    if prefix is None:
        return {}
    prefix += "suspicion."
    evidence: dict[int, NDArray[Any]] = {}
    suspects: dict[int, float] = {}
    for a in arrays:
        for host, row in zip(a[f"{prefix}hosts"].tolist(), a[f"{prefix}evidence"], strict=True):
            evidence[host] = max(evidence.get(host, row), row, key=lambda r: float(r[0]))
        for host, held in zip(a[f"{prefix}suspects"].tolist(), a[f"{prefix}held"].tolist(), strict=True):
            suspects[host] = max(suspects.get(host, 0.0), held)
    enough = sorted(suspects)
    return {
        f"{prefix}hosts": np.array(list(evidence), np.uint64),
        f"{prefix}evidence": np.array(list(evidence.values())).reshape(-1, 2),
        f"{prefix}suspects": np.array(enough, np.uint64),
        f"{prefix}held": np.array([suspects[host] for host in enough]),
    }


def _persistence(arrays: Sequence[Arrays]) -> Arrays:
    prefix = _prefix(arrays[0], "persistence.reached")
    if prefix is None:
        return {}
    prefix += "persistence."
    return prefixed(prefix, persistence_of_all([under(prefix, a) for a in arrays]))


# What the decider knows.


def _evidence(arrays: Sequence[Arrays]) -> Arrays:
    tables = [_read(a, f"{_EVIDENCE}hosts", "keys") for a in arrays]

    def both(one: Columns, other: Columns) -> Columns:
        rows = _more(lambda c: c["value"].max(axis=(1, 2)))(one, other)
        rows["several"] = one["several"] | other["several"] | (one["other"] != other["other"])
        return rows | {"last_open": np.maximum(one["last_open"], other["last_open"])}

    columns, where = _joined(tables, both)
    size, keys = tables[0].size, columns["keys"]
    taken: dict[int, int] = {}
    place = np.full(len(keys), -1)
    for row in np.argsort(-np.maximum(columns["value"].max(axis=(1, 2)), columns["last_open"])).tolist():
        begin = int(keys[row]) % size
        free = next((p % size for p in range(begin, begin + _PROBES) if p % size not in taken), -1)
        if free >= 0:
            taken[free], place[row] = row, free
    at = np.array(sorted(taken), np.int64)
    rows = np.array([taken[p] for p in at.tolist()], np.intp)
    out: Arrays = {f"{_EVIDENCE}hosts.{n}": c for n, c in _of(columns, rows).items()}
    out |= {f"{_EVIDENCE}hosts.at": at, f"{_EVIDENCE}hosts.rows_in_all": np.array([size])}
    numbers = [of_text(a, f"{_EVIDENCE}numbers") for a in arrays]
    hours = max(len(n["hours"]) for n in numbers)
    summed = np.sum([[0] * (hours - len(n["hours"])) + n["hours"] for n in numbers], axis=0).tolist()
    roles = range(len(numbers[0]["blocks"]))
    total = dict(numbers[0]) | {
        "forgotten": sum(n["forgotten"] for n in numbers) + int((place < 0).sum()),
        "hours": [int(n) for n in summed],
        "before": np.max([n["before"] for n in numbers], axis=0).tolist(),
        "blocks": [[length for n in numbers for length in n["blocks"][role]] for role in roles],
    }
    out[f"{_EVIDENCE}numbers"] = text_array(total)
    for role in roles:
        out[f"{_EVIDENCE}blocks.{role}"] = np.concatenate([a[f"{_EVIDENCE}blocks.{role}"] for a in arrays])
    new = [_moved(a, w, place) for a, w in zip(arrays, where, strict=True)]
    return out | _habits(arrays) | {"decider.incidents": _incidents(arrays, new)}


def _moved(arrays: Arrays, where: NDArray[np.int64], place: NDArray[np.int64]) -> dict[int, int]:
    """New place by old one, of hosts that have one."""
    old = arrays[f"{_EVIDENCE}hosts.at"].tolist()
    return {a: int(place[w]) for a, w in zip(old, where.tolist(), strict=True) if place[w] >= 0}


def _habits(arrays: Sequence[Arrays]) -> Arrays:
    out: Arrays = {"decider.habits.hours": np.max([a["decider.habits.hours"] for a in arrays], axis=0)}
    keys = np.concatenate([a["decider.habits.keys"] for a in arrays])
    unique, at = np.unique(keys, return_inverse=True)
    for name in ("settled", "now", "days", "today", "hour", "most", "so_far", "told"):
        if any(f"decider.habits.{name}" not in a for a in arrays):
            continue  # of an earlier version
        counts = np.concatenate([a[f"decider.habits.{name}"] for a in arrays])
        sums = np.zeros((len(unique), *counts.shape[1:]), counts.dtype)
        # Counts add up; the most of an hour stays.
        (np.maximum if name in {"most", "told"} else np.add).at(sums, at, counts)
        out[f"decider.habits.{name}"] = sums
    if all("decider.habits.amounts" in a for a in arrays):
        out["decider.habits.amounts"] = np.sum([a["decider.habits.amounts"] for a in arrays], axis=0)
        out["decider.habits.pairs"] = np.unique(np.concatenate([a["decider.habits.pairs"] for a in arrays]))
    if all("decider.habits.names" in a for a in arrays):
        names, at = np.unique(
            np.concatenate([a["decider.habits.names"] for a in arrays]), return_inverse=True
        )
        out["decider.habits.names"], bits = names, np.zeros(len(names))
        np.add.at(bits, at, np.concatenate([a["decider.habits.bits"] for a in arrays]))
        out["decider.habits.bits"] = bits
    out["decider.habits.keys"] = unique
    return out


def _incidents(arrays: Sequence[Arrays], moved: Sequence[Mapping[int, int]]) -> NDArray[np.uint8]:
    texts: list[dict[str, Any]] = [of_text(a, "decider.incidents") for a in arrays]
    out = dict(texts[0])
    for name in ("suppressed", "allowed"):
        out[name] = sum(t[name] for t in texts)
    cases = {case["id"]: case for t in reversed(texts) for case in t["cases"]}
    hosts = {(role, host): case for t in reversed(texts) for role, host, case in t["hosts"]}
    places = {m[at]: case for t, m in zip(texts, moved, strict=True) for at, case in t["places"] if at in m}
    near: Counter[str] = Counter()
    for t in texts:
        for host, e in t["near"]:
            near[host] = max(near[host], e)
    seen: list[Any] = []
    past: dict[tuple[str, str], list[int]] = {}
    for t in texts:
        for role, host, rows in t["past"]["hosts"]:
            past.setdefault((role, host), []).extend(len(seen) + int(i) for i in rows)
        seen += t["past"]["seen"]
    hours = [t["hour"] for t in texts if t["hour"] is not None]
    out |= {
        "cases": list(cases.values()), "hosts": [[*key, case] for key, case in hosts.items()],
        "places": [[at, case] for at, case in places.items()],
        "ended": [incident for t in texts for incident in t["ended"]], "near": list(near.items()),
        "hour": max(hours, default=None),
        "past": {"seen": seen, "hosts": [[*key, rows] for key, rows in past.items()]},
    }  # fmt: skip
    return text_array(out)
