"""Packets that the endpoint sniffs itself, brought together with Zeek's connections by community id and time.

Zeek can then leave out the events that tell the time, direction and size of a connection's first packets. They are
read from the same interface and tracked by the embedded engine's extractor, without content; no payload is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

import numpy as np

from feature_extractors import (
    MAX_PACKETS,
    Connections,
    Counts,
    Extractor,
    ExtractorLimits,
    FrameBlock,
    Packets,
    Reader,
    Windows,
    community_id_v1,
)
from feature_extractors.tracker import TrackerLimits

_CLOCKS: Final = 0.02  # seconds by which Zeek's time of a packet and ours may differ
_LATEST: Final = 16  # connections of one community id that are looked at, the last ones first


class Sniffed:
    """The first packets of the connections on an interface, to be given to Zeek's records of the same connections.

    Bounded: `max_connections` open ones, and as many that have ended and wait for Zeek's record; past it the oldest
    are let go and counted. `receive` may be called from another thread than `complete`.
    """

    def __init__(self, max_connections: int, counts: Counts | None = None) -> None:
        """`counts`: the reader's, to be told with ours."""
        self.counts = counts or Counts()
        self._max = max_connections
        limits = ExtractorLimits(tracker=TrackerLimits(connections=max_connections))
        self._extractor = Extractor(limits, content=False)
        self._ended: deque[tuple[Windows, list[str]]] = deque()
        self._held = 0
        self._found: dict[str, list[tuple[Windows, int]]] = {}
        self._lock = threading.Lock()

    def receive(self, block: FrameBlock) -> None:
        """Takes the next frames of the interface."""
        with self._lock:
            windows = self._extractor.receive(block)
            if len(windows):
                self._keep(windows)

    def complete(self, windows: Windows) -> Windows:
        """The windows with the sniffed packets in place of Zeek's, where some were sniffed; the others as they are."""
        if not len(windows):
            return windows
        with self._lock:
            sources = self._sources(windows.connections)
        return _with_packets(windows, sources)

    def _keep(self, windows: Windows) -> None:
        ids = _ids(windows.connections)
        self._ended.append((windows, ids))
        self._held += len(ids)
        for row, name in enumerate(ids):
            self._found.setdefault(name, []).append((windows, row))
        while self._held > self._max and len(self._ended) > 1:
            oldest, ids = self._ended.popleft()
            self._held -= len(ids)
            self.counts.add("sniffed_connections_forgotten", len(ids))
            for name in ids:
                left = [entry for entry in self._found.pop(name, ()) if entry[0] is not oldest]
                if left:
                    self._found[name] = left

    def _sources(self, c: Connections) -> list[tuple[Packets, slice, bool] | None]:
        """For each connection the packets that are its own, and whether their roles are the other way round."""
        open_ones = self._extractor.peek(c)
        peeked: dict[str, list[tuple[Windows, int]]] = {}
        for row, name in enumerate(_ids(open_ones.connections)):
            peeked.setdefault(name, []).append((open_ones, row))
        sources: list[tuple[Packets, slice, bool] | None] = []
        for i, name in enumerate(_ids(c)):
            source = _nearest(peeked.get(name, [])[:1] + self._found.get(name, [])[: -_LATEST - 1 : -1], c, i)
            self.counts.add("packets_sniffed" if source else "packets_not_sniffed")
            sources.append(source)
        return sources


class Sniffer(threading.Thread):
    """Hands what a reader of an interface gives to `Sniffed`, until `stop`; a failure is told once."""

    def __init__(
        self, reader: Reader, sniffed: Sniffed, stop: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        super().__init__(name="cmdana-sniffer", daemon=True)
        self.sniffed = sniffed
        self._reader = reader
        self._stop_reader = stop
        self._tell = tell

    def run(self) -> None:
        """The thread."""
        try:
            for block in self._reader:
                self.sniffed.receive(block)
        except OSError as error:  # the interface went down
            self._tell(f"[endpoint] sniff: no longer listening: {error.strerror or error}")

    def stop(self) -> None:
        """Ends the thread."""
        self._stop_reader()
        self.join(5.0)


def _ids(c: Connections) -> list[str]:
    ids: list[str] = community_id_v1(c.orig_h, c.resp_h, c.orig_p, c.resp_p, c.ip_proto).astype(str).tolist()
    return ids


def _nearest(
    candidates: list[tuple[Windows, int]], c: Connections, i: int
) -> tuple[Packets, slice, bool] | None:
    """Of those with the same community id the one that has packets within the connection's time."""
    begin, end = float(c.ts[i]) - _CLOCKS, float(c.end[i]) + _CLOCKS
    for windows, row in candidates:
        first, last = windows.packet_start[row], windows.packet_start[row + 1]
        times = windows.packets.ts[first:last]
        inside = np.flatnonzero((times >= begin) & (times <= end))
        # Without its first packet it would be another connection to the detector.
        if not len(inside) or times[inside[0]] > begin + 2 * _CLOCKS:
            continue
        its = slice(int(first + inside[0]), int(first + min(inside[-1] + 1, inside[0] + MAX_PACKETS)))
        other = windows.connections
        turned = bool((other.orig_h[row] != c.orig_h[i]).any() or other.orig_p[row] != c.orig_p[i])
        return windows.packets, its, turned
    return None


def _with_packets(windows: Windows, sources: list[tuple[Packets, slice, bool] | None]) -> Windows:
    if not any(sources):
        return windows
    start = windows.packet_start.tolist()
    rows = [
        source or (windows.packets, slice(start[i], start[i + 1]), False) for i, source in enumerate(sources)
    ]
    packet_start = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([its.stop - its.start for _, its, _ in rows], out=packet_start[1:])
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(packets, f.name)[its] for packets, its, _ in rows])
        for f in fields(Packets)
    }
    turned = np.repeat([t for _, _, t in rows], np.diff(packet_start))
    columns["is_orig"] = columns["is_orig"] ^ turned
    return replace(windows, packets=Packets(**columns), packet_start=packet_start)
