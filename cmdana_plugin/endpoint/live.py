"""The live endpoint: connections of a running Zeek judged as they end."""

from __future__ import annotations

import importlib.metadata
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from cmdana_plugin.detector import BENIGN
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.observed import BRIEF, decode_batch, sample
from cmdana_plugin.endpoint.seal import Seal
from cmdana_plugin.endpoint.session import Identity, Session
from cmdana_plugin.endpoint.shards import MAX_ROWS, Shard, Shares, encode_evidence
from cmdana_plugin.endpoint.transport import Drain, Inbox, Received, Transport, make_transport
from cmdana_plugin.endpoint.wire import Event
from cmdana_plugin.keyfile import KeyFileError, read_key, secret_path
from cmdana_plugin.replay import settle_for_live
from feature_extractors import CmdanaError, Counts, Windows
from feature_extractors.features import Encoded, encoded, load_schema, schema_of

if TYPE_CHECKING:
    from cmdana_plugin.config import Config, Endpoint
    from cmdana_plugin.decision import Judge, Judged, Seen
    from cmdana_plugin.detector import Detector
    from cmdana_plugin.replay import Lasting

VERSION: Final = importlib.metadata.version("cmdana")
# seconds in one batch after which the heartbeat stops: a detector that hangs is lost
_STUCK_SECONDS: Final = 30.0
# seconds for what is in flight, and for Zeek's goodbye, when we are told to stop
_LEAVE_SECONDS: Final = 30.0
_UNANSWERED_HEARTBEATS: Final = 5  # heartbeats without an answer after which the operator is told
_TELL_SECONDS: Final = 1.0  # in which what others are to know is gathered
_QUIET_SECONDS: Final = 0.7  # seconds of silence after which nothing is in flight


_SAME: Final = "CMDANA::secret_file; where both run as one user it is found there"
_DROPPED: Final = frozenset(
    (
        "connections_lost",
        "connections_dropped_full_queue",
        "connections_refused",
        "connections_unjudged_at_stop",
    )
)


