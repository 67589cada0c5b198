"""The live endpoint: a Zeek's observations judged as they come, and captures replayed through a Zeek of our own."""

from __future__ import annotations

import gc
import gzip
import importlib.metadata
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from cmdana_plugin.detector import BENIGN
from cmdana_plugin.endpoint.aligner import Aligner
from cmdana_plugin.endpoint.observed import BRIEF, Batch, decode_batch, sample
from cmdana_plugin.endpoint.seal import Seal
from cmdana_plugin.endpoint.session import Identity, Session
from cmdana_plugin.endpoint.transport import Drain, Inbox, Received, Transport, make_transport
from cmdana_plugin.endpoint.wire import Event
from cmdana_plugin.keyfile import KeyFileError, read_key, secret_path
from feature_extractors import CaptureError, CmdanaError, Counts
from feature_extractors.compiled import freeze
from feature_extractors.confinement import programs
from feature_extractors.features import load_schema

if TYPE_CHECKING:
    from cmdana_plugin.config import Config, Endpoint
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.detector import Detector
    from cmdana_plugin.endpoint.sniffed import Sniffed, Sniffer
    from cmdana_plugin.replay import Summary

_VERSION: Final = importlib.metadata.version("cmdana")
_STUCK: Final = 30.0  # seconds in one batch after which the heartbeat stops: a detector that hangs is lost
_LEAVE: Final = 30.0  # seconds for what is in flight, and for Zeek's goodbye, when we are told to stop
_UNANSWERED: Final = 5  # heartbeats without an answer after which the operator is told
_EXPLAINED: Final = 4  # notices of a block explained field by field, at some 10 ms each
_COLLECT: Final = (20_000, 10, 10)  # thresholds of the garbage collector: little of what we make is garbage
_QUIET: Final = 0.7  # seconds of silence after which nothing is in flight


_SAME: Final = "CMDANA::secret_file; where both run as one user it is found there"
_DROPPED: Final = frozenset(
    (
        "connections_lost",
        "connections_dropped_full_queue",
        "connections_refused",
        "connections_unjudged_at_stop",
    )
)


class ZeekError(CmdanaError):
    """The Zeek that a replay needs cannot be started, or stopped too early."""


