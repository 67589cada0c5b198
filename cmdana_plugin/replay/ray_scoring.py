"""Scoring shared out over a Ray cluster, or over a Ray that is begun on this machine: one stateful actor for a scorer.

What travels is what travels between processes of one machine, inside Ray's own protocol. Reading stays where the
archive lies, in its locked-in process: one reads faster than what comes after it.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.replay.scoring_parts import Answer, Columns, Load, Scorer, ScoringError, Turn
from feature_extractors import CmdanaError

LOCAL: Final = "local"
_STORE_BYTES: Final = 256 * 1024 * 1024  # of the memory that a Ray begun here shares between its processes
_PROCESSORS: Final = 1  # of an actor
_NICENESS: Final = 3


class RayScoring:
    """Begins actors for `ScoringProcesses`, and their Ray with the first one. `close` ends what was begun.

    `address` is "local" for a Ray of this machine alone, "auto" for the cluster that this machine belongs to, or where
    its head listens. It is loaded when the first actor is begun, not before: what forks has forked by then.
    """

    def __init__(self, address: str, parts: int) -> None:
        self._address = address
        self._parts = parts
        self._begun = False
        self.actors: list[Any] = []  # Ray's handles, in the order of the turns

    def __call__(self, load: Load, turn: Turn) -> _Actor:
        return _Actor(self, load, turn)

    def begin(self) -> None:
        """Joins the cluster, once. Raises `CmdanaError` where there is none, or it is too small."""
        if self._begun:
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to its makers
        os.environ.setdefault("RAY_worker_niceness", str(_NICENESS))  # of a Ray begun here; its own is 15
        try:
            import ray
        except ImportError:
            raise CmdanaError("--ray: Ray is not installed: pip install 'cmdana[ray]'") from None
        quiet = {"log_to_driver": False, "logging_level": "error"}
        try:
            if self._address == LOCAL:
                ray.init(LOCAL, num_cpus=self._parts, include_dashboard=False,
                         object_store_memory=_STORE_BYTES, **quiet)  # fmt: skip
            else:
                ray.init(self._address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise CmdanaError(f"--ray {self._address}: no cluster there: {why}") from None
        self._begun = True
        there = int(ray.cluster_resources().get("CPU", 0)) // _PROCESSORS
        if there < self._parts:
            raise CmdanaError(
                f"--ray {self._address}: found {there} processors, expected one for each of --workers {self._parts}"
            )

    def close(self) -> None:
        """Leaves the cluster; a Ray that was begun here ends."""
        if self._begun:
            import ray

            ray.shutdown()
            self._begun = False
            self.actors.clear()


class _Actor:
    """One of them, as `scoring_parts.Part` has it."""

    def __init__(self, cluster: RayScoring, load: Load, turn: Turn) -> None:
        self.turn = turn
        self._cluster = cluster
        self._load = load
        self._actor: Any = None
        self._ready: Future[Answer] | None = None

    def begin(self) -> None:
        self._cluster.begin()
        import ray

        self._actor = ray.remote(num_cpus=_PROCESSORS)(_Remote).remote(self._load, self.turn)
        self._cluster.actors.append(self._actor)
        self._ready = self._asked("hello")

    def ready(self) -> Answer:
        assert self._ready is not None
        return self._ready.result()

    def ask(self, kind: str, value: Any, data: Columns) -> Future[Answer]:
        return self._asked("answer", kind, value, np.frombuffer(b"".join(data), np.uint8))

    def close(self) -> None:
        if self._actor is not None:
            import ray

            with contextlib.suppress(Exception):  # its Ray may have gone before it
                ray.kill(self._actor)
            self._actor = None

    def _asked(self, what: str, *question: Any) -> Future[Answer]:
        answer: Future[Answer] = Future()

        def told(found: Future[tuple[str, Any, NDArray[np.uint8]]]) -> None:
            try:
                fault, value, data = found.result()
            except Exception as error:  # noqa: BLE001  # whatever becomes of an actor is the same to who asked
                lost = (str(error).splitlines() or [""])[0]
                answer.set_exception(
                    ScoringError(
                        f"the actor that scores part {self.turn} has ended ({type(error).__name__}: {lost[:200]}); "
                        "the same command goes on from the last snapshot"
                    )
                )
                return
            if fault:
                answer.set_exception(ScoringError(fault))
            else:
                answer.set_result((value, data.copy()))  # what Ray hands out is not to be written to

        getattr(self._actor, what).remote(*question).future().add_done_callback(told)
        return answer


class _Remote:
    """What lives in an actor: it says what is wrong in words, and is made when it is first asked."""

    def __init__(self, load: Load, turn: Turn) -> None:
        self._load, self._turn = load, turn
        self._scorer: Scorer | None = None

    def hello(self) -> tuple[str, Any, NDArray[np.uint8]]:
        try:
            self._scorer = Scorer(self._load, self._turn)
        except CmdanaError as error:
            return str(error), None, np.zeros(0, np.uint8)
        return _packed(*self._scorer.hello())

    def answer(self, kind: str, value: Any, data: NDArray[np.uint8]) -> tuple[str, Any, NDArray[np.uint8]]:
        assert self._scorer is not None
        return _packed(*self._scorer.answer(kind, value, data.copy()))


def _packed(value: Any, data: Columns) -> tuple[str, Any, NDArray[np.uint8]]:
    return "", value, np.frombuffer(b"".join(data), np.uint8)
