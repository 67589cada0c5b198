"""The protocol with Zeek, sans-IO (no socket, no clock): events in, batches to judge and events to send out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from cmdana_plugin.config import MAX_SHARDS
from cmdana_plugin.decision import Seen, verdicts_of
from cmdana_plugin.endpoint import observed, wire
from cmdana_plugin.endpoint.observed import Batch
from cmdana_plugin.endpoint.shards import Evidence, Shard, decode_evidence
from cmdana_plugin.endpoint.wire import Alive, Event, PeerError, Welcome, WireError
from feature_extractors import Counts, Stage

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judged

T = TypeVar("T")
_FINAL: Final = Stage.FINAL.name.lower()
_MAX_RUNS: Final = 1024  # starts of Zeek nodes remembered; past it the one longest silent is forgotten
_MAX_GAP: Final = 1_000_000  # batches of a run that can have been lost between two that came


@dataclass(frozen=True, slots=True)
class Identity:
    """What the heartbeat says of this endpoint: version, model, schema, instance."""

    instance: str  # unlike any other start of an endpoint
    cmdana: str  # version of the package
    model: str
    schema: str  # digest of schema.yaml that the model was made with
    streams: tuple[str, ...] = ()  # paths of the logs that the model looks at; empty: all
    brief: tuple[str, ...] = ()  # those of them of which the fields in `observed.BRIEF` are enough
    shard: Shard = field(default_factory=Shard)
    stands_in: int = 0  # the shard whose detector has begun us
    known: str = ""  # what we go on from, in words


@dataclass(slots=True)
class Run:
    """The account of one start (run) of one Zeek node: final connections published, received, answered."""

    node: str
    seq: int = 0
    # `before` of the next batch if nothing is lost; None until there has been one
    expected: int | None = None
    earlier: int = 0  # published before this endpoint met the run
    received: int = 0
    lost: int = 0
    welcome_number: int = 0  # the number of its last welcome


@dataclass(slots=True)
class Session:
    """Keeps account of every Zeek node's connections and builds the events that go back.

    Call `connected` whenever the transport has (re)connected, `receive` with what came, `answer` with what became
    of it, `alive` once a second, and `finish` before leaving; each returns what is to be sent. `connected`, `overhear`
    and `alive` may be called from another thread than the rest.

    What Zeek says of itself is held against what can be. A batch that states another number than its run can have
    reached by now is refused in words and its run's account begins anew with the next, so that nothing of it is lost
    unsaid; `trusting` says that messages are not authenticated, so that a number already seen may be the lie of
    somebody who had said a later one, and its run begins anew too.
    """

    identity: Identity
    topic_verdicts: str
    trusting: bool = False
    counts: Counts = field(default_factory=Counts)
    nodes: dict[str, Welcome] = field(default_factory=dict)
    judged: int = 0
    news: list[str] = field(default_factory=list)  # lines for the operator; the caller takes them away
    _runs: OrderedDict[str, Run] = field(default_factory=OrderedDict)
    _named: tuple[str, ...] = ()  # the runs that have answered on this connection
    _endpoint: str = ""
    _finished: str = ""
    _ending: str = ""
    _heard: list[Seen] = field(default_factory=list)
    _heard_from: OrderedDict[str, int] = field(default_factory=OrderedDict)  # number of its last message

    @property
    def lost(self) -> int:
        """The number of final connections that Zeek published to us and we never received, by the gaps in its count."""
        return self.counts.by_reason["connections_lost"]

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of Zeek nodes that are remembered, the longest silent first."""
        return list(self._runs.values())

    @property
    def finished(self) -> bool:
        """Whether a run has published its last batch and it has been answered."""
        return bool(self._finished)

    def connected(self, endpoint: str = "") -> list[Event]:
        """The events to send on a new connection, which Zeek calls `endpoint`: a heartbeat that says who we are.

        What was agreed on an older connection no longer holds.
        """
        self.nodes.clear()
        self._named, self._endpoint = (), endpoint
        return self.alive()

    def overhear(self, events: Sequence[Event | PeerError]) -> list[Event]:
        """The events to send at once for a run that answers for the first time on this connection: it waits to be
        named.

        `receive` may be far behind.
        """
        named = self._named
        for event in events:
            if isinstance(event, Event) and event.name == wire.WELCOME:
                try:
                    welcome = wire.decode_welcome(event.payload)
                except WireError:
                    continue  # `receive` tells of it
                if welcome.to == self.identity.instance and welcome.run not in named:
                    named = (*named, welcome.run)[-_MAX_RUNS:]
        if named is self._named:
            return []
        self._named = named
        return self.alive()

    def receive(self, events: Sequence[Event | PeerError]) -> list[Batch]:
        """The batches to judge among what came. A message that is not understood is counted, and shown once."""
        batches = []
        for event in events:
            match event:
                case PeerError(code, context):
                    self._complain(
                        "zeek_refused_a_message", f"Zeek could not take a message: {context} ({code})"
                    )
                case Event(name=wire.OBSERVATIONS):
                    batch = self._decoded(event, observed.decode_batch)
                    if batch is not None and self._account(batch):
                        batches.append(batch)
                case Event(name=wire.WELCOME):
                    welcome = self._decoded(event, wire.decode_welcome)
                    if welcome is not None:
                        self._welcome(welcome)
                case Event(name=wire.EVIDENCE):
                    told = self._decoded(event, decode_evidence)
                    if told is not None:
                        self._hear(told)
                case _:
                    self._complain(
                        "unknown_event", f"{event.topic}: event {event.name!r} is none of CMDANA's"
                    )
        return batches

    def answer(self, judged: Judged) -> list[Event]:
        """The verdicts and notices as events, and the end of a run where its last batch was among the judged."""
        self.judged += sum(n for (stage, _), n in judged.counts.items() if stage == _FINAL)
        written = [welcome.benign for welcome in self.nodes.values() if welcome.benign is not None]
        events = wire.encode_verdicts(
            self.topic_verdicts, judged.verdicts, judged.notices, verdicts_of([v for _, v in judged.revised]),
            benign=any(written) or not written,
        )  # fmt: skip
        if self._ending:
            self._finished, self._ending = self._ending, ""
            events += self.alive()
        return events

    def others(self) -> dict[int, str]:
        """The detectors that Zeek has accepted, by shard."""
        told = next((w.detectors for w in self.nodes.values() if w.detectors), ())
        return {i: instance for i, instance in enumerate(told, 1) if instance}

    def heard(self) -> list[Seen]:
        """Takes away what other detectors have told against responders of ours."""
        heard, self._heard = self._heard, []
        return heard

    def alive(self, *, leaving: bool = False) -> list[Event]:
        """The heartbeat event."""
        me = self.identity
        alive_event = Alive(
            me.cmdana, me.model, me.schema, self.judged, self.lost, self._finished, leaving, me.streams, me.brief,
            self._named, self._endpoint, me.shard.number, me.shard.of, me.stands_in, me.known,
        )  # fmt: skip
        return [wire.encode_alive(f"{self.topic_verdicts}/alive", alive_event)]

    def finish(self) -> list[Event]:
        """The events of a clean leave, so that Zeek need not wait for the heartbeat to fail."""
        return self.alive(leaving=True)

    def _account(self, batch: Batch) -> bool:
        if batch.to != self.identity.instance:
            self._complain(
                "batch_for_another", f"{batch.node}: told another detector, which has taken over from us"
            )
            return False
        run = self._runs.get(batch.run)
        if run is None or run.expected is None:
            welcome_number = run.welcome_number if run is not None else 0
            run = self._runs[batch.run] = Run(
                batch.node, expected=batch.before, earlier=batch.before, welcome_number=welcome_number
            )
            self._forget_runs()
        elif batch.seq <= run.seq:
            self._complain(
                "batch_repeated", f"{batch.node}: batch {batch.seq} came after {run.seq}; passed over"
            )
            if self.trusting:
                self._begin_anew(batch, f"batch {batch.seq} after {run.seq}")
            return False
        elif fault := _impossible(batch, run):
            self._begin_anew(batch, fault)
            return False
        self._runs.move_to_end(batch.run)
        assert run.expected is not None
        if batch.before > run.expected:
            run.lost += batch.before - run.expected
            self.counts.add("connections_lost", batch.before - run.expected)
        run.seq = batch.seq
        run.expected = batch.before + batch.finals
        run.received += batch.finals
        if batch.bad:
            self._complain("bad_record", f"{batch.node}: a record is passed over: {batch.why}", batch.bad)
        if batch.last:
            self._ending = batch.run
        return True

    def _hear(self, told: Evidence) -> None:
        """Believes a detector that Zeek has accepted, once, in what it tells this start of us."""
        if told.to != self.identity.instance or told.instance not in self.others().values():
            self.counts.add("evidence_for_another", len(told.seen))
            return
        if told.n <= self._heard_from.get(told.instance, 0):
            self._complain("evidence_repeated", f"evidence of {told.instance} came again; passed over")
            return
        self._heard_from[told.instance] = told.n
        self._heard_from.move_to_end(told.instance)
        while len(self._heard_from) > 2 * MAX_SHARDS:
            self._heard_from.popitem(last=False)
        self.counts.add("evidence_heard", len(told.seen))
        self._heard += told.seen

    def _forget_runs(self) -> None:
        while len(self._runs) > _MAX_RUNS:
            self._runs.popitem(last=False)

    def _begin_anew(self, batch: Batch, fault: str) -> None:
        """The account of a run that said what cannot be; its connections in this batch are counted as refused."""
        self._runs[batch.run] = Run(batch.node, welcome_number=self._runs[batch.run].welcome_number)
        self.counts.add("connections_refused", batch.finals)
        self._complain(
            "session_restarted",
            f"{batch.node}: told what cannot be: {fault}; refused, and its account begins anew with what it tells next",
        )

    def _decoded(self, event: Event, decode: Callable[[str], T]) -> T | None:
        try:
            return decode(event.payload)
        except WireError as error:
            self._complain("message_refused", str(error))
            self.counts.add("connections_refused", observed.head(event.payload)[0])
            return None

    @property
    def parted(self) -> bool:
        """Whether every node that had accepted us has answered our goodbye."""
        return not any(welcome.accepted for welcome in self.nodes.values())

    def _welcome(self, welcome: Welcome) -> None:
        if welcome.to != self.identity.instance:
            self.counts.add("welcome_for_another")
            return
        run = self._runs.setdefault(welcome.run, Run(welcome.node))
        self._runs.move_to_end(welcome.run)
        self._forget_runs()
        if welcome.n <= run.welcome_number:
            self._complain("welcome_repeated", f"{welcome.node}: a welcome came again; passed over")
            return
        run.welcome_number = welcome.n
        if welcome.waits:
            return
        if welcome.parted:
            self.nodes.pop(welcome.node, None)
            return
        known = self.nodes.get(welcome.node)
        self.nodes[welcome.node] = welcome
        same = known and replace(known, benign=welcome.benign, n=welcome.n, detectors=welcome.detectors)
        if same == welcome:
            return
        who = f"Zeek {welcome.zeek} (node {welcome.node})"
        self.news.append(f"{who} welcomes us" if welcome.accepted else f"{who} refuses us: {welcome.why}")

    def _complain(self, reason: str, line: str, n: int = 1) -> None:
        """Counts, and tells the first of its kind, the second, the fourth and so on."""
        before = self.counts.by_reason[reason]
        self.counts.add(reason, n)
        if before.bit_length() != (before + n).bit_length():
            self.news.append(line if not before else f"{line} ({before + n} by now)")


def _impossible(batch: Batch, run: Run) -> str:
    """Why the batch cannot follow what its run has told, "" where it can."""
    assert run.expected is not None
    gap = batch.seq - run.seq - 1
    if gap > _MAX_GAP:
        return f"batch {batch.seq} after {run.seq}"
    most = run.expected + gap * observed.MAX_RECORDS
    if not run.expected <= batch.before <= most:
        return f"{batch.before} connections before batch {batch.seq}, expected {run.expected} to {most}"
    return ""
