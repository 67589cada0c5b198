"""Runs inside one host's namespace: starts each planned program at its time, as its actor, and logs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

PULSE = 0.02  # seconds between looks at the children, while there are any
NAP = 0.25  # and at most between looks at the clock
LONG = 15.0  # seconds after which a program no longer counts against those that may run at the same time
MANY = 4  # times as many may be alive in all
CROWD = 5  # runnable tasks per core on the whole machine above which no host starts anything
AHEAD = 3  # times as many, if the recording runs at a negative nice
# A machine too slow for its story must not drown: a program this many seconds late is skipped, and logged so.
LATE = 20.0


def main(plan: str, log: str, start: str, at_once: str) -> int:
    """`plan`: steps as JSON lines in time order; `start`: the recording's zero as seconds since 1970.

    At most `at_once` programs run at the same time, and none is started while the machine is crowded: an
    overloaded machine slows the story down instead of drowning in it.
    """
    with open(plan, encoding="utf-8") as steps, open(log, "w", encoding="utf-8", buffering=1) as out:
        running: dict[int, tuple[subprocess.Popen[bytes], dict[str, Any], float]] = {}
        try:
            _play(_steps(steps), out, float(start), running, int(at_once))
        finally:
            for pid, (
                child,
                step,
                began,
            ) in running.items():  # cut short by the recording's end, and logged as well
                _end(child)
                out.write(json.dumps(_record(step, float(start) + began, time.time(), pid, -1)) + "\n")
    return 0


def _steps(lines: TextIO) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


def _play(
    steps: Iterator[dict[str, Any]], out: TextIO, start: float, running: dict[int, Any], at_once: int
) -> None:
    step = next(steps, None)
    parent = os.getppid()
    while (step is not None or running) and os.getppid() == parent:  # nobody is left to stop an orphan
        now = time.time() - start
        while step is not None and step["at"] <= now:
            child = None
            late = now - step["at"] > LATE
            full = _at_work(running, now) >= at_once or len(running) >= MANY * at_once
            if not late and (full or crowded()) and "resident" not in step:
                break
            if late:
                skipped = _record(step, start + now, start + now, 0, -1)
                out.write(json.dumps({**skipped, "error": "skipped: late"}) + "\n")
            else:
                child = _launch(step, out)
            if child is not None:
                running[child.pid] = (child, step, now)
            step = next(steps, None)
        for pid, (child, done, began) in list(running.items()):
            status = child.poll()
            if status is None and now - began > done["limit"]:
                _end(child)
                status = child.wait()
            if status is not None:
                del running[pid]
                out.write(json.dumps(_record(done, start + began, time.time(), pid, status)) + "\n")
        wait = NAP if step is None else step["at"] - (time.time() - start)
        time.sleep(max(PULSE, min(PULSE if running else NAP, wait)))


def _at_work(running: dict[int, Any], now: float) -> int:
    """Programs that count: what stays open for long (a film, a terminal) mostly waits."""
    return sum("resident" not in step and now - began < LONG for _, step, began in running.values())


def crowded(load: str = "/proc/loadavg") -> bool:
    """Whether more tasks want to run than this machine should be asked to."""
    with open(load, encoding="ascii") as file:
        runnable = int(file.read().split()[3].split("/")[0])
    patient = os.nice(0) >= 0  # ahead of everyone else, it gets its share of a crowded machine too
    return runnable > (CROWD if patient else AHEAD * CROWD) * (os.cpu_count() or 1)


def _launch(step: dict[str, Any], out: TextIO) -> subprocess.Popen[bytes] | None:
    log = open(step["log"], "ab") if "log" in step else None
    try:
        child = subprocess.Popen(
            step["argv"],
            stdin=subprocess.PIPE if step.get("feed") else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if log is None else log,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/games",
                "LANG": "C.UTF-8",
                **step.get("env", {}),
            },
            cwd=step.get("cwd", "/"),
            user=step["uid"],
            group=step["gid"],
            extra_groups=[],
            start_new_session=True,
        )
    except OSError as error:
        out.write(json.dumps({**_record(step, time.time(), time.time(), 0, -1), "error": str(error)}) + "\n")
        return None
    finally:
        if log is not None:
            log.close()
    if child.stdin is not None:
        try:
            child.stdin.write(step["feed"].encode())
            child.stdin.close()
        except BrokenPipeError:
            pass
    return child


def _end(child: subprocess.Popen[bytes]) -> None:
    """The program and what it started: asked, then made."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sig)
            child.wait(timeout=0.3)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _record(step: dict[str, Any], began: float, ended: float, pid: int, status: int) -> dict[str, Any]:
    kept = {key: step[key] for key in ("gid", "what", "argv")} | step.get("of", {})
    return {"began": round(began, 3), "ended": round(ended, 3), "pid": pid, "status": status, **kept}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.exit(main(*sys.argv[1:5]))
