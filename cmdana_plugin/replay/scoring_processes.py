"""Scoring shared out over processes of this machine, each a `Scorer` behind two pipes."""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector import Scores, taken
from cmdana_plugin.replay.extraction_process import HEAD, packed_part, read_whole, send
from cmdana_plugin.replay.scoring_parts import (
    Answer,
    Columns,
    Load,
    Loaded,
    Part,
    Scorer,
    ScoringError,
    Turn,
    arrays_of,
    packed_arrays,
    scores_of,
)
from feature_extractors import CmdanaError
from feature_extractors.confinement import confine
from feature_extractors.features import Encoded

_NICENESS: Final = 3


class ScoringProcesses:
    """A `Detector` whose work `parts` processes do, each its turns of every block. `close` ends them.

    They are forked when it is made: before threads are started, and before much is loaded. It is to be used when they
    are `loaded`. With `start` they are of another kind.
    """

    name = schema_digest = ""

    def __init__(self, load: Load, parts: int, start: Callable[[Load, Turn], Part] | None = None) -> None:
        self._turns = [Turn(k + 1, parts) for k in range(parts)]
        self._processes: list[Part] = []
        self._number = itertools.count()
        ends: list[tuple[int, int]] = []
        try:
            for turn in self._turns:
                self._processes.append(_Process(load, turn, ends) if start is None else start(load, turn))
        except BaseException:
            self.close()
            raise

    def loaded(self) -> Loaded:
        """Itself as a detector, once all processes have theirs. Raises `ScoringError` where one cannot."""
        for process in self._processes:
            process.begin()
        said = [process.ready() for process in self._processes]
        about, data = said[0]
        for turn, (other, _) in zip(self._turns, said, strict=True):
            for name, found in other["about"].items():
                if found != (expected := about["about"].get(name)):
                    raise ScoringError(f"part {turn} has another {name}: {found}, expected {expected}")
        tails = arrays_of(about, data).get("tails")
        self.name, self.schema_digest = about["name"], about["schema"]
        return Loaded(self, tails, about["about"], about["key"], about["at_home"])

    def receive(self, windows: Encoded) -> Scores:
        """The scores of a block; each process scores its part of it."""
        number = next(self._number)
        header, data = packed_part(windows, {"number": number}, [])
        answers = [p.ask("block", header, data) for p in self._processes]
        n, parts = len(windows), []
        rows = [np.flatnonzero(turn.own(windows.connections)) for turn in self._turns]
        for own, answer in zip(rows, answers, strict=True):
            part = scores_of(*answer.result())
            if len(part.score) != len(own):
                raise ScoringError(f"a part scored {len(part.score)} connections of {len(own)}")
            parts.append(part)
        at = np.argsort(np.concatenate(rows), kind="stable") if n else np.zeros(0, np.int64)
        together = Scores(
            score=np.concatenate([p.score for p in parts]),
            p_value=np.concatenate([p.p_value for p in parts]),
            components={
                name: np.concatenate([p.components[name] for p in parts]) for name in parts[0].components
            },
            reliance=np.concatenate([p.reliance for p in parts]),
            attack=[word for p in parts for word in p.attack],
        )
        return taken(together, at, (number, rows))

    def explain(self, windows: Encoded, scores: Scores, rows: NDArray[np.int64]) -> list[list[str]]:
        """The reasons, each from the process that scored the connection."""
        assert isinstance(scores.seen, tuple), "scores of another detector"
        number, own = scores.seen
        out: list[list[str]] = [[] for _ in rows]
        asked = []
        for process, mine in zip(self._processes, own, strict=True):
            at = np.flatnonzero(np.isin(rows, mine))
            if len(at):
                header = {"number": number, "rows": rows[at].tolist()}
                asked.append((at, process.ask("explain", header, [])))
        for at, answer in asked:
            for place, reasons in zip(at.tolist(), answer.result()[0], strict=True):
                out[place] = reasons
        return out

    def state(self) -> dict[str, NDArray[Any]]:
        """What all of them know, of the first: it is the same."""
        return arrays_of(*self._processes[0].ask("state", None, []).result())

    def restore(self, state: Mapping[str, NDArray[Any]], learned: bool = True) -> None:
        """Has all of them go on from a state. Raises `ValueError` where it is none."""
        header, data = packed_arrays(state)
        answers = [p.ask("restore", {**header, "learned": learned}, data) for p in self._processes]
        refused = [str(answer.result()[0]) for answer in answers if answer.result()[0]]
        if refused:
            raise ValueError(refused[0])

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.close()


