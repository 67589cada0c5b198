"""The endpoint's numbers for Prometheus, on loopback only: the conversation with Zeek, the verdicts, the drift."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cmdana_plugin.decision import SCORE_BOUNDS, Watch, strongest
from feature_extractors import CmdanaError, Modality

_GAUGES = {
    "connected": "1 while there is a connection to Zeek.",
    "records_waiting": "Records received and not yet judged.",
    "lag_seconds": "Seconds for which the oldest of these has waited.",
    "learning": "Share of the learning phase that is over, 0 to 1; only while `cmdana train --live` runs.",
}
_MOST_DRIFTS = 20  # kinds of traffic that are shown, those that moved most


class Numbers(Collector):
    """A Prometheus collector: all metric families, made anew at each scrape."""

    def __init__(
        self,
        counters: Callable[[], Mapping[str, int]],
        gauges: Callable[[], Mapping[str, float]],
        watch: Watch,
        threshold: float,
    ) -> None:
        self._counters = counters
        self._gauges = gauges
        self._watch = watch
        self._threshold = threshold

    def collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "cmdana_endpoint", "What the endpoint received, judged, sent and let go.", labels=["what"]
        )
        for what, n in self._counters().items():
            events.add_metric([what], n)
        yield events
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"cmdana_endpoint_{name}", _GAUGES[name], value=value)
        watch = self._watch
        verdicts = CounterMetricFamily(
            "cmdana_verdicts", "Verdicts by stage and word.", labels=["stage", "verdict"]
        )
        for words, n in list(watch.verdicts.items()):
            verdicts.add_metric(words.split(" ", 1), n)
        yield verdicts
        notices = CounterMetricFamily("cmdana_notices", "Notices raised, by type.", labels=["note"])
        for note, n in list(watch.notices.items()):
            notices.add_metric([note], n)
        yield notices
        bounds = [*map(str, SCORE_BOUNDS[:-1]), "+Inf"]
        buckets = list(zip(bounds, watch.scores.cumsum().tolist(), strict=True))
        yield HistogramMetricFamily(
            "cmdana_score",
            "Scores of final verdicts, 0 to 1, higher is odder.",
            buckets=buckets,
            sum_value=watch.score_sum,
        )
        yield GaugeMetricFamily(
            "cmdana_threshold", "The score from which on a verdict is not benign.", value=self._threshold
        )
        gates = CounterMetricFamily(
            "cmdana_reliance",
            "Sum over final verdicts of what the score relied on; divided by cmdana_score_count, the mean gate.",
            labels=["modality"],
        )
        for modality in Modality:
            gates.add_metric([modality.name.lower()], float(watch.reliance[modality]))
        yield gates
        lifts = GaugeMetricFamily(
            "cmdana_drift",
            "Share of connections with small p-values in the last whole window, in multiples of what was promised.",
            labels=["traffic"],
        )
        for name, lift in strongest(watch.drift.lifts, _MOST_DRIFTS):
            lifts.add_metric([name], lift.lift)
        yield lifts


def serve(port: int, numbers: Numbers) -> Callable[[], None]:
    """Serves `/metrics` on 127.0.0.1:`port` until the returned function is called. Raises `CmdanaError`."""
    registry = CollectorRegistry()
    registry.register(numbers)
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise CmdanaError(
            f"[endpoint] metrics_port: {port} cannot be used ({error.strerror}); choose another, or 0 for none"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
