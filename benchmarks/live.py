"""What CMDANA costs Zeek, and how soon a verdict is back:

    live.py cost CAPTURE...
    live.py roads CAPTURE...
    live.py load PPS SECONDS CAPTURE...
    live.py latency RATE SECONDS [--model]

`cost` reads each capture with Zeek alone and with the plugin and a detector at its side, in turn, five times, and
prints the ratio of the best of each, for other work on the machine only adds: of Zeek's processor time, and of its
wall time, which says something where the machine has a core for each side. `roads` does so
for each way to spare Zeek work, and for a `cmdana run --follow` that reads its logs beside it, and prints the ratio of
the medians. Reading a capture, Zeek also drives the
clock of Broker by the packets' time, which no live Zeek does: `load` (as root, in a network namespace) sends the
frames of each Ethernet capture to a live Zeek, alone and with CMDANA in turn, and prints the ratio of processor time.
`latency` (likewise) sends RATE DNS connections a second to a live Zeek and prints how long after a connection's
record its verdict is logged. The detector is a stand-in; with `--model` it is the shipped one.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "zeek"))
import rig

ROUNDS = int(os.environ.get("ROUNDS", "5"))
LATENCY = """
global began: table[string] of time &create_expire=1min;
global delays: vector of double = vector();
event connection_state_remove(c: connection) &priority=-99 { began[c$uid] = current_time(); }
event CMDANA::log_cmdana(rec: CMDANA::Info)
	{
	if ( rec$uid in began )
		delays += interval_to_double(current_time() - began[rec$uid]);
	}
event zeek_done()
	{
	sort(delays);
	local shares = vector(0.5, 0.9, 0.99, 0.999);
	for ( _, share in shares )
		print fmt("p%g %.1f ms", 100 * share, 1000 * delays[double_to_count(share * (|delays| - 1))]);
	}
"""


def measured(command: list[str], folder: Path) -> tuple[float, float]:
    """Processor and wall time in seconds of one command."""
    start = time.monotonic()
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (folder / "out").read_text(errors="replace")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - start


ROADS = {  # what Zeek is given beside the capture; None: without the plugin
    "Zeek alone": None,
    "as it is loaded": ["CMDANA::log_benign=F"],  # replay.zeek, which reads the capture, has T
    "`cmdana/without-packets`": ["CMDANA::log_benign=F", str(rig.SCRIPTS / "without-packets.zeek")],
    "`CMDANA::log_benign = T`": ["CMDANA::log_benign=T"],
    "`cmdana run --follow`": None,
}


def roads(captures: list[Path]) -> None:
    """Medians of processor time of Zeek by road, in turn."""
    for capture in captures:
        taken: dict[str, list[float]] = {road: [] for road in ROADS}
        for turn in range(ROUNDS):
            for i, (road, words) in enumerate(ROADS.items()):
                if words is None and i:
                    taken[road].append(_followed(capture))
                elif words is None:
                    with tempfile.TemporaryDirectory() as name:
                        command = ["zeek", "-C", "-r", str(capture.resolve())]
                        taken[road].append(measured(command, Path(name))[0])
                else:
                    port = 28_000 + 10 * turn + i
                    taken[road].append(_beside(capture, port, words)[0][0])
        alone = statistics.median(taken["Zeek alone"])
        print(f"{capture.name}: processor time of Zeek, medians of {ROUNDS}, load {os.getloadavg()[0]:.1f}")
        for road, seconds in taken.items():
            middle = statistics.median(seconds)
            print(f"| {road} | {middle:.2f} s | {middle / alone:.2f} |", flush=True)


def _followed(capture: Path) -> float:
    """Processor time of Zeek while `cmdana run --follow` reads the logs that it writes."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "logs", Path(name) / "out"
        folder.mkdir()
        words = ["run", "--follow", str(folder), "--from-start", "--out", str(out)]
        told = Path(name) / "said"
        with told.open("wb") as said:
            follower = subprocess.Popen(
                [sys.executable, "-m", "cmdana_plugin.cli", *words], stdout=said, stderr=said
            )
            rig.wait_for(lambda: "is ready" in told.read_text(), "the follower")
            used, _ = measured(["zeek", "-C", "-r", str(capture.resolve())], folder)
            follower.terminate()
            follower.wait()
        return used