class Live:
    """Session, aligner and judge around one transport; `step` moves on what has come.

    A thread drains the transport and keeps the heartbeat; everything else runs where `step` is called. `secret` is the
    one shared with Zeek; without it everybody is believed.
    """

    def __init__(
        self,
        settings: Endpoint,
        judge: Judge,
        transport: Transport,
        tell: Callable[[str], None],
        *,
        sniffed: Sniffed | None = None,
        secret: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._judge = judge
        # A line may quote a peer: what would move the cursor is shown as an escape.
        self._tell: Callable[[str], None] = lambda line: tell(_printable(line))
        self._clock = clock
        self._progress = clock()
        self._unanswered = 0
        self._leaving = False
        self.counts = Counts()
        self.odd = self.notices = 0  # verdicts that are not benign, and notices
        self.aligner = Aligner()
        self._sniffed = sniffed
        self.inbox = Inbox(settings.queue_records, self.counts, settings.queue_bytes)
        digest = judge.detector.schema_digest
        identity = Identity(
            secrets.token_hex(8), _VERSION, judge.detector.name, digest, *_log_streams(digest)
        )
        self.session = Session(identity, settings.topic_verdicts, trusting=secret is None)
        self._seal = Seal(secret, identity.instance)
        self.drain = Drain(
            transport, self.inbox, self.session.connected, self._overhear, self._beat, self._tell, self._seal,
            reconnect=(settings.reconnect_min, settings.reconnect_max), clock=clock,
        )  # fmt: skip

    def start(self) -> None:
        """Begins to connect."""
        self.drain.start()

    def step(self, timeout: float) -> Judged | None:
        """Judges and answers one micro-batch; None where nothing came within `timeout` seconds."""
        self._progress = self._clock()
        received = self.inbox.take(
            self._settings.batch_records, self._settings.batch_seconds, timeout, self._clock
        )
        if self.drain.crashed is not None:
            raise self.drain.crashed
        return self._move(received) if received else None

    def leave(self) -> None:
        """Stops cleanly: tells Zeek, judges and answers what was in flight, then closes."""
        self._leaving = True  # one more heartbeat, and Zeek would think us back
        self.drain.send(self.session.finish())
        deadline = self._clock() + _LEAVE
        while self.drain.connected and self._clock() < deadline:
            if self.step(_QUIET) is None and not len(self.inbox) and self.session.parted:
                break
        self.drain.stop()
        self.inbox.forget()
        self.aligner.finish()

    def counters(self) -> dict[str, int]:
        """Every count that this endpoint keeps, by reason."""
        total: Counter[str] = Counter({"connections_judged": self.session.judged})
        for counts in (
            self.counts, self.session.counts, self.aligner.counts, self.drain.counts, self._seal.counts,
        ):  # fmt: skip
            total.update(counts.by_reason)
        if self._sniffed is not None:
            total.update(self._sniffed.counts.by_reason)
        return dict(total)

    def gauges(self) -> dict[str, float]:
        """What holds now."""
        return {
            "connected": float(self.drain.connected),
            "records_waiting": float(len(self.inbox)),
            "lag_seconds": self.inbox.lag(self._clock()),
        }

    def words(self) -> str:
        """What has come of it so far, in a line."""
        counters = self.counters()
        dropped = sum(n for what, n in counters.items() if what in _DROPPED)
        return (
            f"{counters.get('connections_received', 0):,} connections told, {self.session.judged:,} judged, "
            f"{self.odd:,} odd verdicts, {self.notices:,} notices, {dropped:,} connections dropped, "
            f"{counters.get('message_not_authentic', 0) + counters.get('message_refused', 0):,} messages refused, "
            f"{self.inbox.lag(self._clock()):.1f} s behind"
        )

    def _move(self, received: Sequence[Received]) -> Judged:
        batches: list[Batch] = self.session.receive(received)
        windows = self.aligner.receive(batches)
        if self._sniffed is not None:
            windows = self._sniffed.complete(windows)
        judged = self._judge.receive(windows)
        events = self.session.answer(judged)
        unsent = len(events) - self.drain.send(events)
        if unsent:
            self.counts.add("verdict_events_unsent", unsent)
        for line in self.session.news:
            self._tell(line)
        self.session.news.clear()
        self.odd += sum(n for word, n in judged.verdicts.verdict.counted().items() if word != BENIGN)
        self.notices += len(judged.notices)
        return judged

    def _overhear(self, received: Sequence[Received]) -> list[Event]:
        return [] if self._leaving else self.session.overhear(received)

    def _beat(self) -> list[Event]:
        if self._leaving:
            return []
        self._unanswered = 0 if self.session.nodes else self._unanswered + 1
        if self._unanswered == _UNANSWERED:
            self._tell(
                f"connected, but no Zeek node answers on {self._settings.topic_events}; does Zeek load cmdana, does it "
                "have our secret (CMDANA::secret_file, CMDANA::authentication), and are [endpoint] topic_events and "
                "topic_verdicts the same as CMDANA::topic_observations and CMDANA::topic_verdicts?"
            )
        return self.session.alive() if self._clock() - self._progress < _STUCK else []


def _log_streams(digest: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the logs that a model of this schema looks at, and those of them of which it needs no more than Zeek
    tells in brief; empty, which is all of them in full, for a schema that we do not know.
    """
    schema = load_schema()
    if digest != schema.digest:
        return (), ()
    fields: dict[str, set[str]] = {}
    for f in schema.log_fields:
        fields.setdefault(f.stream, set()).add(f.name)
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
    tell: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> int:
    """Judges a running Zeek's connections until SIGTERM, SIGINT or `until`, asked at each step; the exit status.

    `gauges` are served beside the endpoint's own; `tell` gets the lines for the operator, which else go to stderr, with
    one of counts every `[endpoint] counts_seconds` unless `quiet`.

    Raises `CmdanaError` for what no waiting can heal: a bad URL, a certificate file, absent bindings, a taken port,
    an interface that cannot be listened on, a secret that is not there or that others can read.
    """
    from cmdana_plugin.endpoint.metrics import Numbers, serve

    tell = tell or _tell
    secret = shared_secret(settings.endpoint)
    if secret is None:
        tell(
            '[endpoint] authentication = "none": whoever reaches the port of Zeek or takes its place is believed, can '
            "forge verdicts and observations and take our place"
        )
    transport = make_transport(settings.endpoint, _VERSION)
    _warm_up(load().detector, settings)
    judge = load()
    judge.most_explained = _EXPLAINED
    # What is loaded by now stays: walking it again and again would hold up verdicts for tenths of a second.
    gc.collect()
    freeze()
    gc.set_threshold(*_COLLECT)
    sniffer = _sniffer(settings.endpoint, tell) if settings.endpoint.sniff else None
    live = Live(
        settings.endpoint, judge, transport, tell, sniffed=sniffer.sniffed if sniffer else None, secret=secret
    )
    stop_metrics = (
        serve(
            settings.endpoint.metrics_port,
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
        if sniffer is not None:
            sniffer.start()
        live.start()
        every = 0.0 if quiet else settings.endpoint.counts_seconds
        due = time.monotonic() + every
        while not stop.is_set() and not until():
            live.step(0.2)
            if every and time.monotonic() >= due:
                due = time.monotonic() + every
                tell(live.words())
        live.leave()
    finally:
        if sniffer is not None:
            sniffer.stop()
        for which, handler in before.items():
            signal.signal(which, handler)
        if stop_metrics is not None:
            stop_metrics()
    counters = live.counters()
    tell(
        "stopped: "
        + (", ".join(f"{n} {what}" for what, n in sorted(counters.items()) if n) or "nothing seen")
    )
    return 0


def shared_secret(endpoint: Endpoint) -> bytes | None:
    """The secret shared with Zeek, None where it is to be done without. Raises `CmdanaError`."""
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

    windows = Aligner().receive([decode_batch(sample())])
    Judge(detector, settings).receive(windows)
    detector.explain(windows, detector.receive(windows), np.arange(len(windows)))


def _sniffer(endpoint: Endpoint, tell: Callable[[str], None]) -> Sniffer:
    from cmdana_plugin.endpoint.sniffed import Sniffed, Sniffer
    from feature_extractors.readers import ScapySniffer

    try:
        reader = ScapySniffer(endpoint.sniff)
    except CaptureError as error:
        raise CmdanaError(f"[endpoint] sniff: {error}") from None
    return Sniffer(reader, Sniffed(endpoint.sniff_connections, reader.counts), reader.stop, tell)


def replay_through_zeek(
    captures: Sequence[Path | str],
    out: Path,
    settings: Config,
    load: Callable[[], Judge],
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Reads each capture with a Zeek that has CMDANA loaded; Zeek writes its own logs and notices to `out`.

    Several captures are read one after another, each into a folder of its own below `out`, and the detector
    remembers the earlier ones. Raises `ZeekError` where Zeek or its scripts are missing or Zeek fails.
    """
    from cmdana_plugin.replay import Summary, sources

    found = sources([str(c) for c in captures])
    zeek, scripts = zeek_program(settings), scripts_folder(settings)
    judge = load()
    summary = Summary([str(c) for c in found])
    for capture in found:
        folder = out if len(found) == 1 else out / Path(capture).name
        folder.mkdir(parents=True, exist_ok=True)
        with _readable(capture) as readable:
            _replay_one(readable, folder, settings, judge, zeek, scripts, summary, progress)
    summary.suppressed = judge.decider.suppressed
    summary.allowed = judge.decider.allowed
    summary.model = judge.detector.name
    summary.threshold = judge.decider.threshold
    return summary


def zeek_program(settings: Config) -> str:
    """The Zeek to run. Raises `ZeekError`."""
    found = programs.find(settings.zeek.path)
    if found is None:
        raise ZeekError(
            f"[zeek] path: found no program {settings.zeek.path!r}; expected Zeek 8.0 or later on the PATH, "
            "or use the embedded engine, which needs none"
        )
    return found


def scripts_folder(settings: Config) -> Path:
    """The folder with CMDANA's Zeek scripts. Raises `ZeekError`."""
    places = (
        [Path(settings.zeek.scripts)]
        if settings.zeek.scripts
        else [
            Path(__file__).parents[2] / "zeek_scripts",
            Path(sysconfig.get_path("data")) / "share" / "cmdana" / "zeek_scripts",
        ]
    )
    for place in places:
        if (place / "replay.zeek").is_file():
            return place.resolve()
    raise ZeekError(
        f"[zeek] scripts: found no replay.zeek in {' or '.join(map(str, places))}; "
        "expected the folder of CMDANA's Zeek scripts"
    )


def _replay_one(
    capture: Path,
    folder: Path,
    settings: Config,
    judge: Judge,
    zeek: str,
    scripts: Path,
    summary: Summary,
    progress: Callable[[Summary], None],
) -> None:
    port = _free_port()
    endpoint = settings.endpoint.model_copy(
        update={
            "transport": "websocket",
            "url": f"ws://127.0.0.1:{port}/v1/messages/json",
            "reconnect_min": 0.05,
            "reconnect_max": 0.2,
            "queue_records": 2**40,
            "queue_bytes": 2**40,  # Zeek itself waits for us while it reads a capture
            "batch_records": 4096,  # nobody waits for a single verdict
            "batch_seconds": 0.25,
        }
    )
    command = [
        zeek, "-C", "-r", str(capture.resolve()), str(scripts), str(scripts / "replay.zeek"),
        f"Log::default_logdir={folder.resolve()}",
        f"CMDANA::websocket_port={port}/tcp", f"CMDANA::topic_observations={endpoint.topic_events}",
        f"CMDANA::topic_verdicts={endpoint.topic_verdicts}",
        f"CMDANA::early_verdicts={'T' if settings.verdict.early else 'F'}",
        f"CMDANA::suppress_for={settings.verdict.suppress_for}sec",
        f"LogAscii::use_json={'T' if settings.logs.format == 'json' else 'F'}",
    ]  # fmt: skip
    secret = secrets.token_bytes(32)  # of this one run; others cannot see the environment of our programs
    # Zeek looks for scripts in its working folder before its own: that must hold none of the capture's owner's.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory(prefix="cmdana-") as empty:
        process = subprocess.Popen(
            command, cwd=empty, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
            env=os.environ | {"CMDANA_SECRET": secret.hex()},
        )  # fmt: skip
        live = Live(endpoint, judge, make_transport(endpoint, _VERSION), lambda _: None, secret=secret)
        live.start()
        try:
            while process.poll() is None:
                judged = live.step(0.1)
                if judged is not None:
                    _count(judged, summary)
                    progress(summary)
        finally:
            live.drain.stop()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
    summary.undecoded.update({name: n for name, n in live.counters().items() if n and name in _WORTH_TELLING})
    if not live.session.finished:
        last = words[-1] if words else "it said nothing"
        raise ZeekError(f"{capture}: Zeek stopped with status {process.returncode} before the end: {last}")


_WORTH_TELLING: Final = frozenset(
    (
        "connections_lost",
        "late_log",
        "log_evicted",
        "log_without_connection",
        "message_refused",
        "message_not_authentic",
        "bad_record",
        "session_restarted",
        "verdict_events_unsent",
    )
)


def _count(judged: Judged, summary: Summary) -> None:
    for verdict in judged.verdicts:
        if verdict.stage == "final":
            summary.connections += 1
            summary.verdicts[verdict.verdict] += 1
            summary.first = min(summary.first or verdict.ts, verdict.ts)
            summary.last = max(summary.last, verdict.ts)
    summary.notices += judged.notices


@contextmanager
def _readable(capture: Path | str) -> Iterator[Path]:
    """A capture as a plain file: Zeek reads neither gzip nor our standard input."""
    if capture != "-" and not _is_gzip(Path(capture)):
        yield Path(capture)
        return
    with tempfile.NamedTemporaryFile(suffix=".pcap") as plain:
        if capture == "-":
            shutil.copyfileobj(sys.stdin.buffer, plain)
        else:
            try:
                with gzip.open(capture) as packed:
                    shutil.copyfileobj(packed, plain)
            except (OSError, EOFError) as error:
                raise ZeekError(f"{capture}: cannot be unpacked: {error}") from None
        plain.flush()
        yield Path(plain.name)


def _is_gzip(capture: Path) -> bool:
    try:
        with capture.open("rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise ZeekError(f"{capture}: cannot be read: {error.strerror}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line
    )


def _tell(line: str) -> None:
    print(f"cmdana: {line}", file=sys.stderr, flush=True)
