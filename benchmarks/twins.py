"""A control: every known poller of a site gets a twin on another host, not to be told of where it itself is not.

    python -m benchmarks.twins CALM LATER [--model site.safetensors]

CALM and LATER are recordings of one site, as a plan of `cmdana evaluate --days` names them. A poller is whoever asked
one service of one host at least twenty times on both days, evenly (the middle half of the intervals within a quarter of
the median). On the later day a host that never asked there does the same, half an interval later. Told are the alarms
about pollers and about twins, which rest on their polling by a tenth at least. The detector is the shipped one or the
model given, and has seen the calm day.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.drip import day_of
from cmdana_plugin.config import Config
from cmdana_plugin.detector import checkpoint
from cmdana_plugin.evaluation.adversary.plans import moved_to
from cmdana_plugin.evaluation.whole_days.alarms import LEAST_SHARE, Alarm
from cmdana_plugin.evaluation.whole_days.plan import Day, Planned, read_day
from cmdana_plugin.evaluation.whole_days.told import OURS, Judged, Learned, Lesson, begun
from feature_extractors import CmdanaError, Connections, concat, take
from feature_extractors.features import load_schema, take_encoded

LEAST = 20  # connections of a poller in a day
EVEN = 0.25  # of the median, the middle half of its intervals
MOST = 40  # pollers that get a twin
TWIN = b"Ctwin"

Pair = tuple[bytes, bytes, int, int]  # originator, responder, its port, protocol


def pairs_of(c: Connections) -> dict[Pair, NDArray[np.int64]]:
    """The rows of each pair and service, in order of their beginnings."""
    found: defaultdict[Pair, list[int]] = defaultdict(list)
    for i in np.argsort(c.ts, kind="stable").tolist():
        found[c.orig_h[i].tobytes(), c.resp_h[i].tobytes(), int(c.resp_p[i]), int(c.ip_proto[i])].append(i)
    return {pair: np.array(rows) for pair, rows in found.items()}


def interval(ts: NDArray[np.float64]) -> float | None:
    """The seconds between two of a poller's connections; None of what is none."""
    if len(ts) < LEAST:
        return None
    gaps = np.diff(ts)
    low, middle, high = np.quantile(gaps, (0.25, 0.5, 0.75))
    return float(middle) if middle > 0 and high - low <= EVEN * middle else None


def with_twins(calm: Day, later: Day, seed: int) -> tuple[Day, dict[Pair, bytes]]:
    """The later day with twins among it, and who is the twin of each poller."""
    rng = np.random.default_rng(seed)
    c = later.windows.connections
    before, today = pairs_of(calm.windows.connections), pairs_of(c)
    asks: defaultdict[tuple[bytes, int], set[bytes]] = defaultdict(set)
    for orig, resp, port, _ in (*before, *today):
        asks[resp, port].add(orig)
    hosts = sorted({pair[0] for pair in today})
    twins: dict[Pair, bytes] = {}
    parts = [later.windows]
    for pair, rows in today.items():
        every = interval(c.ts[rows])
        if every is None or pair not in before or interval(calm.windows.connections.ts[before[pair]]) is None:
            continue
        free = [h for h in hosts if h not in asks[pair[1], pair[2]] and h != pair[1]]
        if not free or len(twins) >= MOST:
            continue
        twins[pair] = twin = free[int(rng.integers(len(free)))]
        part = moved_to(take(later.windows, rows), c.ts[rows] + every / 2, TWIN + b"%dx" % len(twins))
        own = np.tile(np.frombuffer(twin, np.uint8), (len(rows), 1))
        parts.append(replace(part, connections=replace(part.connections, orig_h=own)))
    whole = concat(parts)
    return day_of(later.name, take(whole, np.argsort(whole.connections.end, kind="stable")), later), twins


def rest_on(alarms: Iterable[Alarm], rows: NDArray[np.int64]) -> bool:
    """Whether any rests on these connections, by a tenth of its own."""
    return any(np.isin(a.rows, rows).sum() >= max(LEAST_SHARE * len(a.rows), 1) for a in alarms)


def alarms_of(made: Learned, calm: Day, later: Day) -> list[Alarm]:
    teller = Judged(made, Config(), (1.0,))
    nothing = take_encoded(later.encoded, np.zeros(0, np.int64))
    teller.take(calm, nothing)
    return teller.take(later, nothing).alarms[0]


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("calm", type=Path, metavar="CALM")
    ask.add_argument("later", type=Path, metavar="LATER")
    ask.add_argument("--model", type=Path)
    ask.add_argument("--seed", type=int, default=0)
    asked = ask.parse_args()
    try:
        calm = read_day(Planned(asked.calm, "site", "later"), Config(), None, 0.0)
        later = read_day(Planned(asked.later, "site", "later"), Config(), None, float(calm.truth.ts.max()))
        made = OURS["cmdana as shipped"].learn(Lesson([], [], []), 0)
        if asked.model is not None:
            own = checkpoint.load(asked.model, load_schema())
            made = Learned(begun(own), own.incidents)
    except CmdanaError as error:
        print(error, file=sys.stderr)
        return 1
    day, twins = with_twins(calm, later, asked.seed)
    alarms = alarms_of(made, calm, day)
    c = day.windows.connections
    mine = pairs_of(c)
    is_twin = np.char.startswith(c.uid, TWIN)
    only_twins = 0
    for (orig, resp, port, proto), twin in twins.items():
        of_poller = rest_on(alarms, mine[orig, resp, port, proto])
        rows = mine[twin, resp, port, proto]
        of_twin = rest_on(alarms, rows[is_twin[rows]])
        only_twins += of_twin and not of_poller
        if of_twin or of_poller:
            print(
                f"port {port}: {len(rows)} connections, told of: {'poller' if of_poller else ''}"
                f"{' and ' if of_poller and of_twin else ''}{'twin' if of_twin else ''}"
            )
    about = sum(bool(is_twin[a.rows].any()) for a in alarms)
    print(
        f"{len(twins)} pollers with a twin, {only_twins} twins told of that are not told of as pollers; "
        f"{len(alarms)} alarms on the day, {about} with connections of twins in them"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
