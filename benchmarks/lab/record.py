"""One recording from scenario to labelled capture, leaving nothing else behind."""

from __future__ import annotations

import gzip
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.lab import far, habits, net, services, story, writeup
from benchmarks.lab.net import Host, Run
from benchmarks.lab.scenario import LabError, Scenario
from benchmarks.lab.world import Actor, Step, World, words
from benchmarks.lab.writeup import TRUTH

PROGRAMS_AT_ONCE = 120  # on all hosts together, shared out among them; clients that stay do not count
PATIENCE = 30.0  # seconds for the tracker to listen; the machine may be busy
KEPT = 120.0  # seconds of the day for which a client remembers a name's address
SETTLE = 2.0  # seconds of recording after the last program


def record(
    scenario: Scenario,
    seconds: float,
    seed: int,
    out: Path,
    *,
    name: str = "capture",
    compress: bool = False,
    classes: str = "both",
    nice: int = 10,
    site: int | None = None,
    keep_logs: bool = False,
) -> None:
    """Play the story and write NAME.pcap[.gz], labels.csv, summary.txt, programs.jsonl and story.json to `out`.

    Recordings with the same `site` (default: the seed) are of the same hosts, addresses and people.
    `keep_logs` keeps what the servers wrote, in `servers/`.
    `nice` is what every program of the recording runs under; one recording at a time on one machine.
    """
    net.require(net.TOOLS)
    site = seed if site is None else site
    ident = secrets.token_hex(2)
    run = Run(ident, net.STATE / ident)
    hosts = net.lay_out(scenario, run, story.order_of_addresses(site))
    world = World(scenario, run, hosts, story.cast(scenario, hosts, seed, site))
    steps = [step for found in _told(world, seconds, seed, classes).values() for step in found]
    services.require(world, steps)
    named = far.named_in(text for step in steps for text in _texts((step.argv, step.task)))
    world = replace(world, far=named, squeeze=story.squeeze_of(scenario, seconds))
    _writable(out)
    net.clean()
    _alone()
    further = nice - os.nice(0)
    os.nice(further if nice < 0 else max(0, further))
    for sig in (signal.SIGINT, signal.SIGTERM):  # whoever started us may have had the first ignored
        signal.signal(sig, _interrupted)
    try:
        run.state.mkdir(parents=True)
        run.state.chmod(0o755)
        (run.state / "born").write_text(net.born(os.getpid()))
        (run.state / "pid").write_text(str(os.getpid()))
        _play(world, seconds, (seed, site), out, name, classes)
        if keep_logs:
            _keep(run, out)
    except LabError:
        if not (out / f"{name}.pcap").exists():  # nothing was recorded, so nothing is left
            shutil.rmtree(out)
        raise
    finally:
        net.clean(run.ident)
    if compress:
        _gzip(out / f"{name}.pcap")


def _texts(told: object) -> Iterator[str]:
    match told:
        case str():
            yield told
        case dict():
            yield from (text for part in told.values() for text in _texts(part))
        case list() | tuple():
            yield from (text for part in told for text in _texts(part))


def _keep(run: Run, out: Path) -> None:
    """The servers' own words, to hold the labels against."""
    for log in sorted(path for ending in ("out", "log") for path in run.state.glob(f"srv/*/*.{ending}")):
        if log.is_file() and log.stat().st_size:
            (out / "servers").mkdir(exist_ok=True)
            shutil.copy(log, out / "servers" / f"{log.parent.name}.{log.name}")


def _alone() -> None:
    """Two recordings at once starve each other, and whoever else works on the machine."""
    busy = net.living()
    if busy:
        raise LabError(f"recording {busy[0]} is still running on this machine: one at a time")


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise LabError(f"{out}: not empty; give a new folder with --out")
        (out / ".probe").touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise LabError(f"{out}: cannot write there: {error.strerror}") from None


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _told(world: World, seconds: float, seed: int, classes: str) -> dict[Actor, list[Step]]:
    """The story, or one class of it."""
    return {
        actor: found
        for actor, found in story.steps(world, seed, seconds).items()
        if classes == "both" or (classes == "attacks") == bool(actor.family)
    }


