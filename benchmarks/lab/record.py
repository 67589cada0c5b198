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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.lab import attacks, net, services, story, writeup
from benchmarks.lab.net import Host, Run
from benchmarks.lab.scenario import LabError, Scenario
from benchmarks.lab.world import Actor, Step, World, words
from benchmarks.lab.writeup import TRUTH

PROGRAMS_AT_ONCE = 80  # on all hosts together, shared out among them
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
) -> None:
    """Play the story and write NAME.pcap[.gz], labels.csv, summary.txt, programs.jsonl and story.json to `out`.

    `nice` is what every program of the recording runs under; one recording at a time on one machine.
    """
    _writable(out)
    offered: set[str] = {
        service for group in (*scenario.inside, *scenario.outside) for service in group.services
    }
    used = [tool for attack in scenario.attacks for tool in attacks.TOOLS.get(attack.kind, ())]
    net.require((*net.TOOLS, *services.needed_tools(offered), "curl", "dig", *used))
    net.clean()
    _alone()
    os.nice(max(0, nice - os.nice(0)))
    run = Run(secrets.token_hex(2), net.STATE)
    run = Run(run.ident, net.STATE / run.ident)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        run.state.mkdir(parents=True)
        run.state.chmod(0o755)
        (run.state / "pid").write_text(str(os.getpid()))
        _play(scenario, seconds, seed, out, run, name, classes)
    finally:
        net.clean(run.ident)
    if compress:
        _gzip(out / f"{name}.pcap")


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


def _play(
    scenario: Scenario, seconds: float, seed: int, out: Path, run: Run, name: str, classes: str
) -> None:
    hosts = net.lay_out(scenario, run, story.order_of_addresses(seed))
    actors = story.cast(scenario, hosts, seed)
    world = World(scenario, run, hosts, actors)
    _say(f"building {len(hosts)} hosts (run {run.ident})")
    services.prepare(world)
    told = {
        a: s
        for a, s in story.steps(world, seed, seconds).items()
        if classes == "both" or (classes == "attacks") == bool(a.family)
    }
    net.build(run, scenario, hosts, [actor.gid for actor in actors] or [65_000], services.etc_files(world))
    _say("starting servers")
    services.start(world)
    capture = out / f"{name}.pcap"
    writeup.tell(out, scenario, seed, seconds, hosts, actors, name)
    recorder, trackers = _listen(run, hosts, out, capture)
    begin = time.time() + 1.5
    agents = _agents(world, told, begin, out)
    stopped = False
    try:
        _watch(begin, seconds, capture, agents, sum(len(s) for s in told.values()))
    except KeyboardInterrupt:
        stopped = True
        _say("stopped early: writing what was recorded")
    for process in agents:
        _stop(process)
    if not stopped:
        time.sleep(SETTLE)
    lost = _stop_listening(recorder, trackers)
    for host in hosts:
        odd = net.command(
            "ip", "netns", "exec", host.netns, "nft", "-n", "list", "set", "inet", "lab", "odd", check=False
        )
        (out / TRUTH / f"{host.name}.odd").write_text(odd, encoding="utf-8")
    _say("labelling")
    print(writeup.write_up(out, lost))


def _listen(
    run: Run, hosts: Sequence[Host], out: Path, capture: Path
) -> tuple[subprocess.Popen[str], list[subprocess.Popen[bytes]]]:
    """tcpdump on the inside bridge, and connection tracking's events in every host."""
    fixed = words("tcpdump -i inside -n -s 0 -B 65536 -Z root -w")
    argv = ("ip", "netns", "exec", run.netns("wire"), *fixed, str(capture))
    recorder = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    trackers = []
    (out / TRUTH).mkdir()
    for host in hosts:
        with (
            (out / TRUTH / f"{host.name}.log").open("wb") as log,
            (out / TRUTH / f"{host.name}.err").open("wb") as err,
        ):
            watch = words("conntrack -E -e NEW -o timestamp -b 33554432")
            tracker = (*words("ip netns exec"), host.netns, *watch)
            trackers.append(
                subprocess.Popen(
                    tracker, stdin=subprocess.DEVNULL, stdout=log, stderr=err, start_new_session=True
                )
            )
    time.sleep(1.5)
    return recorder, trackers


def _stop_listening(recorder: subprocess.Popen[str], trackers: Sequence[subprocess.Popen[bytes]]) -> str:
    for process in trackers:
        _stop(process)
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
    for host in world.hosts:
        plan = sorted(
            ((s, a) for a, found in told.items() if a.host == host.name for s in found),
            key=lambda pair: pair[0].at,
        )
        if not plan:
            continue
        busy = sum(bool(found) for found in told.values())
        at_once = max(2, PROGRAMS_AT_ONCE // max(1, busy))
        path = folder / f"{host.name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for step, actor in plan:
                line = {
                    "at": step.at,
                    "what": step.what,
                    "argv": step.argv,
                    "limit": step.limit,
                    "feed": step.feed,
                    "gid": actor.gid,
                }
                line |= {
                    "uid": 0 if step.root else actor.uid,
                    "env": {"HOME": str(world.home(actor)), "USER": actor.name, **step.env},
                }
                file.write(json.dumps({**line, "cwd": str(world.home(actor))}) + "\n")
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
