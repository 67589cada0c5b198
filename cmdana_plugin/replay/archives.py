"""Archives of Zeek logs in, verdicts and notices out: one road with captures, for as many days as there are.

A process reads, one or several score, and this one decides and writes. Every minute all that is known by then and how
far it came are put on disk in one move, so that a hunt that was stopped, however, goes on from there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cmdana_plugin import statefile
from cmdana_plugin.config import Config
from cmdana_plugin.logs import CMDANA, NOTICE, LogError, LogFolder, LogWriter, cmdana_pieces, notice_row
from cmdana_plugin.replay.extraction_process import ChildProcess, Part
from cmdana_plugin.replay.keeping import restore, state_of
from cmdana_plugin.replay.scoring_parts import Turn
from cmdana_plugin.replay.summary import Summary
from cmdana_plugin.replay.two_passes import TwoPasses
from cmdana_plugin.statefile import State, StateError
from feature_extractors import CmdanaError, Windows, take

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.replay.scoring_parts import Load
    from cmdana_plugin.replay.scoring_processes import ScoringProcesses
    from feature_extractors.features import Encoded

FOLDER: Final = ".hunt"  # beside the logs until they are whole
_STATE: Final = f"{statefile.NAME}{statefile.SUFFIX}"
_POSITION: Final = "hunt"  # in a state's `about`
_SUMMARY: Final = "hunt.summary"  # among its arrays
_DESCRIPTORS: Final = 4096  # logs that may be open at once
_PASSED: Final = "passed\t"  # file and reason follow
_BLOCK: Final = 4096
_COUNTED: Final = (
    "connections", "first", "last", "verdicts", "undecoded", "packets", "entries", "answered", "notices",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which logs, and which of their connections by the time at which they ended, seconds since the epoch."""

    logs: Sequence[str]
    since: float = -np.inf
    until: float = np.inf
    schema: str = ""  # digest of the judging model's; "": without the further logs

    def words(self) -> str:
        """The same for the same archive and span."""
        logs = sorted(str(Path(name).resolve()) for name in self.logs)
        return json.dumps([logs, self.since, self.until])


