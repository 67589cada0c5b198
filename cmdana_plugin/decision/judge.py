"""The one loop that drives data: encoded windows in, verdicts and notices out, offline and live alike."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision.counters import Watch
from cmdana_plugin.decision.incidents import Decided, Decider
from cmdana_plugin.decision.kinds import COMPONENT_WORDS, quoted
from cmdana_plugin.decision.notice import Notice
from cmdana_plugin.decision.seen import rows_of
from cmdana_plugin.decision.tails import UNLEARNED, Tails
from cmdana_plugin.decision.verdict import NO_VERDICTS, Coded, Verdict, Verdicts, coded
from cmdana_plugin.detector import ANOMALOUS, BENIGN, Detector, Scores
from feature_extractors import PROTO_NAMES, Stage, address_texts, community_id_v1
from feature_extractors.features import Encoded

_EXPLAINED_AT_ONCE: Final = 16  # verdicts explained field by field at once, at some 10 ms each
_EXPLAINED_PER_SECOND: Final = 8.0  # and this many more in each second of network time


@dataclass(frozen=True, slots=True)
class Judged:
    """What a block of windows came to: a verdict for each window in its order, and the notices raised.

    `revised` are verdicts on earlier connections that turned out to belong to an incident, each with the window after
    which that was known; `rows` has them there.
    """

    windows: Encoded
    verdicts: Verdicts
    notices: Sequence[Notice]
    counts: Mapping[tuple[str, str], int]  # verdicts by stage and word: ("final", "benign")
    revised: Sequence[tuple[int, Verdict]] = ()

    def rows(self) -> Iterator[Verdict]:
        """All verdicts in the order in which they were reached, however the stream is cut."""
        again = list(self.revised)
        for i, verdict in enumerate(self.verdicts):
            yield verdict
            while again and again[0][0] == i:
                yield again.pop(0)[1]


class Judge:
    """Scores a block of windows, decides on each, and raises the notices.

    A verdict that raises a notice is explained field by field; any other odd one names its oddest components, so
    that a flood of odd connections costs little more than one of ordinary ones. So does a flood of notices: how many
    are explained depends on network time alone, and so is the same live and offline, however the stream is cut.
    """

    def __init__(self, detector: Detector, config: Config, tails: Tails | None = None) -> None:
        """`tails` say how rare evidence against a host is on the network that was learned; None: nobody has learned."""
        self.detector = detector
        self.decider = Decider(config.verdict, config.incident, UNLEARNED if tails is None else tails)
        self.watch = Watch(config, COMPONENT_WORDS)
        self._max_reasons = config.verdict.max_reasons
        self._left = float(_EXPLAINED_AT_ONCE)
        self._now = -math.inf

    def judged(self, blocks: Iterable[Encoded], *, ahead: bool = False) -> Iterator[Judged]:
        """The result for each block in turn; the blocks are one stream in order of `end`, some may be empty.

        A block is asked for when what came of the one before has been taken. With `ahead` it is asked for and scored in
        a thread, while the caller is at work on the one before.
        """
        scored = ((windows, self.detector.receive(windows)) for windows in blocks)
        for windows, scores in _ahead(scored) if ahead else scored:
            yield self.conclude(windows, scores)

    def conclude(self, windows: Encoded, scores: Scores) -> Judged:
        """The result for a block whose scores are known; blocks in stream order, the detector may be a block ahead."""
        if not len(windows):
            return Judged(windows, NO_VERDICTS, (), {})
        verdicts = self._verdicts(windows, scores)
        counts = verdicts.counted()
        notices: list[Notice] = self.watch.receive(windows, scores, counts)
        decided = self._decide(windows, verdicts, scores)
        raised = decided.notices
        for i, incident in decided.incident.items():
            verdicts.incident[i] = incident
        for i, explained in self._explained(windows, scores, raised).items():
            verdicts.reasons[i] = explained
            raised[i] = [n.with_reasons(explained) for n in raised[i]]
        for i in sorted(raised):
            notices += raised[i]
        self.watch.noticed(notices)
        return Judged(windows, verdicts, notices, counts, decided.revised)

    def _explained(
        self, windows: Encoded, scores: Scores, raised: Collection[int]
    ) -> dict[int, tuple[str, ...]]:
        """Why, by row, of the first of these rows; a row that cannot be explained is left out."""
        rows = [i for i in sorted(raised) if self._explains(float(windows.connections.end[i]))]
        if not rows:
            return {}
        reasons = self.detector.explain(windows, scores, np.array(rows))
        return {
            i: tuple(_named(reason, windows.domain[i]) for reason in some[: self._max_reasons])
            for i, some in zip(rows, reasons, strict=True)
            if some
        }

    def _explains(self, now: float) -> bool:
        """Whether one more is explained at network time `now`; a step back in time is another capture."""
        self._left = min(self._left + abs(now - self._now) * _EXPLAINED_PER_SECOND, _EXPLAINED_AT_ONCE)
        self._now = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _decide(self, windows: Encoded, verdicts: Verdicts, scores: Scores) -> Decided:
        def oddest(rows: Sequence[int]) -> Sequence[str | None]:
            return oddest_components(scores, np.array(rows, np.int64))

        return self.decider.receive(rows_of(windows, verdicts, scores, oddest))

    def _verdicts(self, windows: Encoded, scores: Scores) -> Verdicts:
        decider, c = self.decider, windows.connections
        odd = scores.score >= decider.threshold
        words = {BENIGN: 0, ANOMALOUS: 1}
        code = odd.astype(np.int64)
        for i in np.flatnonzero(odd).tolist():
            if scores.attack[i]:
                code[i] = words.setdefault(scores.attack[i], len(words))
        return Verdicts(
            ts=c.ts,
            uid=c.uid,
            orig_h=address_texts(c.orig_h),
            orig_p=c.orig_p,
            resp_h=address_texts(c.resp_h),
            resp_p=c.resp_p,
            proto=Coded(c.ip_proto.astype(np.int64), _PROTOS),
            service=coded(service or None for service in c.service),
            community_id=community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto),
            stage=Coded(c.stage.astype(np.int64), _STAGES),
            score=scores.score,
            p_value=scores.p_value,
            threshold=round(decider.threshold, 6),
            verdict=Coded(code, list(words)),
            reliance=scores.reliance.round(4),
            modalities=Coded(windows.modalities @ np.array([1, 2, 4]), _NAMES),
            reasons=component_reasons(scores, odd, self._max_reasons),
            model=self.detector.name,
            incident=[None] * len(c),
        )


def _named(reason: str, domain: str) -> str:
    """A reason about a name, with the domain that it lies in."""
    return f"{reason} ({quoted(domain)})" if domain and _OF_NAMES.search(reason) else reason


def _ahead(scored: Iterator[tuple[Encoded, Scores]]) -> Iterator[tuple[Encoded, Scores]]:
    """The same; the next one is made in a thread while the caller is at work on one."""
    beside = ThreadPoolExecutor(1, "score")
    try:
        coming = beside.submit(next, scored, None)
        while (found := coming.result()) is not None:
            coming = beside.submit(next, scored, None)
            yield found
    finally:  # who gives up does not wait for blocks that may never come
        beside.shutdown(wait=False, cancel_futures=True)


_OF_NAMES: Final = re.compile(r"dns query|longest name|server.name|http host")
_STAGES = tuple(stage.name.lower() for stage in Stage)
_PROTOS: Final = tuple(PROTO_NAMES.get(number, "unknown_transport") for number in range(256))
_NAMED_P_VALUE: Final = 0.05  # a component's p-value below which it is named beside another


def component_reasons(scores: Scores, odd: NDArray[np.bool_], most: int) -> list[tuple[str, ...]]:
    """At most `most` components with the smallest p-values in words for each `odd` row, least first; () for others.

    Only what is below 1 in 20, or else the least alone.
    """
    reasons: list[tuple[str, ...]] = [()] * len(odd)
    rows = np.flatnonzero(odd)
    names = _components(scores)
    if not len(rows) or not names:
        return reasons
    table = np.stack([scores.components[name][rows] for name in names], axis=1)
    order = np.argsort(table, axis=1, kind="stable")[:, :most]
    p = np.take_along_axis(table, order, axis=1)
    count = np.maximum((p < _NAMED_P_VALUE).sum(axis=1), np.isfinite(p[:, 0]))
    telling = np.arange(p.shape[1]) < count[:, None]
    which, p = order[telling], p[telling]
    texts: dict[tuple[int, float], str] = {}
    each = [
        texts.get(pair) or _component(texts, names, *pair)
        for pair in zip(which.tolist(), p.tolist(), strict=True)
    ]
    end = 0
    for i, n in zip(rows.tolist(), count.tolist(), strict=True):
        reasons[i] = tuple(each[end : end + n])
        end += n
    return reasons


def oddest_components(scores: Scores, rows: NDArray[np.int64]) -> list[str | None]:
    """The component with the smallest p-value of each of `rows`; None where none applies."""
    names = _components(scores)
    if not len(rows) or not names:
        return [None] * len(rows)
    table = np.nan_to_num(np.stack([scores.components[name][rows] for name in names], axis=1), nan=np.inf)
    least = table.argmin(axis=1)
    return [
        names[k] if p < np.inf else None
        for k, p in zip(least.tolist(), table.min(axis=1).tolist(), strict=True)
    ]


def _components(scores: Scores) -> list[str]:
    """The components that can be named, in order of their names."""
    return sorted(name for name in scores.components if name in COMPONENT_WORDS)


def _component(texts: dict[tuple[int, float], str], names: Sequence[str], which: int, p: float) -> str:
    words = texts[which, p] = f"{COMPONENT_WORDS[names[which]]} (p={p:.1g})"
    return words


_NAMES = tuple(
    tuple(name for bit, name in enumerate(("packet", "connection", "log")) if code >> bit & 1)
    for code in range(8)
)
