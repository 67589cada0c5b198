"""The only loop that drives data: windows in, verdicts and notices out, offline and live alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from feature_extractors.community_id import community_id_v1

from cmdana_plugin.config import Config
from cmdana_plugin.decide import Decider
from cmdana_plugin.logs import addresses
from cmdana_plugin.score import Detector
from cmdana_plugin.verdict import BENIGN, Notice, Verdict
from feature_extractors.observations import PROTO_NAMES, Stage, Windows


@dataclass(frozen=True, slots=True)
class Judged:
    """What a block of windows came to: a verdict for each window in its order, and the notices raised."""

    verdicts: Sequence[Verdict]
    notices: Sequence[Notice]


class Judge:
    """Scores a block of windows, decides on each, and words the notices."""

    def __init__(self, detector: Detector, config: Config) -> None:
        self.detector = detector
        self.decider = Decider(config.verdict, config.incident)
        self._max_reasons = config.verdict.max_reasons

    def receive(self, windows: Windows) -> Judged:
        """Judges `windows`, which must come in order of `end` from call to call."""
        if not len(windows):
            return Judged((), ())
        scores = self.detector.receive(windows)
        decider = self.decider
        words = [decider.verdict_of(s, a) for s, a in zip(scores.score.tolist(), scores.attack, strict=True)]
        odd = np.array([i for i, word in enumerate(words) if word != BENIGN], np.int64)
        explained = (
            dict(zip(odd.tolist(), self.detector.explain(windows, scores, odd), strict=True))
            if len(odd)
            else {}
        )
        verdicts: list[Verdict] = []
        notices: list[Notice] = []
        c = windows.connections
        columns = zip(
            c.ts.tolist(), c.uid.tolist(), addresses(c.orig_h), c.orig_p.tolist(), addresses(c.resp_h),
            c.resp_p.tolist(), c.ip_proto.tolist(), c.service,
            community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto),
            c.stage.tolist(), scores.score.round(6).tolist(), scores.p_value.tolist(), words,
            scores.reliance.round(4).tolist(), _modalities(windows), c.end.tolist(), strict=True,
        )  # fmt: skip
        for i, (
            ts,
            uid,
            oh,
            op,
            rh,
            rp,
            ipp,
            sv,
            cid,
            stage,
            score,
            p,
            word,
            reliance,
            there,
            end,
        ) in enumerate(columns):
            verdict = Verdict(
                ts=ts, uid=uid.decode(), orig_h=oh, orig_p=op, resp_h=rh, resp_p=rp,
                proto=PROTO_NAMES.get(ipp, "unknown_transport"), service=sv or None, community_id=cid,
                stage=Stage(stage).name.lower(), score=score, p_value=float(f"{p:.6g}"),
                threshold=round(decider.threshold, 6), verdict=word,
                packet_reliance=reliance[0], connection_reliance=reliance[1], log_reliance=reliance[2],
                state_reliance=reliance[3], modalities=there,
                reasons=tuple(explained.get(i, ())[: self._max_reasons]), model=self.detector.name,
            )  # fmt: skip
            verdicts.append(verdict)
            notices += decider.receive(verdict, end)
        return Judged(verdicts, notices)


_NAMES = tuple(
    tuple(name for bit, name in enumerate(("packet", "connection", "log")) if code >> bit & 1)
    for code in range(8)
)


def _modalities(windows: Windows) -> list[tuple[str, ...]]:
    code = (np.diff(windows.packet_start) > 0) * 1 + 2 + (np.diff(windows.log_start) > 0) * 4
    return [_NAMES[k] for k in code.tolist()]