@dataclass(slots=True)
class Progress:
    """How far a hunt has come."""

    summary: Summary
    begun: int = 0  # connections that an earlier run had judged
    share: float = 0.0  # about, of the archive
    seconds: float = 0.0  # of this run
    passed: dict[str, Counter[str]] = field(default_factory=dict)  # what was not read, by file

    @property
    def pace(self) -> float:
        """Connections a second."""
        return max(self.summary.connections - self.begun, 0) / max(self.seconds, 1e-3)


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a snapshot stands."""

    done: int = 0  # connections
    last: str = ""  # uid of the last of them
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the logs so far, bytes


def hunt(
    wanted: Wanted,
    out: Path,
    config: Config,
    load: Load,
    *,
    judge_of: Callable[[Any], Judge],
    scoring: ScoringProcesses | None = None,
    begin: tuple[Path, State] | None = None,
    force: bool = False,
    every: float = 60.0,
    progress: Callable[[Progress], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> tuple[Progress, State]:
    """What a hunt saw and did, and what is known at its end; the logs are in `out`, which nobody else writes.

    `load` brings the detector where no `scoring` processes have it, `judge_of` the judge of what it brings; `begin` is
    a state to go on from, with its path. Raises `CmdanaError`; what was done by then is gone on with.
    """
    kept = out / FOLDER
    if force and kept.exists():
        shutil.rmtree(kept)
    earlier = _earlier(kept / _STATE, wanted)
    position = _position(earlier)
    kept.mkdir(mode=0o700, exist_ok=True)
    passes = TwoPasses(
        lambda: _read(wanted, position),
        again=earlier is None and config.adaptation.reads_twice,
        together=False,
    )
    try:
        brought = load(Turn(1, 1)) if scoring is None else scoring.loaded()
        judge = judge_of(brought)
        doing = Progress(Summary(list(wanted.logs)), position.done)
        if earlier is not None:
            restore(judge, kept / _STATE, earlier, brought.about)
            _take_over(doing.summary, earlier)
            notify(f"goes on after {position.done:,} connections, at {_day(doing.summary.last)}")
        elif begin is not None:
            left = restore(judge, begin[0], begin[1], brought.about)
            written = begin[1].about.get("written", "at an unknown time")
            notify(f"state: goes on from {begin[0]}, written {written}" + (f"; {left}" if left else ""))
        reader = passes.judging(judge)
        logs = LogFolder(
            out,
            lambda folder, stream: LogWriter(
                folder,
                stream,
                config.logs.format,
                (kept / f"{stream.path}.log", position.sizes.get(stream.path, 0)),
            ),
            (CMDANA, NOTICE),
        )
        try:
            _judge_all(judge, reader, logs, doing, brought.about, wanted, position, kept, every, progress)
        except BaseException:
            logs.abandon()
            raise
        doing.summary.logs = logs.close()
        doing.summary.finish(judge)
        final = state_of(judge, brought.about, doing.summary.last)
    finally:
        passes.close()
        if not (kept / _STATE).exists():
            shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    return doing, final


def _judge_all(
    judge: Judge, reader: ChildProcess, logs: LogFolder[LogWriter], doing: Progress, about: Mapping[str, str],
    wanted: Wanted, position: _Position, kept: Path, every: float, progress: Callable[[Progress], None],
) -> None:  # fmt: skip
    summary, began = doing.summary, time.monotonic()
    blocks, over, last, done = _counted(reader, doing), False, position.last, position.done
    while not over:
        due = time.monotonic() + every

        def until_due(due: float = due) -> Iterator[Encoded]:
            nonlocal over
            for windows in blocks:
                yield windows
                if time.monotonic() >= due:
                    return
            over = True

        for judged in judge.judged(until_due(), ahead=True):
            _write(judged, logs)
            summary.receive(judged)
            done += len(judged.windows)
            last = judged.windows.connections.uid[-1].decode("ascii", "replace")
            doing.seconds = time.monotonic() - began
            progress(doing)
        # Between two segments detector and judge have seen the same.
        if not over:
            sizes = {stream.path: logs.log(stream).settled() for stream in (CMDANA, NOTICE)}
            place = {"done": done, "last": last, "sizes": sizes, "wanted": wanted.words()}
            known = state_of(judge, about, summary.last)
            arrays = {**known.arrays, _SUMMARY: statefile.text_array(_kept_of(summary))}
            _keep(kept / _STATE, State({**known.about, _POSITION: json.dumps(place)}, arrays))


def _keep(path: Path, state: State) -> None:
    try:
        statefile.write(path, state)
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror}") from None


def _earlier(path: Path, wanted: Wanted) -> State | None:
    """What an interrupted hunt has left. Raises `CmdanaError` where it was of other logs, or cannot be read."""
    if not path.exists():
        return None
    hint = "--force begins anew"
    try:
        state = statefile.read(path)
        place = json.loads(state.about[_POSITION])
        if place["wanted"] != wanted.words():
            raise CmdanaError(f"{path.parent}: an interrupted hunt of other logs, or of another span; {hint}")
    except StateError as error:
        raise CmdanaError(f"{error}; {hint}") from None
    except (KeyError, ValueError, TypeError):
        raise CmdanaError(f"{path}: is no state of a hunt; {hint}") from None
    return state


def _position(state: State | None) -> _Position:
    if state is None:
        return _Position()
    place = json.loads(state.about[_POSITION])
    return _Position(
        int(place["done"]), str(place["last"]), {str(k): int(n) for k, n in place["sizes"].items()}
    )


def _kept_of(summary: Summary) -> dict[str, Any]:
    from cmdana_plugin.decision import plain

    return {name: plain(getattr(summary, name)) for name in _COUNTED}


def _take_over(summary: Summary, state: State) -> None:
    """What the summary had come to. Raises `StateError`."""
    from cmdana_plugin.decision import Notice, made

    kinds: dict[str, Any] = {"verdicts": Counter[str], "undecoded": Counter[str], "notices": list[Notice]}
    kinds |= {"first": float, "last": float}
    try:
        found = statefile.of_text(state.arrays, _SUMMARY)
        for name in _COUNTED:
            setattr(summary, name, made(kinds.get(name, int), found[name]))
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"hunt: no summary: {error}") from None


# Reading, in a process of its own.


def _read(wanted: Wanted, position: _Position) -> Iterator[Part]:
    """The windows, with how far they are; at the end none, and what was passed over.

    What was judged before is read again and left out. Raises `CmdanaError` where the logs before that are others now.
    """
    from cmdana_plugin.replay.extraction_process import lock_in
    from feature_extractors import warm_up
    from feature_extractors.features import encoded, schema_of
    from feature_extractors.readers import ZeekLogs

    schema = schema_of(wanted.schema)
    logs = ZeekLogs(wanted.logs, _BLOCK, schema.reads())
    warm_up()
    lock_in(_DESCRIPTORS)
    left, waiting = position.done, _Blocks()
    for windows in _within(logs, wanted):
        n = len(windows)
        share = {"share": round(1000 * logs.begun(float(windows.connections.end[-1])))}
        if left and left <= n:
            _same(windows, left - 1, position)
        passed, left = min(left, n), max(left - n, 0)
        if passed < n:
            rest = take(windows, np.arange(passed, n)) if passed else windows
            for block in waiting.receive(encoded(rest, schema)):
                yield block, share, []
        else:
            yield None, share, []
    if left:
        raise CmdanaError(
            f"the logs hold {left:,} connections less than were judged before; --force begins anew"
        )
    for block in waiting.finish():
        yield block, {"share": 1000}, []
    unread = {
        f"{_PASSED}{file}\t{reason}": n
        for file, reasons in logs.passed.by_file.items()
        for reason, n in reasons.items()
    }
    yield (
        None,
        {"share": 1000, **unread, **{f"undecoded {r}": n for r, n in logs.counts.by_reason.items()}},
        [],
    )


class _Blocks:
    """Blocks of `_BLOCK` connections, however they come: what is computed together hangs on nobody's pace."""

    def __init__(self) -> None:
        self._parts: list[Encoded] = []

    def receive(self, part: Encoded) -> Iterator[Encoded]:
        from feature_extractors.features import concat_encoded, take_encoded

        self._parts.append(part)
        if sum(map(len, self._parts)) < _BLOCK:
            return
        whole = concat_encoded(self._parts)
        cut = len(whole) // _BLOCK * _BLOCK
        for begin in range(0, cut, _BLOCK):
            yield take_encoded(whole, np.arange(begin, begin + _BLOCK))
        self._parts = [take_encoded(whole, np.arange(cut, len(whole)))] if cut < len(whole) else []

    def finish(self) -> Iterator[Encoded]:
        from feature_extractors.features import concat_encoded

        if self._parts:
            yield concat_encoded(self._parts)