def _beside(capture: Path, port: int, words: list[str]) -> tuple[tuple[float, float], str]:
    """Processor and wall time of Zeek with CMDANA and a detector, given these words, and what it counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plugin.toml").write_text(
            f'[endpoint]\nurl = "ws://127.0.0.1:{port}/v1/messages/json"\nreconnect_min = 0.05\n'
            f'secret_file = "{rig.secret_in(folder)}"\n'
            "reconnect_max = 0.1\nbatch_records = 4096\nbatch_seconds = 0.25\nqueue_records = 10000000\n"
        )
        with (folder / "endpoint.out").open("wb") as out:
            endpoint = subprocess.Popen(
                [sys.executable, rig.HERE / "endpoint.py", folder / "plugin.toml"],
                stdout=out, stderr=out,
            )  # fmt: skip
            rig.wait_for(lambda: "nobody listens" in (folder / "endpoint.out").read_text(), "the endpoint")
            scripts = [
                str(rig.SCRIPTS / "replay.zeek"), f"CMDANA::websocket_port={port}/tcp",
                f"CMDANA::secret_file={folder / 'secret'}", *words,
            ]  # fmt: skip
            used = measured(["zeek", "-C", "-r", str(capture.resolve()), *scripts], folder)
            endpoint.terminate()
            endpoint.wait()
        return used, re.findall(r"cmdana: (\d+ connections ended.*)", (folder / "out").read_text())[-1]


def cost(captures: list[Path]) -> None:
    port = 27_900
    for capture in captures:
        alone: list[tuple[float, float]] = []
        beside: list[tuple[float, float]] = []
        counted = ""
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                alone.append(measured(["zeek", "-C", "-r", str(capture.resolve())], folder))
            used, counted = _beside(capture, port, [])
            beside.append(used)
            port += 1
        a, b = ([min(column) for column in zip(*runs, strict=True)] for runs in (alone, beside))
        print(
            f"{capture.name}: processor {a[0]:.2f} s alone, {b[0]:.2f} s with CMDANA, {b[0] / a[0]:.2f} times; "
            f"wall {a[1]:.2f} s and {b[1]:.2f} s, {b[1] / a[1]:.2f} times; {counted}",
            flush=True,
        )


def load(pps: str, seconds: str, captures: list[Path]) -> None:
    for capture in captures:
        used: dict[bool, list[float]] = {False: [], True: []}
        ended: dict[bool, list[int]] = {False: [], True: []}
        for _ in range(min(ROUNDS, 3)):
            for beside in (False, True):
                with tempfile.TemporaryDirectory() as name, rig.namespace() as ns:
                    cpu, n = _loaded(ns, Path(name), capture, pps, seconds, beside)
                used[beside].append(cpu)
                ended[beside].append(n)
        a, b = min(used[False]), min(used[True])
        print(
            f"{capture.name} at {pps} packets/s for {seconds} s: processor {a:.2f} s alone, {b:.2f} s with CMDANA, "
            f"{b / a:.2f} times; connections {ended[False]} and {ended[True]}",
            flush=True,
        )


def _loaded(ns: str, folder: Path, capture: Path, pps: str, seconds: str, beside: bool) -> tuple[float, int]:
    """Processor seconds of Zeek while it sees the frames and for five seconds after, and connections in conn.log."""
    if beside:
        zeek: rig.Program = rig.Zeek(ns, folder / "zeek")
        endpoint = rig.Endpoint(ns, folder)
        rig.wait_for(lambda: "welcomes us" in endpoint.said(), "the handshake")
    else:
        settings = ("LogAscii::use_json=T", "udp_inactivity_timeout=1sec", "tcp_close_delay=1sec")
        zeek = rig.Program(ns, folder / "zeek", "zeek", "zeek", "-C", "-i", rig.WATCHED, *settings)
        rig.wait_for(lambda: "listening on" in zeek.said(), "Zeek to listen")
    before = zeek.cpu()
    rig.send(ns, "loop", capture.resolve(), pps, seconds).communicate()
    time.sleep(5)
    used = zeek.cpu() - before
    zeek.stop()
    if beside:
        endpoint.stop()
    return used, (folder / "zeek" / "conn.log").read_bytes().count(b"\n")


def latency(rate: float, seconds: float, shipped: bool) -> None:
    with tempfile.TemporaryDirectory() as name, rig.namespace() as ns:
        folder = Path(name)
        (folder / "latency.zeek").write_text(LATENCY)
        zeek = rig.Zeek(ns, folder / "zeek", folder / "latency.zeek")
        if shipped:
            secret = rig.secret_in(folder)
            (folder / "plugin.toml").write_text(f'[endpoint]\nsecret_file = "{secret}"\n')
            command = (
                sys.executable,
                "-m",
                "cmdana_plugin.cli",
                "run",
                "--config",
                folder / "plugin.toml",
            )
            endpoint = rig.Program(ns, folder, "endpoint", *command)
        else:
            endpoint = rig.Endpoint(ns, folder)
        rig.wait_for(lambda: "welcomes us" in endpoint.said(), "the handshake")
        before = (zeek.cpu(), endpoint.cpu())
        start = time.monotonic()
        sender = rig.send(ns, "dns", str(rate), str(seconds))
        sent = int(sender.communicate()[0])
        elapsed = time.monotonic() - start
        used = (zeek.cpu() - before[0], endpoint.cpu() - before[1])
        time.sleep(10)
        zeek.stop()
        endpoint.stop()
        print(
            f"{sent} connections in {elapsed:.1f} s ({sent / elapsed:.0f} a second), load {os.getloadavg()[0]:.1f}"
        )
        print(f"processor: Zeek {used[0] / elapsed:.0%}, endpoint {used[1] / elapsed:.0%} of one core")
        print(*re.findall(r"^p.* ms$", zeek.said(), re.MULTILINE), sep=", ")
        print("tally", zeek.tally())
        print("endpoint", endpoint.said().splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1] == "cost":
        cost([Path(word) for word in sys.argv[2:]])
    elif sys.argv[1] == "roads":
        roads([Path(word) for word in sys.argv[2:]])
    elif sys.argv[1] == "load":
        load(sys.argv[2], sys.argv[3], [Path(word) for word in sys.argv[4:]])
    else:
        latency(float(sys.argv[2]), float(sys.argv[3]), "--model" in sys.argv)
