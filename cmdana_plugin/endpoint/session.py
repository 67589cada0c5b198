"""The conversation with Zeek, without a socket and without a clock: events in, batches to judge and events out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from cmdana_plugin.endpoint import wire
from cmdana_plugin.endpoint.wire import Alive, Batch, Event, PeerError, Welcome, WireError
from feature_extractors.frames import Counts
from feature_extractors.observations import Stage

if TYPE_CHECKING:
    from cmdana_plugin.pipeline import Judged

T = TypeVar("T")
_MAX_RUNS: Final = 1024  # starts of Zeek nodes remembered; past it the one longest silent is forgotten


@dataclass(frozen=True, slots=True)
class Identity:
    """What this endpoint says of itself."""

    instance: str  # unlike any other start of an endpoint
    cmdana: str  # version of the package
    model: str
    schema: str  # digest of schema.yaml that the model was made with
    streams: tuple[str, ...] = ()  # paths of the logs that the model looks at; empty: all
    brief: tuple[str, ...] = ()  # those of them of which the fields in `wire.BRIEF` are enough


@dataclass(slots=True)
class Run:
    """What became of the final connections that one start of one Zeek node published."""

    node: str
    seq: int = 0
    expected: int = 0  # `before` of the next batch if nothing is lost
    earlier: int = 0  # published before this endpoint met the run
    received: int = 0
    lost: int = 0


@dataclass(slots=True)
class Session:
    """Keeps account of every Zeek node's connections and words what goes back.

    Call `connected` whenever the transport has (re)connected, `receive` with what came, `answer` with what became
    of it, `alive` once a second, and `finish` before leaving; each returns what is to be sent.
    """

    identity: Identity
    topic_verdicts: str
    counts: Counts = field(default_factory=Counts)
    nodes: dict[str, Welcome] = field(default_factory=dict)
    judged: int = 0
    news: list[str] = field(default_factory=list)  # lines for the operator; the caller takes them away
    _runs: OrderedDict[str, Run] = field(default_factory=OrderedDict)
    _finished: str = ""
    _ending: str = ""

    @property
    def lost(self) -> int:
        """Final connections that Zeek published to us and that we never saw, by the gaps in its own count."""
        return self.counts.by_reason["connections_lost"]

    @property
    def runs(self) -> Sequence[Run]:
        """The Zeek nodes' starts that were met, the longest silent first."""
        return list(self._runs.values())

    @property
    def finished(self) -> bool:
        """A run has told its last batch and it has been answered."""
        return bool(self._finished)

    def connected(self) -> list[Event]:
        """A new connection: say who we are; what Zeek said on an older one is no longer known to hold."""
        self.nodes.clear()
        return self.alive()

    def receive(self, events: Sequence[Event | PeerError]) -> list[Batch]:
        """The batches to judge among what came. A message that is not understood is counted and told once."""
        batches = []
        for event in events:
            match event:
                case PeerError(code, context):
                    self._complain(
                        "zeek_refused_a_message", f"Zeek could not take a message: {context} ({code})"
                    )
                case Event(name=wire.OBSERVATIONS):
                    batch = self._decoded(event, wire.decode_batch)
                    if batch is not None and self._account(batch):
                        batches.append(batch)
                case Event(name=wire.WELCOME):
                    welcome = self._decoded(event, wire.decode_welcome)
                    if welcome is not None:
                        self._welcome(welcome)
                case _:
                    self._complain(
                        "unknown_event", f"{event.topic}: event {event.name!r} is none of CMDANA's"
                    )
        return batches

    def answer(self, judged: Judged) -> list[Event]:
        """The verdicts and notices as events, and the end of a run where its last batch was among the judged."""
        self.judged += judged.verdicts.stage.counted()[Stage.FINAL.name.lower()]
        written = [welcome.benign for welcome in self.nodes.values() if welcome.benign is not None]
        events = wire.encode_verdicts(
            self.topic_verdicts, judged.verdicts, judged.notices, benign=any(written) or not written
        )
        if self._ending:
            self._finished, self._ending = self._ending, ""
            events += self.alive()
        return events

    def alive(self, *, leaving: bool = False) -> list[Event]:
        """The heartbeat."""
        me = self.identity
        said = Alive(
            me.instance, me.cmdana, me.model, me.schema, self.judged, self.lost, self._finished, leaving,
            me.streams, me.brief,
        )  # fmt: skip
        return [wire.encode_alive(f"{self.topic_verdicts}/alive", said)]

    def finish(self) -> list[Event]:
        """A clean leave, so that Zeek need not wait for the heartbeat to fail."""
        return self.alive(leaving=True)

    def _account(self, batch: Batch) -> bool:
        run = self._runs.get(batch.run)
        if run is None:
            run = self._runs[batch.run] = Run(batch.node, expected=batch.before, earlier=batch.before)
            if len(self._runs) > _MAX_RUNS:
                self._runs.popitem(last=False)
        elif batch.seq <= run.seq:
            self.counts.add("batch_repeated")
            return False
        self._runs.move_to_end(batch.run)
        if batch.before > run.expected:
            run.lost += batch.before - run.expected
            self.counts.add("connections_lost", batch.before - run.expected)
        run.seq = batch.seq
        run.expected = batch.before + batch.finals
        run.received += batch.finals
        if batch.last:
            self._ending = batch.run
        return True

    def _decoded(self, event: Event, decode: Callable[[str], T]) -> T | None:
        try:
            return decode(event.payload)
        except WireError as error:
            self._complain("message_refused", str(error))
            self.counts.add("connections_refused", wire.head(event.payload)[0])
            return None

    @property
    def parted(self) -> bool:
        """Every node that had accepted us has answered our goodbye."""
        return not any(welcome.accepted for welcome in self.nodes.values())

    def _welcome(self, welcome: Welcome) -> None:
        if welcome.parted:
            self.nodes.pop(welcome.node, None)
            return
        known = self.nodes.get(welcome.node)
        self.nodes[welcome.node] = welcome
        if known is not None and replace(known, benign=welcome.benign) == welcome:
            return
        who = f"Zeek {welcome.zeek} (node {welcome.node})"
        self.news.append(f"{who} welcomes us" if welcome.accepted else f"{who} refuses us: {welcome.why}")

    def _complain(self, reason: str, line: str) -> None:
        if reason not in self.counts.by_reason:
            self.news.append(line)
        self.counts.add(reason)
