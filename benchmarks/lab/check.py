"""The laboratory's own test: can the classes be told apart by what has nothing to do with behaviour?"""

from __future__ import annotations

import csv
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab import far, flows, truth
from benchmarks.lab.scenario import OUTSIDE as OUTSIDE_NET
from benchmarks.lab.scenario import LabError

FEATURES = (
    "orig_ttl", "resp_ttl", "orig_window", "resp_window", "orig_mss", "resp_mss", "handshake_delay",
    "second_of_recording", *(f"orig_mac{n}" for n in range(6)), *(f"resp_mac{n}" for n in range(6)),
    *(f"orig_addr{n}" for n in range(4)), *(f"resp_addr{n}" for n in range(4)),
)  # fmt: skip
HEADER = 7  # the first features: headers and delay
LEAST = 10  # of each class, for a service to be compared
LIMIT = 0.6  # mean AUC over the services and recordings above which the laboratory fails its own test
DRAWS = 400  # for the interval
FEW_HOSTS = 3  # of a class, below which there is none
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """One recording's connections: numbers, class, and the service within which classes are compared."""

    name: str
    features: Array  # [N, F]
    malicious: NDArray[np.bool_]  # [N]
    service: list[str]
    host: list[str]


@dataclass(frozen=True)
class Verdict:
    """Area under the curve within each service, all on hosts or recordings that the trees never saw.

    `between`: the middle 95 % of each area when the hosts that the connections come from are drawn anew.
    """

    areas: dict[str, float]
    compared: int
    between: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over the services in which both classes have several hosts; of one or two, only the hosts are told apart."""
        areas = [self.areas[service] for service in self.between] or list(self.areas.values())
        return float(np.mean(areas)) if areas else 0.5

    @property
    def fine(self) -> bool:
        """The mean is near chance, and no single service is above the limit beyond doubt."""
        return self.mean <= LIMIT and all(low <= LIMIT for low, _ in self.between.values())

    def __str__(self) -> str:
        lines = []
        for name, area in sorted(self.areas.items(), key=lambda item: -item[1]):
            low, high = self.between.get(name, (0.0, 1.0))
            known = f"{low:.3f} to {high:.3f}" if name in self.between else "too few hosts"
            lines.append(f"{name:<34}{area:6.3f}   {known}")
        words = "no better than chance" if self.fine else f"the classes can be told apart (limit {LIMIT})"
        return "\n".join(
            [*lines, f"{'mean AUC by shortcuts':<34}{self.mean:6.3f}   {words}; {self.compared} connections"]
        )


def load(folder: Path) -> Recording:
    """A recording's folder, as `record` writes it."""
    captures = sorted(folder.glob("*.pcap*"))
    if not captures or not (folder / "labels.csv").is_file():
        raise LabError(f"{folder}: expected a recording (a .pcap or .pcap.gz file and labels.csv)")
    labels: dict[
        tuple[str, ...], str
    ] = {}  # without spoofing: who answers there is not a trace but the attack
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if lacking := {"ts", "proto", "label", "family"} - {*(reader.fieldnames or ())}:
            raise LabError(f"{folder / 'labels.csv'}: no column {sorted(lacking)[0]}")
        for row in reader:
            if row["family"].startswith("spoof-"):
                continue
            labels[tuple(row[c] for c in ("ts", "proto", "orig_h", "orig_p", "resp_h", "resp_p"))] = row[
                "label"
            ]
    rows, classes, services, hosts = [], [], [], []
    start = None
    for flow in flows.read(captures[0]):
        start = flow.start if start is None else start
        proto, *rest = flow.key
        label = labels.get((f"{flow.start:.6f}", proto, *map(str, rest)))
        if label not in ("benign", "malicious") or proto == "icmp":
            continue
        rows.append(_features(flow, start))
        classes.append(label == "malicious")
        name = truth.service(flow.key)  # of some, over TCP or UDP is behaviour too
        name += "" if name.endswith(proto) else f"/{proto}"
        services.append(f"{name} {_place(flow)}, {_outcome(flow)}")
        hosts.append(flow.key[1])
    return Recording(
        folder.name, np.array(rows).reshape(-1, len(FEATURES)), np.array(classes, bool), services, hosts
    )


def _features(flow: flows.Flow, start: float) -> list[float]:
    answered = bool(flow.packets[1])
    delay = flow.answer_after if flow.key[0] == "tcp" and flow.answer_after is not None else np.nan
    numbers = [
        value
        for pair in (flow.ttl, flow.window, flow.mss)
        for value in (pair[0], pair[1] if answered else np.nan)
    ]
    addresses: list[float] = [
        *ipaddress.ip_address(flow.key[1]).packed,
        *ipaddress.ip_address(flow.key[3]).packed,
    ]
    if (
        ipaddress.ip_address(flow.key[3]) in far.NETWORK
    ):  # that intruders' sites are new is behaviour: who knows the
        addresses[4:] = [np.nan] * 4  # old ones finds the new
    return [*numbers, delay, flow.start - start, *flow.macs[6:12], *flow.macs[:6], *addresses]


def _place(flow: flows.Flow) -> str:
    """Whether a connection leaves the site, and to a site that everyone knows or to one of the many others.

    That is behaviour, and a router on the way costs one TTL.
    """
    ends = [ipaddress.ip_address(flow.key[1]), ipaddress.ip_address(flow.key[3])]
    if any(end in far.NETWORK for end in ends):
        return "far outside"
    return "outside" if any(end in OUTSIDE_NET for end in ends) else "inside"


