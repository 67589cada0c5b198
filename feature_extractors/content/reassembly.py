"""Reassembles the content of connections and hands it to protocol analyzers, which yield log entries and `service`.

Mirrors in meaning src/analyzer/protocol/tcp/TCP_Reassembler.cc of Zeek 8.2.2, without acknowledgements: a hole is
given up when the other side speaks on, when too much waits behind it, or at the connection's end.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors.addresses import address_texts
from feature_extractors.content.analyzers.base import ContentLimits, Fields, Run, Session
from feature_extractors.content.analyzers.dns import NETBIOS, Dns
from feature_extractors.content.analyzers.dns_columns import read as read_dns
from feature_extractors.content.analyzers.dpd import TCP_PORTS, TCP_TWO, UDP_PORTS, Detector
from feature_extractors.content.analyzers.registry import create
from feature_extractors.content.segments import NEVER, Segments, Wanted
from feature_extractors.frames import Counts
from feature_extractors.observations import LogEntry

__all__ = ["Content", "ContentLimits"]

_DNS_PORTS = np.array(
    [port for port, name in UDP_PORTS.items() if name == "dns" and port != NETBIOS], np.uint16
)
NO_HOST = ("0.0.0.0", "255.255.255.255")  # noqa: S104  # addresses of nobody, which DHCP's messages come from
NOT_SAID = 0.0  # no analyzer said when an entry is written
EXPECT_SECONDS = 300.0  # how long a connection that another one announced is awaited


# Which of the connections it belongs to, when Zeek writes it (0: nobody said), stream, time, fields
Row = tuple[int, float, str, float, Fields]


# Most streams never need one of their own: what is empty is made when something goes into it.
_NOTHING_PENDING: Final[dict[int, tuple[bytes, int]]] = {}
_NO_ORDER: Final[list[int]] = []


class _Stream:
    """One direction of a TCP connection: what comes next, and what came too early."""

    __slots__ = ("counted", "next", "order", "pending", "pending_bytes", "skippable_until")

    def __init__(self) -> None:
        self.next = 0
        self.counted = 0  # offset up to which the connection's size counts this direction
        self.skippable_until = (
            0  # content before this offset was declared unneeded and may be missing without harm
        )
        self.pending = _NOTHING_PENDING  # by offset: captured bytes, bytes on the wire
        self.order = _NO_ORDER  # the offsets of what waits, as a heap
        self.pending_bytes = 0


_NO_STREAMS = (_Stream(), _Stream())  # of every connection without any


class _Connection:
    __slots__ = ("dns", "root", "session", "streams", "waited", "wanted_from")

    def __init__(self, session: Session, root: Detector) -> None:
        self.session = session
        self.root = root
        sole_analyzer = root.sole_analyzer()
        self.dns = (
            sole_analyzer if isinstance(sole_analyzer, Dns) else None
        )  # takes datagrams that were read with their block
        self.streams = (
            (_Stream(), _Stream()) if session.ip_proto == 6 else _NO_STREAMS
        )  # responder's, originator's
        self.wanted_from = (0, 0)
        self.waited = 0.0  # when the last segment came that had to wait


class Content:
    """TCP stream reassembly and protocol analysis of all connections, from their first payload to `close`."""

    def __init__(self, limits: ContentLimits | None = None, logs: bool = False, brief: bool = False) -> None:
        self.limits = limits or ContentLimits()
        self.counts = Counts()
        self.rows: list[Row] = []  # where `logs`, of the connections that the last `close` ended
        self._connections: dict[int, _Connection] = {}
        self._pending_total = 0
        self._run = Run(self.limits, self.counts, create, logs=logs, brief=brief and not logs)

    def receive(self, segments: Segments) -> Wanted:
        """The connections that want less than before, after a block of segments has been analysed."""
        connections = self._connections
        view = memoryview(segments.data.data)
        changed: dict[int, None] = {}
        cut_short = 0
        start = segments.start
        messages = read_dns(_readonly(segments.data), start, segments.captured, _dns_rows(segments))
        serials: list[int] = segments.connection.tolist()
        from_orig: list[bool] = segments.is_orig.tolist()
        times: list[float] = segments.ts.tolist()
        offsets: list[int] = segments.offset.tolist()
        begins: list[int] = start.tolist()
        ends: list[int] = (start + segments.captured).tolist()
        lengths: list[int] = segments.length.tolist()
        protocols: list[int] = segments.ip_proto.tolist()
        ports: list[int] = (segments.orig_p.astype(np.int64) << 16 | segments.resp_p).tolist()
        partials: list[bool] = segments.partial.tolist()
        whiches = messages.which
        logs = self._run.logs
        for i, serial in enumerate(serials):  # columns, not rows: most segments need a few of them only
            connection = connections.get(serial)
            if connection is None:
                connection = self._open(protocols[i], ports[i] >> 16, ports[i] & 0xFFFF, times[i])
                connections[serial] = connection
            session = connection.session
            which = whiches[i]
            if which >= 0 and connection.dns is not None:
                session.size += lengths[i]
                connection.dns.plain(times[i], messages, which)
                continue
            root = connection.root
            if protocols[i] != 6:
                if root.done:
                    continue
                session.size += lengths[i]
                root.data(from_orig[i], times[i], view[begins[i] : ends[i]].tobytes())
                if connection.dns is not None and root.sole_analyzer() is None:
                    connection.dns = None
                if root.is_finished():
                    changed[serial] = None
                continue
            if logs and ends[i] - begins[i] < lengths[i] and session.first("truncated"):
                session.weird(times[i], "truncated_tcp_payload", "TCP")
            if root.done:
                changed[serial] = None
                continue
            is_orig, offset, length = from_orig[i], offsets[i], lengths[i]
            stream = connection.streams[is_orig]
            upper = offset + length
            if upper <= stream.next or upper <= stream.skippable_until:
                continue  # what was declared unneeded may also never be handed in
            if stream.next < stream.skippable_until and not stream.pending:
                upto = min(int(segments.before[i]), stream.skippable_until)
                if stream.next < upto:
                    self._pass(connection, stream, is_orig, upto)
            ts, begin, end = times[i], begins[i], ends[i]
            session.partial = partials[i]
            if offset <= stream.next or offset <= stream.skippable_until:
                if end - begin == length:
                    self._deliver(connection, stream, is_orig, ts, offset, view[begin:end].tobytes(), length)
                elif (
                    root.ignored and not stream.skippable_until
                ):  # cut short, and nobody listens: only counted
                    stream.next = upper
                    session.had_gap = True
                    cut_short += 1
                    if upper > stream.counted:
                        session.size += upper - stream.counted
                        stream.counted = upper
                else:
                    self._deliver(connection, stream, is_orig, ts, offset, b"", length)
                if stream.pending:
                    self._drain(connection, stream, is_orig, ts)
            else:
                self._wait(connection, stream, is_orig, ts, offset, view[begin:end].tobytes(), length)
            other = connection.streams[not is_orig]
            if other.pending and not stream.pending:
                # The peer speaks on, so it has what we lack.
                self._give_up(connection, other, not is_orig, ts)
            if root.done or stream.skippable_until > stream.next:
                changed[serial] = None
        if cut_short:
            self.counts.add("tcp_payload_not_captured", cut_short)
        return self._wanted(changed)

    def close(
        self,
        connections: NDArray[np.int64],
        uids: NDArray[np.bytes_],
        ends: NDArray[np.int64] | None = None,
        hosts: NDArray[np.uint8] | None = None,
    ) -> tuple[list[str], list[LogEntry], NDArray[np.int64]]:
        """The services [n], log entries and their offsets [n + 1] of `n` connections, which end now.

        `ends` [n, 2]: stream offsets that originator and responder reached, -1 unknown. They tell how much came of
        content that was not wanted. `hosts` [n, 2, 16]: addresses of originator and responder.
        """
        services: list[str] = []
        entries: list[LogEntry] = []
        log_start = [0]
        reached: list[list[int]] = ends.tolist() if ends is not None else [[-1, -1]] * len(connections)
        logs = self._run.logs
        self.rows = []
        for serial, uid, ended in zip(connections.tolist(), uids.tolist(), reached, strict=True):
            connection = self._connections.pop(serial, None)
            if connection is None:
                services.append("")
                log_start.append(len(entries))
                continue
            session = connection.session
            if session.ip_proto == 6:
                self._end_streams(connection, *ended)
            connection.root.end()
            found = session.services
            services.append(",".join(sorted(found) if len(found) > 1 else found))
            if logs and (session.entries or session.rows or session.shared):
                self._keep_rows(len(services) - 1, session, uid.decode("ascii"), hosts)
            if session.entries:
                name = uid.decode("ascii")
                entries += [
                    LogEntry(stream_name, ts, name, fields)
                    for stream_name, ts, fields in session.take()
                    if fields
                ]
            log_start.append(len(entries))
        return services, entries, np.array(log_start, np.int64)

    def _keep_rows(self, which: int, session: Session, uid: str, hosts: NDArray[np.uint8] | None) -> None:
        """Hands out the rows of a connection that has ended, and those that it was the last to make."""
        written = session.written
        for stream, ts, fields in [*session.entries, *session.rows]:
            if (at := written.get(id(fields), NOT_SAID)) >= NOT_SAID:
                self.rows.append((which, at, stream, ts, fields))
        for shared in session.shared:
            shared.uids.append(uid)
            shared.open -= 1
            for i, (_, claimant, is_orig) in enumerate(shared.claims):
                if claimant is session and hosts is not None:
                    host = address_texts(hosts[which, 0 if is_orig else 1][None])[0]
                    if host not in NO_HOST:
                        shared.claim_hosts[i] = host
            if not shared.open:
                del self._run.sharing[id(shared.fields)]
                row: Fields = {**shared.fields, "uids": shared.uids}
                for i, host in sorted(shared.claim_hosts.items()):
                    row[shared.claims[i][0]] = host
                self.rows.append((which, NOT_SAID, shared.stream, shared.ts, row))
        if not session.entries:
            session.take()

    def _end_streams(self, connection: _Connection, orig_end: int, resp_end: int) -> None:
        """Hands on what waits in both directions, and tells how much came that was not wanted."""
        for is_orig, end in ((True, orig_end), (False, resp_end)):
            stream = connection.streams[is_orig]
            if stream.pending:
                self._give_up(connection, stream, is_orig, connection.waited)
            upto = min(end, stream.skippable_until)
            if upto > stream.next and not connection.root.done:
                connection.root.gap(is_orig, upto - stream.next)
                stream.next = upto

    def flip(self, connection: int) -> None:
        """Swaps originator and responder of a connection, as a rule before any content."""
        old = self._connections.get(connection)
        if old is None:
            return
        session = old.session
        session.orig_p, session.resp_p = session.resp_p, session.orig_p
        resp, orig = old.streams
        if session.ip_proto == 6 and not (resp.next or orig.next):
            new = self._open(6, session.orig_p, session.resp_p, 0.0)
            new.session.partial = session.partial
            self._connections[connection] = old = new
        old.streams = (orig, resp)

    def _open(self, ip_proto: int, orig_p: int, resp_p: int, ts: float) -> _Connection:
        session = Session(ip_proto, orig_p, resp_p, self._run)
        names: tuple[str, ...] = ()
        if ip_proto == 17:
            name = UDP_PORTS.get(resp_p)
            names = (name,) if name else ()
        elif ip_proto == 6:
            name = TCP_PORTS.get(resp_p)
            names = (name,) if name else TCP_TWO.get(resp_p, ())
            if self._run.expected and (announced := self._run.expected.pop(resp_p, None)) is not None:
                service, since, session.announcer = announced
                if 0 <= ts - since <= EXPECT_SECONDS:
                    names = (*names, service)
        return _Connection(session, Detector(session, names))

    def _deliver(
        self,
        connection: _Connection,
        stream: _Stream,
        is_orig: bool,
        ts: float,
        offset: int,
        data: bytes,
        length: int,
    ) -> None:
        """Hands on what is new of a segment that begins at or before what comes next."""
        session = connection.session
        root = connection.root
        if offset > stream.next:  # within what was declared unneeded
            root.gap(is_orig, offset - stream.next)
            stream.next = offset
        old = stream.next - offset
        stream.next = offset + length
        if len(data) < length:
            session.had_gap = True
            self.counts.add("tcp_payload_not_captured")
            root.gap(is_orig, length - old)
        else:
            root.data(is_orig, ts, data[old:] if old else data)
        if skip := root.skip(is_orig):
            stream.skippable_until = min(stream.next + skip, NEVER)
        self._count(session, stream)

    def _pass(self, connection: _Connection, stream: _Stream, is_orig: bool, upto: int) -> None:
        """Tells the analyzers how much came that they did not need."""
        connection.root.gap(is_orig, upto - stream.next)
        stream.next = upto
        self._count(connection.session, stream)

    @staticmethod
    def _count(session: Session, stream: _Stream) -> None:
        """Counts what has passed, and what need not be looked at as if it had: it may never be shown to us."""
        upto = stream.skippable_until if stream.next < stream.skippable_until < NEVER else stream.next
        if upto > stream.counted:
            session.size += upto - stream.counted
            stream.counted = upto

    def _wait(
        self,
        connection: _Connection,
        stream: _Stream,
        is_orig: bool,
        ts: float,
        offset: int,
        data: bytes,
        length: int,
    ) -> None:
        """Keeps a segment that came before its turn."""
        old = stream.pending.get(offset)
        if old is not None:
            if old[1] >= length:
                return
            self._forget(stream, offset)
        else:
            if not stream.pending:
                stream.pending, stream.order = {}, []
            heappush(stream.order, offset)
        connection.waited = ts
        stream.pending[offset] = data, length
        stream.pending_bytes += len(data)
        self._pending_total += len(data)
        limits = self.limits
        if (
            stream.pending_bytes > limits.pending_bytes
            or len(stream.pending) > limits.pending_segments
            or self._pending_total > limits.pending_total
        ):
            self._give_up(connection, stream, is_orig, ts)

    def _forget(self, stream: _Stream, offset: int) -> tuple[bytes, int]:
        data, length = stream.pending.pop(offset)
        stream.pending_bytes -= len(data)
        self._pending_total -= len(data)
        return data, length

    def _drain(self, connection: _Connection, stream: _Stream, is_orig: bool, ts: float) -> None:
        """Hands on waiting segments whose turn has come."""
        order = stream.order
        while order and (order[0] <= stream.next or order[0] <= stream.skippable_until):
            offset = heappop(order)
            data, length = self._forget(stream, offset)
            if offset + length > stream.next:
                self._deliver(connection, stream, is_orig, ts, offset, data, length)

    def _give_up(self, connection: _Connection, stream: _Stream, is_orig: bool, ts: float) -> None:
        """Declares every hole before what waits to be missing, and hands on what waits."""
        session = connection.session
        order = stream.order
        while order:
            offset = heappop(order)
            data, length = self._forget(stream, offset)
            if offset + length <= stream.next:
                continue
            if offset > stream.next and offset > stream.skippable_until:
                self.counts.add("tcp_content_gap")
                session.had_gap = True
                connection.root.gap(is_orig, offset - stream.next)
                stream.next = offset
            self._deliver(connection, stream, is_orig, ts, offset, data, length)

    def _wanted(self, changed: dict[int, None]) -> Wanted:
        """The bounds of those connections that now want less than before."""
        serials: list[int] = []
        bounds: list[tuple[int, int]] = []
        for serial in changed:
            connection = self._connections[serial]
            if connection.root.done:
                wanted_from = NEVER, NEVER
            else:
                resp, orig = connection.streams
                wanted_from = max(orig.skippable_until, 0), max(resp.skippable_until, 0)
            if wanted_from != connection.wanted_from:
                connection.wanted_from = wanted_from
                serials.append(serial)
                bounds.append(wanted_from)
        orig_from, resp_from = np.asarray(bounds, np.int64).reshape(-1, 2).T
        return Wanted(connection=np.asarray(serials, np.int64), orig_from=orig_from, resp_from=resp_from)


def _dns_rows(segments: Segments) -> NDArray[np.int64]:
    """Which of the segments are datagrams to a port of DNS, NetBIOS names left out."""
    datagrams = np.flatnonzero(segments.ip_proto == 17)
    is_dns = np.isin(segments.resp_p[datagrams], _DNS_PORTS) & (segments.orig_p[datagrams] != NETBIOS)
    return np.asarray(datagrams[is_dns], np.int64)


def _readonly(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view that cannot be written: what reads it is compiled once, for such arrays."""
    view = data.view()
    view.flags.writeable = False
    return view