class _Process:
    """One of them: questions go in, answers come out in their order."""

    def __init__(self, load: Load, turn: Turn, others: list[tuple[int, int]]) -> None:
        """`others` are this process' ends of the pipes to those forked before; its own come to them."""
        self.turn = turn
        questions, asking = os.pipe()
        answering, answers = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        confine.ready()
        self._child = os.fork()
        if self._child == 0:
            for fd in (asking, answering, *(fd for ends in others for fd in ends)):
                os.close(fd)
            confine.end_with_parent(parent)
            os.nice(_NICENESS)
            _run(load, turn, questions, answers)
        os.close(questions)
        os.close(answers)
        others.append((asking, answering))
        self._asking, self._answers = open(asking, "wb", buffering=0), open(answering, "rb", buffering=0)
        self._waiting: list[Future[Answer]] = []
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._ready: Future[Answer] = Future()

    def begin(self) -> None:
        """Has its answers received."""
        self._waiting.append(self._ready)
        threading.Thread(target=self._receive, daemon=True).start()

    def ready(self) -> Answer:
        return self._ready.result()

    def ask(self, kind: str, value: Any, data: Columns) -> Future[Answer]:
        answer: Future[Answer] = Future()
        with self._one_at_a_time:
            self._waiting.append(answer)
            try:
                send(self._asking, kind, value, data)
            except (BrokenPipeError, ValueError):
                self._lost()
        return answer

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._asking.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._child, 0)

    def _receive(self) -> None:
        try:
            while (head := read_whole(self._answers, HEAD.size)) is not None:
                words, columns = HEAD.unpack(head)
                header, data = read_whole(self._answers, words), read_whole(self._answers, columns)
                if header is None or data is None:
                    break
                kind, value = marshal.loads(header)  # noqa: S302  # written by ourselves
                answer = self._waiting.pop(0)
                if kind == "failed":
                    answer.set_exception(ScoringError(value))
                else:
                    answer.set_result((value, np.frombuffer(data, np.uint8)))
        finally:
            self._answers.close()
            self._lost()

    def _lost(self) -> None:
        while self._waiting:
            fault = ScoringError(
                f"the process that scores part {self.turn} has ended; is memory short? the same command goes on "
                "from the last snapshot"
            )
            answer = self._waiting.pop(0)
            if not answer.done():
                answer.set_exception(fault)


def _run(load: Load, turn: Turn, reading: int, writing: int) -> None:
    """The child, from its first breath to its last: it must not go on in its parent's code."""
    status = 1
    try:
        for which in (signal.SIGINT, signal.SIGHUP):
            signal.signal(which, signal.SIG_IGN)  # the parent is told too, and ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(reading, "rb", buffering=0) as questions, open(writing, "wb", buffering=0) as answers:
            try:
                _serve(load, turn, questions, answers)
                status = 0
            except CmdanaError as error:
                send(answers, "failed", str(error), [])
            except BrokenPipeError:
                pass
            except BaseException:  # noqa: BLE001  # a bug: said before the parent sees the end of the pipe
                traceback.print_exc()
                sys.stderr.flush()
    finally:
        os._exit(status)


def _serve(load: Load, turn: Turn, questions: Any, answers: Any) -> None:
    scorer = Scorer(load, turn)
    send(answers, "ready", *scorer.hello())
    while (head := read_whole(questions, HEAD.size)) is not None:
        header, data = (read_whole(questions, size) for size in HEAD.unpack(head))
        if header is None or data is None:
            return
        kind, value = marshal.loads(header)  # noqa: S302  # written by our parent
        send(answers, kind, *scorer.answer(kind, value, np.frombuffer(data, np.uint8)))