def _outcome(flow: flows.Flow) -> str:
    """Refused and unanswered are behaviour, so classes are compared within each."""
    if not all(flow.packets) and (flow.flags[0] | flow.flags[1]) & ~2:
        return "half seen"
    if not flow.packets[1]:
        return "unanswered"
    return "refused" if flow.flags[1] & 4 and not flow.flags[1] & 2 else "answered"


def judge(recordings: Sequence[Recording]) -> Verdict:
    """Several recordings: leave one out. A single one: leave a fifth of its originating hosts out.

    Within a single one an attack has one target and one hour, so addresses and time are only asked across several.
    """
    if len(recordings) == 1:
        recordings = [replace(recordings[0], features=recordings[0].features[:, :HEADER])]
    tested, scored = [], []
    folds = _folds(recordings)
    if not folds:
        raise LabError(
            f"{recordings[0].name}: expected ordinary and malicious connections of two hosts and more"
        )
    for train, test in folds:
        tested.append(test)
        scored.append(_fit(train, test))
    areas, between, compared = {}, {}, 0
    for service in sorted({service for one in tested for service in one.service}):
        days = [
            day
            for one, found in zip(tested, scored, strict=True)
            if (day := _Day.of(one, found, service)) is not None
        ]
        bad, good = (
            (sum(len(side.scores) for side in sides) for sides in zip(*days, strict=True)) if days else (0, 0)
        )
        if min(bad, good) < LEAST:
            continue
        areas[service] = _within(days)
        compared += bad + good
        if all(
            len({host for side in sides for host in side.hosts}) >= FEW_HOSTS
            for sides in zip(*days, strict=True)
        ):
            between[service] = _redrawn(days)
    return Verdict(areas, compared, between)


class _Side(NamedTuple):
    """One class's connections of one service."""

    scores: Array  # [N]
    hosts: NDArray[np.str_]  # [N]

    def redrawn(self, dice: np.random.Generator) -> Array:
        """As if other hosts had done it: what one host sends is of one piece."""
        pieces = [self.scores[self.hosts == host] for host in sorted(set(self.hosts))]
        return np.concatenate([pieces[n] for n in dice.integers(len(pieces), size=len(pieces))])


class _Day(NamedTuple):
    """One service in one recording (or fold of one): attacks are only compared with ordinary use of the same day."""

    bad: _Side
    good: _Side

    @staticmethod
    def of(one: Recording, scores: Array, service: str) -> _Day | None:
        """None where a class does not use the service."""
        hosts, chosen = np.array(one.host), np.array([s == service for s in one.service])
        bad, good = one.malicious & chosen, ~one.malicious & chosen
        if not (bad.any() and good.any()):
            return None
        return _Day(_Side(scores[bad], hosts[bad]), _Side(scores[good], hosts[good]))


def _within(days: Sequence[_Day]) -> float:
    """The area under the curve over all pairs of one day."""
    pairs = [len(day.bad.scores) * len(day.good.scores) for day in days]
    return float(np.average([_area(day.bad.scores, day.good.scores) for day in days], weights=pairs))


def _redrawn(days: Sequence[_Day]) -> tuple[float, float]:
    """Between what the area lies when each class's hosts are drawn anew."""
    dice = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        drawn = [(day.bad.redrawn(dice), day.good.redrawn(dice)) for day in days]
        pairs = [len(bad) * len(good) for bad, good in drawn]
        found.append(float(np.average([_area(bad, good) for bad, good in drawn], weights=pairs)))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def _folds(recordings: Sequence[Recording]) -> list[tuple[Recording, Recording]]:
    if len(recordings) > 1:
        return [(_join([r for r in recordings if r is not left]), left) for left in recordings]
    (only,) = recordings
    hosts = sorted(set(only.host))
    folds = []
    for number in range(5):
        out = np.array([hosts.index(host) % 5 == number for host in only.host])
        if only.malicious[out].any() and only.malicious[~out].any():
            folds.append((_choose(only, ~out), _choose(only, out)))
    return folds


def _choose(one: Recording, mask: NDArray[np.bool_]) -> Recording:
    service = [s for s, keep in zip(one.service, mask, strict=True) if keep]
    host = [h for h, keep in zip(one.host, mask, strict=True) if keep]
    return Recording(one.name, one.features[mask], one.malicious[mask], service, host)


def _join(many: Sequence[Recording]) -> Recording:
    features = np.concatenate([one.features for one in many])
    malicious = np.concatenate([one.malicious for one in many])
    services, hosts = [s for one in many for s in one.service], [h for one in many for h in one.host]
    return Recording("+".join(one.name for one in many), features, malicious, services, hosts)


def _fit(train: Recording, test: Recording) -> Array:
    """Boosted trees; within each service both classes weigh the same, so that the service itself tells nothing."""
    try:
        from lightgbm import LGBMClassifier
    except ImportError:
        raise LabError("check needs lightgbm: pip install lightgbm scikit-learn") from None
    weights = np.zeros(len(train.malicious))
    for service in set(train.service):
        chosen = np.array([s == service for s in train.service])
        for side in (train.malicious & chosen, ~train.malicious & chosen):
            if (train.malicious & chosen).any() and (~train.malicious & chosen).any():
                weights[side] = chosen.sum() / side.sum()
    model = LGBMClassifier(n_estimators=200, num_leaves=31, verbose=-1, random_state=0, n_jobs=1)
    model.fit(train.features, train.malicious, sample_weight=weights)
    return np.asarray(model.predict_proba(test.features)[:, 1], np.float64)


def _area(bad: Array, good: Array) -> float:
    """The chance that an attack scores higher than ordinary use; ties count half."""
    order = np.sort(good)
    below = np.searchsorted(order, bad, "left")
    upto = np.searchsorted(order, bad, "right")
    return float(np.mean((below + upto) / 2) / len(good))
