"""`cmdana run` with a stand-in for the detector: `endpoint.py plugin.toml [SLOW [WIRE [MILD]]]`; the rest is real."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config, load
from cmdana_plugin.decision.judge import Judge
from cmdana_plugin.detector.scores import Scores, score_of
from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.live import run
from feature_extractors.errors import CmdanaError
from feature_extractors.features.encoding import Encoded
from feature_extractors.features.schema import load_schema


class StandIn:
    """Odd is a responder that sent 5,000 bytes or more; a little odd, whatever it sent, one that ends in `mild`."""

    name = "stand-in 1"
    schema_digest = load_schema().digest  # so that it is told the same logs as the shipped model

    def __init__(self, slow: float = 0.0, mild: int = 256) -> None:
        self._slow = slow
        self._mild = mild

    def receive(self, windows: Encoded) -> Scores:
        time.sleep(self._slow)
        n = len(windows)
        p = np.where(windows.connections.resp_bytes >= 5_000, 1e-6, 0.5)
        p[windows.connections.resp_h[:, -1] == self._mild] = 10**-2.5
        reliance = np.tile([0.0, 1.0, 0.0, 0.0], (n, 1))
        return Scores(score_of(p), p, {}, reliance, [""] * n)

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        return [["the responder sent much"] for _ in rows]


def judge(config: Config, slow: float = 0.0, mild: int = 256) -> Judge:
    return Judge(StandIn(slow, mild), config)


if __name__ == "__main__":
    settings = load(Path(sys.argv[1]))
    slow = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    if len(sys.argv) > 3:
        wire.WIRE_VERSION = int(sys.argv[3])  # type: ignore[misc]
    mild = int(sys.argv[4]) if len(sys.argv) > 4 else 256
    try:
        sys.exit(run(settings, lambda: judge(settings, slow, mild)))
    except CmdanaError as error:
        sys.exit(f"cmdana: {error}")
