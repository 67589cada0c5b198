"""The one loop that drives data: encoded windows in, verdicts and notices out, offline and live alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decision.adaptation import Adaptation
from cmdana_plugin.decision.counters import Watch
from cmdana_plugin.decision.incidents import Decided, Decider
from cmdana_plugin.decision.kinds import COMPONENT_WORDS, quoted
from cmdana_plugin.decision.notice import Notice
from cmdana_plugin.decision.seen import Seen, rows_of
from cmdana_plugin.decision.usual.tails import Tails
from cmdana_plugin.decision.verdict import NO_VERDICTS, Coded, Verdict, Verdicts, coded
from cmdana_plugin.detector import ANOMALOUS, BENIGN, PERSISTENCE, Detector, Scores, restore_to, state_of
from cmdana_plugin.statefile import column, prefixed, under
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
    elsewhere: Sequence[Seen] = ()  # odd connections whose responders other shards watch

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

    def __init__(
        self, detector: Detector, config: Config, tails: Tails | None = None, *, adapting: bool = False,
        key: tuple[int, int] | None = None, at_home: bool = False,
    ) -> None:  # fmt: skip
        """`tails` say how rare evidence against a host is on the network that was learned; None: nobody has learned.

        Where it is `adapting`, the p-values of verdicts follow the stream as `[adaptation]` says. Evidence against
        hosts does not: its tails are another calibration, and doing both costs incidents. `key` is that of its hashes,
        so that the states of several judges of a site can be merged. `at_home`: the detector has learned this network.
        """
        self.detector = detector
        self.decider = Decider(config.verdict, config.incident, tails, key, at_home=at_home)
        self.watch = Watch(config, COMPONENT_WORDS)
        mode = config.adaptation.mode
        self.adaptation = Adaptation(
            config.adaptation,
            on=adapting and (mode == "always" or (mode in ("calibration", "shadow") and tails is None)),
        )
        self._max_reasons = config.verdict.max_reasons
        self._left = float(_EXPLAINED_AT_ONCE)
        self._now = -math.inf

    def look(self, blocks: Iterable[Encoded]) -> None:
        """The first of two passes over a stream that no model has learned: what its own p-values are, without judging.

        Detector and decider know nothing of it afterwards.
        """
        before = state_of(self.detector)
        for windows in blocks:
            if not self.adaptation.look(windows, self.detector.receive(windows)):
                break
        self.adaptation.looked()
        restore_to(self.detector, before)

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
        verdicts = self._verdicts(windows, self.adaptation.receive(windows, scores))
        counts = verdicts.counted()
        drifted = self.watch.receive(windows, scores, counts, verdicts.score)
        notices = [self._answered(n) for n in drifted]
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
        return Judged(windows, verdicts, notices, counts, decided.revised, decided.elsewhere)

    def share(self, ours: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]) -> None:
        """Has evidence against responders [n, 16] that are not `ours` left to others."""
        self.decider.ours = ours

    def overheard(self, nothing: Encoded, seen: Sequence[Seen]) -> Judged:
        """What comes of odd connections that others have judged, to responders that are ours; `nothing` is a
        block of no windows.
        """
        order = sorted(seen, key=lambda s: s.end)
        decided = self.decider.overheard(order)
        notices = [n for i in sorted(decided.notices) for n in decided.notices[i]]
        self.watch.noticed(notices)
        return Judged(nothing, NO_VERDICTS, notices, {}, decided.revised)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that judge and detector know by now, between two blocks, as arrays by name."""
        return (
            prefixed("detector.", state_of(self.detector))
            | prefixed("decider.", self.decider.state())
            | prefixed("drift.", self.watch.drift.state())
            | prefixed("adaptation.", self.adaptation.state())
            | {"explained": np.array([self._left, self._now])}
        )

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Goes on from a `state`; without the learned memory where another network has written it (not `learned`).

        Raises `ValueError` where it is none, or holds more than this judge may; nothing of it is then to be used.
        """
        explained = column(state, "explained", np.zeros(2))
        self.decider.restore(under("decider.", state), learned)
        self.watch.drift.restore(under("drift.", state))
        self.adaptation.restore(under("adaptation.", state))
        restore_to(self.detector, under("detector.", state), learned)
        self._left, self._now = explained.tolist()

    def _answered(self, notice: Notice) -> Notice:
        """A notice of drift with what has been done about it."""
        if notice.drift is None:
            return notice
        becomes = self.adaptation.becomes(notice.drift.traffic, notice.drift.tail)
        return replace(notice, drift=replace(notice.drift, becomes=becomes))

    def _explained(
        self, windows: Encoded, scores: Scores, raised: Collection[int]
    ) -> dict[int, tuple[str, ...]]:
        """Why, by row, of the first of these rows; a row that cannot be explained is left out."""
        # A connection that is like one in ten others has nothing to explain: the incident's own reasons stand.
        new = scores.components.get(PERSISTENCE, scores.p_value)
        odd = [i for i in sorted(raised) if scores.p_value[i] <= 0.1 or new[i] <= 0.1]
        rows = [i for i in odd if self._explains(float(windows.connections.end[i]))]
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
