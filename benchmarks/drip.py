"""What an attacker gains who drips into what a detector learns by itself, day after day, before the attack.

    python -m benchmarks.drip CALM BAD [--days 14] [--share 0.02] [--learned] [--verdicts]

CALM and BAD are recordings of one site, as a plan of `cmdana evaluate --days` names them. The calm day comes so many
days in a row, among its connections each day `--share` as many of the bad day's attacks, of every family in turn, at
random times; then the bad day comes. Told are the attacks that are found on it, the false incidents beside them, and
how many of the attacking hosts were told of during the drip: with and without the drip, and without the guard (of
hosts with evidence against them nothing slow is learned). The detector is the shipped one, or with `--learned` what six
tenths of the calm day have taught and the rest calibrated. Calibration that follows the stream is no part of it:
evidence against hosts is weighed by the p-values before it (`decision.Judge`).

With `--verdicts` told are instead the verdicts on the bad day's connections, which calibration does reach: of the
malicious and of the normal ones the share at p <= 1e-3, by the model's own calibration and by the one that followed
the fortnight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.suspicion import Suspicion
from cmdana_plugin.config import Adaptation as Settings
from cmdana_plugin.config import Config
from cmdana_plugin.decision.adaptation import Adaptation
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
UNGUARDED = mock.patch.object(Suspicion, "of", lambda self, orig: np.zeros(len(orig), np.bool_))


def with_drip(calm: Windows, bad: Day, share: float, day: int, seed: int) -> Windows:
    """The calm day with a share of the bad day's attacks among it."""
    if not share:
        return calm
    rng = np.random.default_rng((seed, day))
    rows = np.flatnonzero((bad.truth.label == 1) & bad.truth.final)
    family = np.array(bad.truth.family, dtype=object)
    count = round(share * len(calm))
    rows = np.concatenate([rows] * (count // len(rows) + 1))
    chosen = take(bad.windows, np.sort(in_turn(rows, family, count, rng)))
    c = calm.connections
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


def fortnight(calm: Day, bad: Day, days: int, share: float, seed: int) -> Iterator[Day]:
    for k in range(days):
        windows = with_drip(calm.windows, bad, share, k, seed)
        yield day_of(f"{calm.name}+{k}", moved(windows, k * DAY), calm)


def came(made: Learned, calm: Day, bad: Day, days: int, share: float, seed: int) -> tuple[Tally, int, int]:
    """The bad day's tally; incidents told before it, and how many of its attackers were among their hosts."""
    teller = Judged(made, Config(), (1.0,))
    attackers = {host for attack in bad.truth.attacks for host in attack.hosts}
    told: set[str] = set()
    known: set[str] = set()
    nothing = take_encoded(bad.encoded, np.zeros(0, np.int64))
    for day in fortnight(calm, bad, days, share, seed):
        for alarm in teller.take(day, nothing).alarms[0]:
            told.add(alarm.key or f"{day.name} {alarm.ts}")
            known |= {alarm.host, *alarm.also} & attackers
    tally = Tally()
    tally.add(teller.take(later(bad, calm, days), nothing).alarms[0], bad.truth)
    return tally, len(told), len(known)


def shares(made: Learned, calm: Day, bad: Day, days: int, share: float, seed: int) -> str:
    """In words, what becomes of verdicts on the bad day's connections."""
    detector, adaptation = made.begin(), Adaptation(Settings(), on=True)
    last = later(bad, calm, days)
    own: list[NDArray[np.float64]] = []
    for day in (*fortnight(calm, bad, days, share, seed), last):
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
        for guarded in (True, False) if share else (True,):
            how = f"drip {share:5.1%}  {'guarded' if guarded else 'unguarded':<9}"
            with nullcontext() if guarded else UNGUARDED:
                if asked.verdicts:
                    words = shares(made, calm, bad, asked.days, share, asked.seed)
                    print(f"{how} at p <= 1e-3: {words}", flush=True)
                    continue
                tally, told, known = came(made, calm, bad, asked.days, share, asked.seed)
            print(
                f"{how} found {tally.found}, false {tally.false}; during the drip {told} incidents, {known} attacking "
                "hosts among them",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