def _play(world: World, seconds: float, seeds: tuple[int, int], out: Path, name: str, classes: str) -> None:
    scenario, run, hosts, actors = world.scenario, world.run, world.hosts, world.actors
    _say(f"building {len(hosts)} hosts (run {run.ident})")
    services.prepare(world)
    told = _told(world, seconds, seeds[0], classes)  # again: some programs read files that now can be written
    attackers = [actor.gid for actor in actors if actor.family]
    groups = [actor.gid for actor in actors] or [65_000]
    link = net.build(run, scenario, hosts, groups, attackers, services.etc_files(world))
    if link != scenario.link:
        _say(
            "this kernel has no netem: the links are without the delay and jitter that the scenario asks for"
        )
    _say("starting servers")
    services.start(world)
    capture = out / f"{name}.pcap"
    writeup.tell(out, scenario.model_copy(update={"link": link}), seeds, seconds, hosts, actors, name)
    accounts = os.stat("/etc/passwd").st_ino
    recorder, tracker = _listen(run, hosts, out, capture)
    begin = time.time() + 1.5
    writeup.begun(out, begin)
    agents = _agents(world, told, begin, out)
    stopped = False
    try:
        _watch(begin, seconds, capture, agents, sum(len(s) for s in told.values()))
    except KeyboardInterrupt:
        stopped = True
        _say("stopped early: writing what was recorded")
    if not stopped:
        time.sleep(SETTLE)
    lost = _stop_recording(
        recorder
    )  # ahead of the programs: what is open at the end stays open in the recording
    for process in agents:
        _stop(process)
    _stop(tracker)
    for host in hosts:
        for kept in ("opened", "answered"):
            nft = ("ip", "netns", "exec", host.netns, "nft", "-n", "list", "set", "inet", "lab", kept)
            (out / TRUTH / f"{host.name}.{kept}").write_text(net.command(*nft), encoding="utf-8")
    _say("labelling")
    print(writeup.write_up(out, lost))
    if os.stat("/etc/passwd").st_ino != accounts:
        _say(
            "beware: /etc/passwd was replaced during the recording (a package installed?), which took the people's "
            "accounts away from the hosts: later logins by SSH and SMB failed"
        )


def _listen(
    run: Run, hosts: Sequence[Host], out: Path, capture: Path
) -> tuple[subprocess.Popen[str], subprocess.Popen[bytes]]:
    """tcpdump on the inside bridge, and connection tracking's events in every host; both ahead of what they watch."""
    ahead = words("nice -n -15")
    fixed = words("tcpdump -i inside -n -s 0 -B 65536 -Z root -w")
    argv = (*words("ip netns exec"), run.netns("wire"), *ahead, *fixed, str(capture))
    recorder = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = out / TRUTH
    folder.mkdir()
    script = str(Path(__file__).with_name("tracker.py"))
    watch = (*ahead, sys.executable, script, str(folder), run.netns(""), *(host.name for host in hosts))
    with (folder / "tracker.err").open("wb") as err:
        tracker = subprocess.Popen(
            watch, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
        )
    deadline = time.monotonic() + PATIENCE
    while not (folder / "listening").exists():
        if tracker.poll() is not None or time.monotonic() > deadline:
            said = (folder / "tracker.err").read_text(errors="replace").strip().splitlines()
            raise LabError(f"cannot listen to connection tracking: {said[-1] if said else 'no word'}")
        time.sleep(0.1)
    time.sleep(1.0)
    if recorder.poll() is not None:
        said = recorder.communicate()[1].strip().splitlines()
        raise LabError(f"tcpdump: {said[-1] if said else 'ended by itself'}")
    return recorder, tracker


def _stop_recording(recorder: subprocess.Popen[str]) -> str:
    recorder.send_signal(signal.SIGINT)
    _, said = recorder.communicate(timeout=60)
    dropped = re.search(r"(\d+) packets dropped by kernel", said)
    return dropped[1] if dropped else "?"


