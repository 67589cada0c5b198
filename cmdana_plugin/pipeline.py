"""The only loop that drives data: windows in, verdicts and notices out, offline and live alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from cmdana_plugin.decide import Decider
from cmdana_plugin.logs import addresses
from cmdana_plugin.score import Detector, Scores
from cmdana_plugin.verdict import ANOMALOUS_HOST, BENIGN, Notice, Verdict
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
    "novelty": "new to this host, service or pair",
    "attack": "resembles attacks seen in training",
    "site": "far from what this service has shown here so far",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a block of windows came to: a verdict for each window in its order, and the notices raised."""

    verdicts: Sequence[Verdict]
    notices: Sequence[Notice]


class Judge:
    """Scores a block of windows, decides on each, and words the notices.

    A verdict that raises a notice is explained field by field; any other odd one names its oddest components, so
    that a flood of odd connections costs little more than one of ordinary ones.
    """

    def __init__(self, detector: Detector, config: Config) -> None:
        self.detector = detector
        self.decider = Decider(config.verdict, config.incident)
        self.watch = Watch(config, WORDS)
        self._max_reasons = config.verdict.max_reasons

    def receive(self, windows: Windows) -> Judged:
        """Judges `windows`, which must come in order of `end` from call to call."""
        if not len(windows):
            return Judged((), ())
        scores = self.detector.receive(windows)
        verdicts = self._verdicts(windows, scores)
        notices: list[Notice] = self.watch.receive(windows, scores, verdicts)
        ends = windows.connections.end.tolist()
        raised = [self.decider.receive(verdict, end) for verdict, end in zip(verdicts, ends, strict=True)]
        rows = [i for i, some in enumerate(raised) if some]
        reasons = self.detector.explain(windows, scores, np.array(rows)) if rows else []
        for i, all_of_it in zip(rows, reasons, strict=True):
            explained = all_of_it[: self._max_reasons]
            if explained:
                verdicts[i] = replace(verdicts[i], reasons=tuple(explained))
            notices += [_explained(n, explained) if explained else n for n in raised[i]]
        self.watch.noticed(notices)
        return Judged(verdicts, notices)

    def _verdicts(self, windows: Windows, scores: Scores) -> list[Verdict]:
        decider = self.decider
        words = [decider.verdict_of(s, a) for s, a in zip(scores.score.tolist(), scores.attack, strict=True)]
        reasons = component_reasons(scores, np.array([w != BENIGN for w in words]), self._max_reasons)
        c = windows.connections
        columns = zip(
            c.ts.tolist(), c.uid.tolist(), addresses(c.orig_h), c.orig_p.tolist(), addresses(c.resp_h),
            c.resp_p.tolist(), c.ip_proto.tolist(), c.service,
            community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto),
            c.stage.tolist(), scores.score.tolist(), scores.p_value.tolist(), words,
            scores.reliance.round(4).tolist(), _modalities(windows), reasons, strict=True,
        )  # fmt: skip
        threshold = round(decider.threshold, 6)
        return [
            Verdict(
                ts=ts, uid=uid.decode(), orig_h=oh, orig_p=op, resp_h=rh, resp_p=rp,
                proto=PROTO_NAMES.get(ipp, "unknown_transport"), service=sv or None, community_id=cid,
                stage=Stage(stage).name.lower(), score=score, p_value=p, threshold=threshold, verdict=word,
                packet_reliance=share[0], connection_reliance=share[1], log_reliance=share[2],
                state_reliance=share[3], modalities=there, reasons=why, model=self.detector.name,
            )
            for ts, uid, oh, op, rh, rp, ipp, sv, cid, stage, score, p, word, share, there, why in columns
        ]  # fmt: skip


def component_reasons(scores: Scores, odd: NDArray[np.bool_], most: int) -> list[tuple[str, ...]]:
    """For each odd row its components with the smallest p-values in words, least first; nothing for the others."""
    reasons: list[tuple[str, ...]] = [()] * len(odd)
    names = [name for name in scores.components if name in WORDS]
    for i in np.flatnonzero(odd).tolist():
        found = sorted((float(scores.components[name][i]), name) for name in names)
        found = [(p, name) for p, name in found if not math.isnan(p)]
        telling = [(p, name) for p, name in found if p < 0.05] or found[:1]
        reasons[i] = tuple(f"{WORDS[name]} (p={p:.1g})" for p, name in telling[:most])
    return reasons


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
