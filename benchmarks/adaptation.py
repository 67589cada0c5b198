"""What calibrating on the stream does to verdicts: off, as it comes, and in two passes.

    python -m benchmarks.adaptation DAY [DAY ...] [--model FILE]

Each DAY is a folder with a capture or Zeek logs, and labels.csv, as a plan of `cmdana evaluate --days` names them. It
is scored once by the model (the shipped one, which has learned none of them) from an empty state. Of its normal
connections that have ended: in how many hours (with 100 of them or more) at most 1.25 in a thousand are at p <= 1e-3,
in how many of them that is to be expected where p-values mean exactly what they say and connections come alone (an
hour of 500 holds none in six of ten), and in how many no more are there than chance has in one of twenty at 1.25 in a
thousand; their share over the day and in the middle hour; and of the malicious ones the share at 1e-3. `--inflate`
takes all -log10 p so many times: a model that is more foreign than the one at hand.

    python -m benchmarks.adaptation --servers-move DAY [DAY ...] [--model FILE]

Each DAY, without its attacks, comes eight days in a row; from the fourth on, the three responders of the site that most
connections go to are at other addresses; and once more with all where they were. Told is the share of connections at
p <= 1e-3 of each day and of its middle hour: off, and as it comes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import exp, lgamma, log, log1p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.cli.judging import load_detector_of
from cmdana_plugin.config import Adaptation as Settings
from cmdana_plugin.config import Config
from cmdana_plugin.decision.adaptation import Adaptation
from cmdana_plugin.detector import Scores
from cmdana_plugin.evaluation.whole_days.plan import Day, Planned, moved, read_day
from feature_extractors import CmdanaError, Stage, take
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

BLOCK = 4096
RATE = 1e-3
NEAR = 1.25
SERVERS = 3  # that move
LEAST = 100  # normal connections of an hour that is counted
CHANCE = 0.05
Stream = list[tuple[Encoded, Scores]]


@dataclass
class Came:
    """What one way came to on some days."""

    good: int = 0  # hours
    hours: int = 0
    expected: float = 0.0  # good hours where p-values mean what they say
    chance: int = 0  # hours that are good but for chance
    odd: int = 0  # of the normal connections
    normal: int = 0
    found: int = 0  # of the malicious ones
    malicious: int = 0

    def add(self, p: NDArray[np.float64], day: Day) -> float:
        """Adds a day; the rate of its middle hour."""
        truth = day.truth
        normal = truth.final & (truth.label == 0)
        bad = truth.final & (truth.label == 1)
        hour = ((truth.end - truth.ts.min()) // 3600.0).astype(np.int64)
        many = np.bincount(hour[normal])
        odd = np.bincount(hour[normal], p[normal] <= RATE, minlength=len(many))
        many, odd = many[many >= LEAST], odd[many >= LEAST]
        rate = odd / many
        self.good += int((rate <= NEAR * RATE).sum())
        self.hours += len(rate)
        self.expected += sum(at_most(int(NEAR * RATE * n), n, RATE) for n in many.tolist())
        self.chance += sum(
            at_most(int(k) - 1, n, NEAR * RATE) < 1.0 - CHANCE
            for k, n in zip(odd.tolist(), many.tolist(), strict=True)
        )
        self.odd, self.normal = self.odd + int((p[normal] <= RATE).sum()), self.normal + int(normal.sum())
        self.found, self.malicious = self.found + int((p[bad] <= RATE).sum()), self.malicious + int(bad.sum())
        return float(np.median(rate)) if len(rate) else float("nan")

    def words(self) -> str:
        found = f"{self.found / self.malicious:.3f}" if self.malicious else "-"
        hours = (
            f"hours {self.good} of {self.hours} (expected {self.expected:.0f}, but for chance {self.chance})"
        )
        return f"{hours}, normal {self.odd / max(self.normal, 1):.4f}, malicious {found}"


def at_most(k: int, n: int, p: float) -> float:
    """The probability of at most `k` of `n` where each has the probability `p`."""
    logs = [
        lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(p) + (n - i) * log1p(-p)
        for i in range(k + 1)
    ]
    return sum(map(exp, logs))


def stream_of(day: Day, model: Path | None) -> Stream:
    """The day in blocks with the scores of a detector that has just begun."""
    detector = load_detector_of(Config(), model, threads=1).detector
    rows = np.arange(len(day.encoded))
    blocks = [take_encoded(day.encoded, rows[begin : begin + BLOCK]) for begin in range(0, len(rows), BLOCK)]
    return [(block, detector.receive(block)) for block in blocks]


def inflated(stream: Stream, times: float) -> Stream:
    return [
        (block, replace(scores, p_value=np.maximum(scores.p_value**times, 1e-30))) for block, scores in stream
    ]


def off(stream: Stream) -> NDArray[np.float64]:
    return np.concatenate([scores.p_value for _, scores in stream])


def as_it_comes(stream: Stream) -> NDArray[np.float64]:
    adaptation = Adaptation(Settings(), on=True)
    return np.concatenate([adaptation.receive(*part).p_value for part in stream])


def in_two_passes(stream: Stream) -> NDArray[np.float64]:
    adaptation = Adaptation(Settings(), on=True)
    for part in stream:
        if not adaptation.look(*part):
            break
    adaptation.looked()
    return np.concatenate([adaptation.receive(*part).p_value for part in stream])


def moving(day: Day, moved_from: int = 3, days: int = 8) -> Iterator[Encoded]:
    """The day's own traffic so often, each a day later; after `moved_from` days its busiest servers are elsewhere."""
    calm = take(day.windows, np.flatnonzero(day.truth.label == 0))
    resp = np.ascontiguousarray(calm.connections.resp_h).view("V16").ravel()
    servers, at, many = np.unique(resp, return_inverse=True, return_counts=True)
    busiest = np.argsort(-many, kind="stable")[:SERVERS]
    elsewhere = servers.copy()
    for k, server in enumerate(busiest.tolist()):
        raw = bytearray(servers[server].tobytes())
        raw[-1] = (raw[-1] + 101 + k) % 250 + 1
        elsewhere[server] = np.frombuffer(bytes(raw), "V16")[0]
    other = elsewhere[at].view(np.uint8).reshape(-1, 16)
    gone = replace(calm, connections=replace(calm.connections, resp_h=other))
    for k in range(days):
        yield encoded(moved(gone if k >= moved_from else calm, k * 86_400.0), load_schema())


