"""The endpoint's counters for Prometheus, on loopback only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feature_extractors.errors import CmdanaError


class _Counts(Collector):
    def __init__(
        self, counters: Callable[[], Mapping[str, int]], gauges: Callable[[], Mapping[str, float]]
    ) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "cmdana_endpoint", "What the endpoint received, judged, sent and let go.", labels=["what"]
        )
        for what, n in self._counters().items():
            events.add_metric([what], n)
        yield events
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"cmdana_endpoint_{name}", name.replace("_", " "), value=value)


def serve(
    port: int, counters: Callable[[], Mapping[str, int]], gauges: Callable[[], Mapping[str, float]]
) -> Callable[[], None]:
    """Serves `/metrics` on 127.0.0.1:`port` until the returned function is called. Raises `CmdanaError`."""
    registry = CollectorRegistry()
    registry.register(_Counts(counters, gauges))
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