def _agents(
    world: World, told: dict[Actor, list[Step]], begin: float, out: Path
) -> list[subprocess.Popen[bytes]]:
    folder = world.run.state / "plans"
    folder.mkdir()
    processes = []
    busy = {actor.host for actor, found in told.items() if found}
    at_once = max(4, PROGRAMS_AT_ONCE // max(1, len(busy)))
    for host in world.hosts:
        if host.name not in busy:
            continue
        here = [(actor, found) for actor, found in told.items() if actor.host == host.name]
        plan = [_line(world, actor, step) for actor, found in here for step in found if step.task is None]
        for actor, found in here:
            tasks = [{"at": step.at, **step.task, "of": _of(step)} for step in found if step.task is not None]
            if tasks:
                plan.append(_person(world, actor, tasks, folder, begin, out))
        path = folder / f"{host.name}.jsonl"
        lines = (json.dumps(line) + "\n" for line in sorted(plan, key=lambda line: line["at"]))
        path.write_text("".join(lines), encoding="utf-8")
        log = out / TRUTH / f"{host.name}.jsonl"
        agent = (
            sys.executable,
            str(Path(__file__).with_name("agent.py")),
            str(path),
            str(log),
            str(begin),
            str(at_once),
        )
        argv = ("ip", "netns", "exec", host.netns, *agent)
        processes.append(
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # never a pipe of ours: it would outlive us
                start_new_session=True,
            )
        )
    return processes


def _line(world: World, actor: Actor, step: Step) -> dict[str, Any]:
    """What the launcher reads of one program."""
    home = str(world.home(actor))
    return {
        "at": step.at,
        "what": step.what,
        "argv": step.argv,
        "limit": step.limit,
        "feed": step.feed,
        "uid": 0 if step.root else actor.uid,
        "gid": actor.gid,
        "env": {"HOME": home, "USER": actor.name, **step.env},
        "cwd": home,
        "of": _of(step),
    }


def _of(step: Step) -> dict[str, Any]:
    """What the logs say of every program beside what it did: when it was planned, and what it is part of."""
    return {"at": step.at, "occasion": step.occasion, **({"event": step.event} if step.event else {})}


def _person(
    world: World, actor: Actor, tasks: Sequence[dict[str, Any]], folder: Path, begin: float, out: Path
) -> dict[str, Any]:
    """The actor's own client: started once, it stays, and what it opens stands in its log."""
    path = folder / f"{actor.name}.tasks"
    ordered = sorted(tasks, key=lambda task: float(task["at"]))
    path.write_text("".join(json.dumps(task) + "\n" for task in ordered), encoding="utf-8")
    path.chmod(0o644)
    argv = (services.PYTHON, "-IS", str(habits.PROGRAMS / "person.py"), str(path), str(begin))
    argv = (*argv, str(world.lasting(KEPT)))
    line = _line(world, actor, Step(0.0, "person", argv, limit=1e9))
    return {**line, "resident": True, "log": str(out.resolve() / TRUTH / f"{actor.host}.{actor.gid}.person")}


def _watch(
    begin: float, seconds: float, capture: Path, agents: Sequence[subprocess.Popen[bytes]], programs: int
) -> None:
    _say(f"recording {seconds:.0f} s, {programs} programs planned; Ctrl-C ends it early")
    while (now := time.time() - begin) < seconds:
        if now > 5 and all(agent.poll() is not None for agent in agents):
            break
        if sys.stderr.isatty():
            size = capture.stat().st_size / 1e6 if capture.exists() else 0.0
            sys.stderr.write(f"\r  {max(0, now):6.0f} / {seconds:.0f} s   {size:8.1f} MB")
            sys.stderr.flush()
        time.sleep(0.5)
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return
        process.kill()
        process.wait()


def _gzip(path: Path) -> None:
    with path.open("rb") as plain, gzip.GzipFile(f"{path}.gz", "wb", 9, mtime=0) as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