def of_moves(day: Day, model: Path | None, moved_from: int) -> None:
    """Prints what each day came to."""
    what = "servers move" if moved_from < 8 else "all stays"
    detector = load_detector_of(Config(), model, threads=1).detector
    adaptation = Adaptation(Settings(), on=True)
    for number, whole in enumerate(moving(day, moved_from)):
        rows = np.arange(len(whole))
        blocks = [take_encoded(whole, rows[begin : begin + BLOCK]) for begin in range(0, len(rows), BLOCK)]
        p, kept = [], []
        for block in blocks:
            scores = detector.receive(block)
            p.append(scores.p_value)
            kept.append(adaptation.receive(block, scores).p_value)
        c = whole.connections
        final = c.stage == Stage.FINAL
        hour = ((c.end - c.ts.min()) // 3600.0).astype(np.int64)[final]
        many = np.bincount(hour)
        told = []
        for values in (np.concatenate(p)[final], np.concatenate(kept)[final]):
            rate = np.bincount(hour, values <= RATE, minlength=len(many))[many >= LEAST] / many[many >= LEAST]
            told.append(f"{(values <= RATE).mean():.4f}, middle hour {np.median(rate):.4f}")
        print(
            f"{day.folder.name:<14} {what:<12} day {number + 1}  off {told[0]}; as it comes {told[1]}",
            flush=True,
        )


WAYS: dict[str, Callable[[Stream], NDArray[np.float64]]] = {
    "off": off, "as it comes": as_it_comes, "two passes": in_two_passes,
}  # fmt: skip


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("days", type=Path, nargs="+", metavar="DAY")
    ask.add_argument("--model", type=Path)
    ask.add_argument("--inflate", type=float, nargs="*", default=[1.0], metavar="TIMES")
    ask.add_argument("--servers-move", action="store_true")
    asked = ask.parse_args()
    came = {(times, name): Came() for times in asked.inflate for name in WAYS}
    try:
        for folder in asked.days:
            day = read_day(Planned(folder, "any", "test"), Config(), None, 0.0)
            if asked.servers_move:
                for moved_from in (3, 8):
                    of_moves(day, asked.model, moved_from)
                continue
            stream = stream_of(day, asked.model)
            for times in asked.inflate:
                foreign = inflated(stream, times) if times != 1.0 else stream
                for name, way in WAYS.items():
                    p, one = way(foreign), Came()
                    middle = one.add(p, day)
                    came[times, name].add(p, day)
                    print(
                        f"{folder.name:<14} x {times:<4g} {name:<12} {one.words()}, middle hour {middle:.4f}",
                        flush=True,
                    )
    except CmdanaError as error:
        print(error, file=sys.stderr)
        return 1
    for (times, name), all_days in came.items() if not asked.servers_move else ():
        print(f"{'all':<14} x {times:<4g} {name:<12} {all_days.words()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
