"""What Prometheus reads: verdicts, scores and gates of all that was judged, and the drift, on loopback."""

import socket
import urllib.request

import madeup
import numpy as np
import pytest
from made_windows import block_of, office
from prometheus_client.parser import text_string_to_metric_families

from cmdana_plugin.config import Config
from cmdana_plugin.decision.drift import Lift
from cmdana_plugin.decision.judge import Judge
from cmdana_plugin.detector.scores import Scores, score_of
from cmdana_plugin.endpoint.metrics import Numbers, serve
from feature_extractors.errors import CmdanaError
from feature_extractors.features.encoding import Encoded


class Even:
    """A detector whose p-values are spread evenly, and which relies on the connection mostly."""

    name = "even"
    schema_digest = ""

    def receive(self, windows: Encoded) -> Scores:
        p = (np.arange(len(windows)) + 0.5) / max(len(windows), 1)
        return Scores(
            score_of(p), p, {}, np.tile([0.1, 0.6, 0.1, 0.2], (len(windows), 1)), [""] * len(windows)
        )

    def explain(self, windows: Encoded, scores: Scores, rows: np.ndarray) -> list[list[str]]:
        return [["a reason"] for _ in rows]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scraped(port: int) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
        return {
            (s.name, " ".join(v for _, v in sorted(s.labels.items()))): s.value
            for f in families
            for s in f.samples
        }


def test_what_was_judged_is_what_is_served() -> None:
    judge = Judge(Even(), Config())
    (judged,) = judge.judged([block_of(office(2000))])
    judge.watch.noticed([madeup.incident(madeup.VERDICT)] * 2)
    judge.watch.drift.lifts = {f"kind {i}": Lift(300, 5, float(i), 0, False) for i in range(30)}
    port = free_port()
    stop = serve(port, Numbers(lambda: {"disconnects": 3}, lambda: {"connected": 1.0}, judge.watch, 0.5))
    try:
        found = scraped(port)
    finally:
        stop()
    assert found["cmdana_endpoint_total", "disconnects"] == 3
    assert found["cmdana_endpoint_connected", ""] == 1
    assert found["cmdana_verdicts_total", "final benign"] == 1998  # two of two thousand are at 0.001 or less
    assert found["cmdana_verdicts_total", "final anomalous"] == 2
    assert found["cmdana_score_count", ""] == found["cmdana_score_bucket", "+Inf"] == 2000
    assert found["cmdana_score_bucket", "0.5"] == 1998
    assert found["cmdana_score_bucket", "0.25"] == pytest.approx(1800, abs=1)  # 0.25 is a p-value of 0.1
    assert found["cmdana_reliance_total", "connection"] / 2000 == pytest.approx(0.6)
    assert sum(n for (name, _), n in found.items() if name == "cmdana_notices_total") == (
        2 + len(judged.notices)
    )
    drifts = {label: value for (name, label), value in found.items() if name == "cmdana_drift"}
    assert drifts == {f"kind {i}": float(i) for i in range(10, 30)}


def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        numbers = Numbers(dict, dict, Judge(Even(), Config()).watch, 0.5)
        with pytest.raises(CmdanaError, match=r"\[endpoint\] metrics_port: \d+ cannot be used"):
            serve(port, numbers)