def _within(logs: Iterable[Windows], wanted: Wanted) -> Iterator[Windows]:
    for windows in logs:
        end = windows.connections.end
        if end[0] >= wanted.until:
            return
        if end[0] >= wanted.since and end[-1] < wanted.until:
            yield windows
            continue
        rows = np.flatnonzero((end >= wanted.since) & (end < wanted.until))
        if len(rows):
            yield take(windows, rows)


def _same(windows: Windows, row: int, position: _Position) -> None:
    uid = windows.connections.uid[row].decode("ascii", "replace")
    if uid != position.last:
        raise CmdanaError(
            f"the logs are others than when the hunt was interrupted: connection {position.done:,} was "
            f"{position.last}, is {uid}; --force begins anew"
        )


def _counted(reader: ChildProcess, doing: Progress) -> Iterator[Encoded]:
    for windows, numbers, _ in reader:
        doing.share = numbers.pop("share", 0) / 1000
        for words, n in numbers.items():
            if words.startswith(_PASSED):
                _, file, reason = words.split("\t", 2)
                doing.passed.setdefault(file, Counter())[reason] += n
            else:
                doing.summary.undecoded[words.removeprefix("undecoded ")] += n
        if windows is not None:
            yield windows


def _write(judged: Judged, logs: LogFolder[LogWriter]) -> None:
    c = judged.windows.connections
    now, first = float(c.end.max()), float(c.end[0])
    for columns in cmdana_pieces(c, judged.verdicts, judged.revised):
        logs.log(CMDANA).write_columns(columns, now, first)
    logs.log(NOTICE).write(map(notice_row, judged.notices), now, first)


def _day(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S")
