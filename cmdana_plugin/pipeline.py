"""The only loop that drives data: windows in, verdicts and notices out, offline and live alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decide import Decider
from cmdana_plugin.logs import addresses
from cmdana_plugin.score import Detector, Scores
from cmdana_plugin.verdict import ANOMALOUS_HOST, BENIGN, NO_VERDICTS, Notice, Verdicts
from cmdana_plugin.watch import Watch
from feature_extractors.community_id import community_id_v1
from feature_extractors.observations import PROTO_NAMES, Stage, Windows

# What each component of a score says when it is the odd one, for verdicts that raise no notice of their own.
WORDS: Final[Mapping[str, str]] = {
    "packets": "packets unlike what its connection, logs and history foretell",
    "connection": "connection record unlike what its packets, logs and history foretell",
    "log": "log entries unlike what its packets, connection and history foretell",
    "residual": "the modalities do not belong together",
    "next": "not what this host's history foretells",
    "density": "far from all connections seen in training",
    "isolation": "an unusual combination of plain numbers",
    "novelty": "new to this host, service or pair",
    "attack": "resembles attacks seen in training",
    "site": "far from what this service has shown here so far",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a block of windows came to: a verdict for each window in its order, and the notices raised."""

    verdicts: Verdicts
    notices: Sequence[Notice]


class Judge:
    """Scores a block of windows, decides on each, and words the notices.

    A verdict that raises a notice is explained field by field; any other odd one names its oddest components, so
    that a flood of odd connections costs little more than one of ordinary ones. Of a block, the `most_explained`
    oddest are explained so, where others wait for their verdicts (None: all).
    """

    most_explained: int | None = None

    def __init__(self, detector: Detector, config: Config) -> None:
        self.detector = detector
        self.decider = Decider(config.verdict, config.incident)
        self.watch = Watch(config, WORDS)
        self._max_reasons = config.verdict.max_reasons

    def receive(self, windows: Windows) -> Judged:
        """Judges `windows`, which must come in order of `end` from call to call."""
        if not len(windows):
            return Judged(NO_VERDICTS, ())
        scores = self.detector.receive(windows)
        verdicts = self._verdicts(windows, scores)
        notices: list[Notice] = self.watch.receive(windows, scores, verdicts)
        raised = self._decide(verdicts, windows.connections.end.tolist())
        for i, explained in self._explained(windows, scores, raised).items():
            verdicts.reasons[i] = explained
            raised[i] = [_explained(n, explained) for n in raised[i]]
        for i in sorted(raised):
            notices += raised[i]
        self.watch.noticed(notices)
        return Judged(verdicts, notices)

    def _explained(
        self, windows: Windows, scores: Scores, raised: Collection[int]
    ) -> dict[int, tuple[str, ...]]:
        """Why, by row, of the oddest of these rows; a row that cannot be explained is left out."""
        rows = sorted(sorted(raised, key=lambda i: float(scores.p_value[i]))[: self.most_explained])
        if not rows:
            return {}
        reasons = self.detector.explain(windows, scores, np.array(rows))
        return {i: tuple(some[: self._max_reasons]) for i, some in zip(rows, reasons, strict=True) if some}

    def _decide(self, verdicts: Verdicts, ends: Sequence[float]) -> dict[int, list[Notice]]:
        """The notices by row, of rows that raise any."""
        decider = self.decider
        raised: dict[int, list[Notice]] = {}
        columns = zip(verdicts.verdict, verdicts.p_value, verdicts.orig_h, verdicts.resp_h, strict=True)
        for i, (word, p, orig, resp) in enumerate(columns):
            if word != BENIGN or decider.heeds(p, orig, resp):
                some = decider.receive(verdicts[i], ends[i])
                if some:
                    raised[i] = some
        return raised

    def _verdicts(self, windows: Windows, scores: Scores) -> Verdicts:
        decider, c = self.decider, windows.connections
        words = [decider.verdict_of(s, a) for s, a in zip(scores.score.tolist(), scores.attack, strict=True)]
        return Verdicts(
            ts=c.ts.tolist(),
            uid=c.uid.astype(str).tolist(),
            orig_h=addresses(c.orig_h),
            orig_p=c.orig_p.tolist(),
            resp_h=addresses(c.resp_h),
            resp_p=c.resp_p.tolist(),
            proto=[PROTO_NAMES.get(number, "unknown_transport") for number in c.ip_proto.tolist()],
            service=[service or None for service in c.service],
            community_id=community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto),
            stage=[_STAGES[stage] for stage in c.stage.tolist()],
            score=scores.score.tolist(),
            p_value=scores.p_value.tolist(),
            threshold=round(decider.threshold, 6),
            verdict=words,
            reliance=scores.reliance.round(4).tolist(),
            modalities=_modalities(windows),
            reasons=component_reasons(scores, np.array([w != BENIGN for w in words]), self._max_reasons),
            model=self.detector.name,
        )


_STAGES = tuple(stage.name.lower() for stage in Stage)


def component_reasons(scores: Scores, odd: NDArray[np.bool_], most: int) -> list[tuple[str, ...]]:
    """For each odd row its components with the smallest p-values in words, least first; nothing for the others."""
    reasons: list[tuple[str, ...]] = [()] * len(odd)
    rows = np.flatnonzero(odd)
    names = [name for name in scores.components if name in WORDS]
    table = np.array([scores.components[name][rows] for name in names]).reshape(len(names), len(rows)).T
    told: dict[tuple[str, float], str] = {}
    for i, values in zip(rows.tolist(), table.tolist(), strict=True):
        found = sorted([(p, name) for p, name in zip(values, names, strict=True) if p == p])
        telling = [pair for pair in found[:most] if pair[0] < 0.05] or found[:1]
        reasons[i] = tuple([_component(told, name, p) for p, name in telling])
    return reasons


def _component(told: dict[tuple[str, float], str], name: str, p: float) -> str:
    words = told.get((name, p))
    if words is None:
        words = told[name, p] = f"{WORDS[name]} (p={p:.1g})"
    return words


def _explained(notice: Notice, reasons: Sequence[str]) -> Notice:
    words = "; ".join(reasons)
    if notice.note == ANOMALOUS_HOST:
        return replace(notice, sub=f"{notice.sub}; latest: {words}")
    return replace(notice, sub=words)


_NAMES = tuple(
    tuple(name for bit, name in enumerate(("packet", "connection", "log")) if code >> bit & 1)
    for code in range(8)
)


def _modalities(windows: Windows) -> list[tuple[str, ...]]:
    code = (np.diff(windows.packet_start) > 0) * 1 + 2 + (np.diff(windows.log_start) > 0) * 4
    return [_NAMES[k] for k in code.tolist()]
