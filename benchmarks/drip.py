"""What an attacker gains who drips into what a detector learns by itself, day after day, before the attack.

    python -m benchmarks.drip CALM BAD [--days 14] [--share 0.02] [--hosts 0.5] [--learned] [--verdicts]

CALM and BAD are recordings of one site, as a plan of `cmdana evaluate --days` names them. The calm day comes so many
days in a row, among its connections each day `--share` as many of the bad day's attacks, of every family in turn, at
random times; with `--hosts`, from such a share of the calm day's originators, as if so many were somebody's by then.
Then the bad day comes. Told are the attacks that are found on it, the false incidents beside them, and
how many of the attacking hosts were told of during the drip: with and without the drip, and without each guard:

    behaviour   of hosts with evidence against them nothing slow is learned
    tails       hours of hosts with an incident are not what is usual at this site (`Evidence`)
    habits      connections of an incident do not become what is usual of their host
    following   (no guard) where nobody has learned the site, its days say how much evidence its hosts' hours bring

The detector is the shipped one, whose tails of evidence follow the site, or with `--learned` what six tenths of the
calm day have taught and the rest calibrated, whose tails stay. What following comes to is told as the average -log10 p
of a host's three and thirty oddest connections of an hour from which on it is an incident, at the end of the fortnight.
Calibration of verdicts that follows the stream is no part of it: evidence against hosts is weighed by the p-values
before it (`decision.Judge`).

With `--verdicts` told are instead the verdicts on the bad day's connections, which calibration does reach: of the
malicious and of the normal ones the share at p <= 1e-3, by the model's own calibration and by the one that followed
the fortnight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.suspicion import Suspicion
from cmdana_plugin.config import Adaptation as Settings
from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge
from cmdana_plugin.decision.adaptation import Adaptation
from cmdana_plugin.decision.evidence import Evidence
from cmdana_plugin.decision.usual.tails import STATISTICS, surprise
from cmdana_plugin.evaluation.adversary.plans import moved_to
from cmdana_plugin.evaluation.adversary.poison import in_turn
from cmdana_plugin.evaluation.own_network import after, cut
from cmdana_plugin.evaluation.whole_days.alarms import Tally, Truth
from cmdana_plugin.evaluation.whole_days.plan import Day, Planned, moved, read_day
from cmdana_plugin.evaluation.whole_days.told import OURS, Judged, Learned, Lesson
from feature_extractors import CmdanaError, Windows, address_texts, concat, take
from feature_extractors.features import encoded, load_schema, take_encoded

DAY = 86_400.0
BLOCK = 4096
RATE = 1e-3
Arms = Mapping[str, Callable[[Judge], None]]
UNGUARDED = mock.patch.object(Suspicion, "of", lambda self, orig: np.zeros(len(orig), np.bool_))
OF_HOW_MANY = (1, 3), (3, 30)  # statistics of an hour, and of how many connections each is the average


def without_tails_guard(judge: Judge) -> None:
    evidence: Any = judge.decider.evidence
    evidence._teaches = lambda: np.ones(len(evidence.last_open), np.bool_)


def without_habits_guard(judge: Judge) -> None:
    habits: Any = judge.decider._habits
    count = habits.count
    habits.count = lambda amounts, counts, e, teaches: count(amounts, counts, e, teaches | True)
    habits.uncount = lambda key, e: None


def tails_that_stay(judge: Judge) -> None:
    evidence: Any = judge.decider.evidence
    evidence._follows = False


# By what is left out, what does so to a judge.
GUARDED: Arms = {"guarded": lambda _: None}
ARMS: Arms = {
    **GUARDED, "without the tails' guard": without_tails_guard, "without habits' guard": without_habits_guard,
    "tails that stay": tails_that_stay,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drip:
    days: int
    share: float  # of the calm day's connections
    hosts: float  # of its originators; 0: from the attackers' own
    seed: int


def with_drip(calm: Windows, bad: Day, share: float, hosts: float, day: int, seed: int) -> Windows:
    """The calm day with a share of the bad day's attacks among it, from so many of its `hosts` where that is not 0."""
    if not share:
        return calm
    rng = np.random.default_rng((seed, day))
    rows = np.flatnonzero((bad.truth.label == 1) & bad.truth.final)
    family = np.array(bad.truth.family, dtype=object)
    count = round(share * len(calm))
    rows = np.concatenate([rows] * (count // len(rows) + 1))
    chosen = take(bad.windows, np.sort(in_turn(rows, family, count, rng)))
    c = calm.connections
    if hosts:
        own = np.unique(c.orig_h, axis=0)
        taken = np.random.default_rng(seed).permutation(own)[: max(round(hosts * len(own)), 1)]
        by = taken[rng.integers(len(taken), size=count)]
        chosen = replace(chosen, connections=replace(chosen.connections, orig_h=by))
    begin = np.sort(rng.uniform(float(c.ts.min()), float(c.end.max()) - 60.0, count))
    whole = concat([calm, moved_to(chosen, begin, b"Cdrip")])
    return take(whole, np.argsort(whole.connections.end, kind="stable"))


def day_of(name: str, windows: Windows, like: Day) -> Day:
    """Connections of which nobody tells what they are, as a day."""
    c = windows.connections
    n = len(c)
    truth = Truth(
        c.ts, c.end, np.array(address_texts(c.orig_h)), np.array(address_texts(c.resp_h)), list(c.service),
        np.full(n, -1, np.int8), [""] * n, np.ones(n, np.bool_), roles=like.truth.roles,
    )  # fmt: skip
    return Day(name, "later", windows, encoded(windows, load_schema()), truth, 0.0, like.folder)


def fortnight(calm: Day, bad: Day, drip: Drip) -> Iterator[Day]:
    for k in range(drip.days):
        windows = with_drip(calm.windows, bad, drip.share, drip.hosts, k, drip.seed)
        yield day_of(f"{calm.name}+{k}", moved(windows, k * DAY), calm)


@dataclass(slots=True)
class Came:
    """What came of it: the bad day's tally, incidents told before it, the attackers among their hosts, and how high the
    oddest connections of an hour have to be by then.
    """

    tally: Tally
    told: set[str]
    known: set[str]
    needed: list[float]


def came(made: Learned, calm: Day, bad: Day, drip: Drip, arms: Arms) -> list[Came]:
    """By arm."""
    teller = Judged(made, Config(), (1.0,) * len(arms))
    for change, judge in zip(arms.values(), teller._judges, strict=True):
        change(judge)
    attackers = {host for attack in bad.truth.attacks for host in attack.hosts}
    out = [Came(Tally(), set(), set(), []) for _ in arms]
    nothing = take_encoded(bad.encoded, np.zeros(0, np.int64))
    for day in fortnight(calm, bad, drip):
        for found, alarms in zip(out, teller.take(day, nothing).alarms, strict=True):
            for alarm in alarms:
                found.told.add(alarm.key or f"{day.name} {alarm.ts}")
                found.known |= {alarm.host, *alarm.also} & attackers
    for found, judge in zip(out, teller._judges, strict=True):
        found.needed = [needed(judge.decider.evidence, k) for k, _ in OF_HOW_MANY]
    for found, alarms in zip(out, teller.take(later(bad, calm, drip.days), nothing).alarms, strict=True):
        found.tally.add(alarms, bad.truth)
    return out


def needed(evidence: Evidence, statistic: int) -> float:
    """What a statistic of an originator's hour has to come to, for that alone to make it an incident."""
    tails = evidence._tails[0]
    value = np.linspace(0.0, 30.0, 3001)
    rare = surprise(tails[STATISTICS], surprise(tails[statistic], value))
    return float(value[min(np.searchsorted(rare, evidence.limit), len(value) - 1)])


def shares(made: Learned, calm: Day, bad: Day, drip: Drip) -> str:
    """In words, what becomes of verdicts on the bad day's connections."""
    detector, adaptation = made.begin(), Adaptation(Settings(), on=True)
    last = later(bad, calm, drip.days)
    own: list[NDArray[np.float64]] = []
    for day in (*fortnight(calm, bad, drip), last):
        own, followed = [], []
        for begin in range(0, len(day.encoded), BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, len(day.encoded)))
            block = take_encoded(day.encoded, rows)
            scores = detector.receive(block)
            own.append(scores.p_value)
            followed.append(adaptation.receive(block, scores).p_value)
    words = []
    for what, label in (("malicious", 1), ("normal", 0)):
        rows = bad.truth.final & (bad.truth.label == label)
        told = [(np.concatenate(p)[rows] <= RATE).mean() for p in (own, followed)]
        words.append(f"{what} {told[0]:.4f}, followed {told[1]:.4f}")
    return "; ".join(words)


def in_words(came: Came) -> str:
    needed = ", ".join(f"{x:.2f} of {n}" for (_, n), x in zip(OF_HOW_MANY, came.needed, strict=True))
    return (
        f"found {came.tally.found}, false {came.tally.false}; during the drip {len(came.told)} incidents, "
        f"{len(came.known)} attacking hosts among them; an hour needs {needed}"
    )


def later(bad: Day, calm: Day, days: int) -> Day:
    """The bad day, after the fortnight by so many whole days; its alarms are told at its own times."""
    begin = float(calm.truth.ts.min()) + days * DAY
    shift = float(np.ceil((begin - float(bad.truth.ts.min())) / DAY) * DAY)
    windows = moved(bad.windows, shift)
    return replace(bad, windows=windows, encoded=encoded(windows, load_schema()))


def learned_on(calm: Day, share: float) -> Learned:
    """As `cmdana train` learns, from the first `share` of the day; the rest calibrates."""
    first, rest = cut(calm.recording(), 0.0, share), cut(calm.recording(), share, 1.0)
    held, _ = after([first], rest)
    return OURS["cmdana"].learn(Lesson([first], [held], []), 0)


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("calm", type=Path, metavar="CALM")
    ask.add_argument("bad", type=Path, metavar="BAD")
    ask.add_argument("--days", type=int, default=14)
    ask.add_argument("--share", type=float, nargs="*", default=[0.02], metavar="SHARE")
    ask.add_argument("--hosts", type=float, default=0.0, metavar="SHARE")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--learned", action="store_true")
    ask.add_argument("--verdicts", action="store_true")
    asked = ask.parse_args()
    try:
        calm = read_day(Planned(asked.calm, "site", "later"), Config(), None, 0.0)
        bad = read_day(Planned(asked.bad, "site", "test"), Config(), None, 0.0)
    except CmdanaError as error:
        print(error, file=sys.stderr)
        return 1
    made = learned_on(calm, 0.6) if asked.learned else OURS["cmdana as shipped"].learn(Lesson([], [], []), 0)
    print(
        f"{calm.name} {asked.days} times, {len(calm.truth):,} connections each; then {bad.name} with "
        f"{len(bad.truth.attacks)} attacks"
    )
    for share in (0.0, *asked.share):
        drip = Drip(asked.days, share, asked.hosts, asked.seed)
        for guarded in (True, False) if share else (True,):
            arms = ARMS if guarded else GUARDED
            with nullcontext() if guarded else UNGUARDED:
                if asked.verdicts:
                    words = [shares(made, calm, bad, drip)]
                else:
                    words = [in_words(found) for found in came(made, calm, bad, drip, arms)]
            names = arms if guarded else ["without behaviour's guard"]
            for name, told in zip(names, words, strict=False):
                print(f"drip {share:5.1%}  {name:<26}{'at p <= 1e-3: ' * asked.verdicts}{told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