class Live:
    """Session, aligner and judge around one transport; `judged` processes what has come.

    A thread drains the transport and keeps the heartbeat; everything else runs where `judged` is asked. `secret` is the
    one shared with Zeek; without it everybody is believed. `keep` is given all windows as they come, with the logs that
    the judge's model reads, or those of the schema whose digest is `logs_of`.
    """

    def __init__(
        self,
        settings: Endpoint,
        judge: Judge,
        transport: Transport,
        notify: Callable[[str], None],
        *,
        secret: bytes | None = None,
        keep: Callable[[Windows], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        stands_in: int = 0,
        known: str = "",
        logs_of: str = "",
    ) -> None:
        self._settings = settings
        self._judge = judge
        # A line may quote a peer: what would move the cursor is shown as an escape.
        self._notify: Callable[[str], None] = lambda line: notify(_printable(line))
        self._clock = clock
        self._progress = clock()
        self._unanswered = 0
        self._leaving = False
        self._silent = False  # nothing had come when it was last looked
        self.counts = Counts()
        self.odd = self.notices = 0  # verdicts that are not benign, and notices
        self.aligner = Aligner()
        self._keep = keep
        self._schema = schema_of(judge.detector.schema_digest)
        self.inbox = Inbox(settings.queue_records, self.counts, settings.queue_bytes)
        digest = judge.detector.schema_digest
        shard = Shard.parsed(settings.shard)
        identity = Identity(
            secrets.token_hex(8), VERSION, judge.detector.name, digest, *_log_streams(logs_of or digest), shard,
            stands_in, known,
        )  # fmt: skip
        self._shares = Shares(shard.of, secret)
        self._elsewhere: list[Seen] = []  # to be told to other shards
        self._telling = clock()
        if shard.of > 1:
            judge.share(lambda responders: self._shares.of_all(responders) == shard.number)
        self.session = Session(identity, settings.topic_verdicts, trusting=secret is None)
        self._seal = Seal(secret, identity.instance)
        self.drain = Drain(
            transport, self.inbox, self.session.connected, self._overhear, self._beat, self._notify, self._seal,
            reconnect=(settings.reconnect_min, settings.reconnect_max), clock=clock,
        )  # fmt: skip

    def start(self) -> None:
        """Starts the thread that connects, drains the transport and keeps the heartbeat."""
        self.drain.start()

    def judged(self, timeout: float, over: Callable[[], bool]) -> Iterator[Judged]:
        """The result for each micro-batch, once its verdicts are sent.

        Ends when `over` says so, which is asked after each and whenever nothing has come for `timeout` seconds.
        """
        for judged in self._judge.judged(self._blocks(timeout, over)):
            self._answer(judged)
            yield judged
            if heard := self.session.heard():
                told = self._judge.overheard(self._encoded(()), heard)
                self._answer(told)
                yield told

    def leave(self) -> None:
        """Stops cleanly: says goodbye to Zeek, judges and answers what was in flight, then closes."""
        self._leaving = True  # one more heartbeat, and Zeek would think us back
        self.drain.send([*self._evidence(), *self.session.finish()])
        self._silent, deadline = False, self._clock() + _LEAVE_SECONDS

        def left() -> bool:
            parted = self._silent and not len(self.inbox) and self.session.parted
            return parted or not self.drain.connected or self._clock() >= deadline

        for _ in self.judged(_QUIET_SECONDS, left):
            pass
        self.drain.stop()
        self.counts.add("evidence_untold", len(self._elsewhere))
        self.inbox.forget()
        self.aligner.finish()

    def counters(self) -> dict[str, int]:
        """The counters of this endpoint since its start, by name."""
        total: Counter[str] = Counter({"connections_judged": self.session.judged})
        for counts in (
            self.counts, self.session.counts, self.aligner.counts, self.drain.counts, self._seal.counts,
        ):  # fmt: skip
            total.update(counts.by_reason)
        if self._judge.decider.forgotten:
            total["hosts_forgotten"] = self._judge.decider.forgotten
        return dict(total)

    def gauges(self) -> dict[str, float]:
        """The present values of this endpoint, by name: lag in seconds, queue length, connection state."""
        return {
            "connected": float(self.drain.connected),
            "records_waiting": float(len(self.inbox)),
            "lag_seconds": self.inbox.lag(self._clock()),
        }

    def words(self) -> str:
        """The counts so far as one line for the operator."""
        counters = self.counters()
        dropped = sum(n for what, n in counters.items() if what in _DROPPED)
        return (
            f"{counters.get('connections_received', 0):,} connections told, {self.session.judged:,} judged, "
            f"{self.odd:,} odd verdicts, {self.notices:,} notices, {dropped:,} connections dropped, "
            f"{counters.get('message_not_authentic', 0) + counters.get('message_refused', 0):,} messages refused, "
            f"{self.inbox.lag(self._clock()):.1f} s behind"
        )

    def _blocks(self, timeout: float, over: Callable[[], bool]) -> Iterator[Encoded]:
        """What has come, a micro-batch at a time; empty where no connection was in it."""
        while not over():
            self._progress = self._clock()
            received = self.inbox.take(
                self._settings.batch_records, self._settings.batch_seconds, timeout, self._clock
            )
            if self.drain.crashed is not None:
                raise self.drain.crashed
            self._silent = not received
            if received:
                yield self._encoded(received)

    def _encoded(self, received: Sequence[Received]) -> Encoded:
        windows = self.aligner.receive(self.session.receive(received))
        self._keep(windows)
        return encoded(windows, self._schema)

    def _answer(self, judged: Judged) -> None:
        events = self.session.answer(judged)
        self._elsewhere += judged.elsewhere
        if len(self._elsewhere) >= MAX_ROWS or (self._elsewhere and self._clock() >= self._telling):
            self._telling = self._clock() + _TELL_SECONDS
            events += self._evidence()
        unsent = len(events) - self.drain.send(events)
        if unsent:
            self.counts.add("verdict_events_unsent", unsent)
        for line in self.session.news:
            self._notify(line)
        self.session.news.clear()
        self.odd += sum(n for (_, word), n in judged.counts.items() if word != BENIGN)
        self.notices += len(judged.notices)

    def _evidence(self) -> list[Event]:
        """What other shards are to know of their responders."""
        told, untold = encode_evidence(
            self._elsewhere, self._shares, self._settings.topic_events, self.session.others()
        )
        self.counts.add("evidence_told", len(self._elsewhere) - untold)
        self.counts.add("evidence_untold", untold)
        self._elsewhere = []
        return told

    def _overhear(self, received: Sequence[Received]) -> list[Event]:
        return [] if self._leaving else self.session.overhear(received)

    def _beat(self) -> list[Event]:
        if self._leaving:
            return []
        self._unanswered = 0 if self.session.nodes else self._unanswered + 1
        if self._unanswered == _UNANSWERED_HEARTBEATS:
            self._notify(
                f"connected, but no Zeek node answers on {self._settings.topic_events}; does Zeek load cmdana, does it "
                "have our secret (CMDANA::secret_file, CMDANA::authentication), and are [endpoint] topic_events and "
                "topic_verdicts the same as CMDANA::topic_observations and CMDANA::topic_verdicts?"
            )
        return self.session.alive() if self._clock() - self._progress < _STUCK_SECONDS else []


def _log_streams(digest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the logs that are read under this schema, and those of them of which no more is read than Zeek tells in
    brief; empty, which is all of them in full, for a schema that we do not know.
    """
    schema = load_schema().of(digest)
    if schema is None:
        return (), ()
    fields = schema.reads()
    brief = {stream for stream, told in BRIEF.items() if fields.get(stream, set()) <= {*told[0], *told[1]}}
    if "x509" in fields:
        brief.discard("ssl")  # certificates are joined by the fingerprints in ssl.log
    return tuple(sorted(fields)), tuple(sorted(brief & fields.keys()))


def run(
    settings: Config,
    load: Callable[[], Judge],
    *,
    until: Callable[[], bool] = lambda: False,
    gauges: Callable[[], Mapping[str, float]] = dict,
    notify: Callable[[str], None] | None = None,
    quiet: bool = False,
    keep: Callable[[Windows], None] = lambda _: None,
    told: Callable[[Judged], None] = lambda _: None,
    lasting: Lasting | None = None,
    stands_in: int = 0,
    logs_of: str = "",
) -> int:
    """The exit status of judging a running Zeek's connections until SIGTERM, SIGINT or `until` (asked after each
    block).

    `gauges` are served beside the endpoint's own; `notify` gets the lines for the operator (else stderr does), with
    one of counts every `[endpoint] counts_seconds` unless `quiet`. `keep` is given all windows before they are judged,
    `told` what they came to. `lasting` has the judge where what it knows outlives the process; `stands_in` is the shard
    that has begun this one, 0 none; `logs_of` as in `Live`.

    Raises `CmdanaError` for what no waiting can heal: a bad URL, a certificate file, absent bindings, a taken port,
    a secret that is not there or that others can read.
    """
    from cmdana_plugin.endpoint.metrics import Numbers, serve

    notify = notify or _notify
    secret = shared_secret(settings.endpoint)
    if secret is None:
        notify(
            '[endpoint] authentication = "none": whoever reaches the port of Zeek or takes its place is believed, can '
            "forge verdicts and observations and take our place"
        )
    transport = make_transport(settings.endpoint, VERSION)
    _warm_up(load().detector, settings)
    judge = load() if lasting is None else lasting.begin()
    settle_for_live()
    live = Live(
        settings.endpoint, judge, transport, notify, secret=secret, keep=keep, stands_in=stands_in,
        known="" if lasting is None else lasting.known, logs_of=logs_of,
    )  # fmt: skip
    stop_metrics = (
        serve(
            settings.endpoint.metrics_port + Shard.parsed(settings.endpoint.shard).number - 1,
            Numbers(
                live.counters, lambda: {**live.gauges(), **gauges()}, judge.watch, judge.decider.threshold
            ),
        )
        if settings.endpoint.metrics_port
        else None
    )
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        live.start()
        every = 0.0 if quiet else settings.endpoint.counts_seconds
        due = time.monotonic() + every

        def over() -> bool:
            nonlocal due
            if every and time.monotonic() >= due:
                due = time.monotonic() + every
                notify(live.words())
            return stop.is_set() or until()

        for judged in live.judged(0.2, over):
            told(judged)
            if lasting is not None:
                lasting.look(judged)
        live.leave()
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        if stop_metrics is not None:
            stop_metrics()
    if lasting is not None:
        lasting.close()
    counters = live.counters()
    notify(
        "stopped: "
        + (", ".join(f"{n} {what}" for what, n in sorted(counters.items()) if n) or "nothing seen")
    )
    return 0


def shared_secret(endpoint: Endpoint) -> bytes | None:
    """The secret shared with Zeek, None where `authentication = "none"`. Raises `CmdanaError`."""
    if endpoint.authentication == "none":
        return None
    path = secret_path(endpoint.secret_file)
    try:
        return read_key(path)
    except KeyFileError as error:
        hint = (
            ""
            if path.exists()
            else f"; make it with `cmdana doctor --init-secret`, and give it to Zeek ({_SAME})"
        )
        raise CmdanaError(
            f"[endpoint] secret_file: {str(error).removesuffix('; --new-key makes one')}{hint}"
        ) from None


def _warm_up(detector: Detector, settings: Config) -> None:
    """Has a detector, to be thrown away, judge and explain a few connections, so that everything has been compiled,
    loaded and run once: on the first connections of a Zeek it would hold up verdicts for half a second or more.
    """
    from cmdana_plugin.decision import Judge

    schema = schema_of(detector.schema_digest)
    windows = encoded(Aligner().receive([decode_batch(sample())]), schema)
    for judged in Judge(detector, settings).judged([windows]):
        detector.explain(windows, detector.receive(windows), np.arange(len(judged.verdicts)))


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line
    )


def _notify(line: str) -> None:
    print(f"cmdana: {line}", file=sys.stderr, flush=True)
