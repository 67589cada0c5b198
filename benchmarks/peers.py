"""`cmdana replay` beside other programs that read a capture, in turn in one run: time, memory, packets a second.

    python -m benchmarks.peers [--rounds 3] [--nfstream PYTHON] [--anomaly-detector PYTHON SCRIPT] [CAPTURE...]

Without captures four are made: the one that ships with the model, the busy minutes, the busy minutes eight times in a
row, and a scan with 1.6 packets a connection. Each program does its own whole work on a file, start-up included: cmdana
writes conn.log, cmdana.log and notice.log with every connection judged, Zeek its logs without judging, Suricata (its
configuration as installed, without rules unless there are some) its eve.json, tshark a line a packet with what each
protocol says, nfstream a line a flow with statistics. Kitsune is the published algorithm in our own words and compiled
(`benchmarks/kitsune.py`), which judges packets; zeek_anomaly_detector is the program itself, its SCRIPT, after the Zeek
whose logs it needs (in JSON: of TSV it cannot read a weird.log). Zeek of a single thread reads and writes; ours is two
processes. Medians of the rounds; memory is that of all processes together, from a first round that is not timed. What
is not installed, or fails on a capture, is left out, and said. Prints a table in Markdown; a quarter of an hour on two
idle cores.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.extract import dense
from benchmarks.replay import grow, timed

ROOT = Path(__file__).resolve().parents[1]
BUSY_MINUTES = ROOT / "tests" / "traces" / "busy-minutes" / "busy-minutes.pcap.gz"
SMALL = ROOT / "cmdana_plugin" / "models" / "reference.pcap.gz"
DENSE_PACKETS = 160_000
GROWN = 8  # times the busy minutes
NFSTREAM = """
import sys
from nfstream import NFStreamer
for flow in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_meters=1):
    print(flow.src_ip, flow.dst_ip, flow.application_name, flow.bidirectional_packets, flow.bidirectional_bytes)
"""


def made(folder: Path) -> dict[str, Path]:
    """The four captures, by what they are."""
    small, busy, grown, scan = (folder / f"{name}.pcap" for name in ("small", "busy", "grown", "scan"))
    small.write_bytes(gzip.decompress(SMALL.read_bytes()))
    busy.write_bytes(gzip.decompress(BUSY_MINUTES.read_bytes()))
    grow([busy], GROWN * (busy.stat().st_size - 24), grown)
    dense(scan, DENSE_PACKETS)
    return {"small": small, "busy minutes": busy, f"busy minutes, {GROWN} times": grown, "scan": scan}


def packets_of(capture: Path) -> int:
    from feature_extractors.readers import open_capture

    return sum(len(block) for block in open_capture(capture))


def programs(nfstream: str, detector: Sequence[str]) -> dict[str, list[str]]:
    """The command of each program that is installed; CAPTURE stands for the file."""
    commands = {
        "cmdana": [
            sys.executable,
            "-m",
            "cmdana_plugin.cli",
            "replay",
            "--force",
            "--out",
            "ours",
            "CAPTURE",
        ],
        "zeek": ["zeek", "-C", "-r", "CAPTURE"],
        "suricata": ["suricata", "-r", "CAPTURE", "-l", ".", "-k", "none", "--runmode", "single"],
        "tshark": ["tshark", "-n", "-r", "CAPTURE"],
        "nfstream": [nfstream, "-c", NFSTREAM, "CAPTURE"],
        "kitsune": [sys.executable, "-m", "benchmarks.kitsune", "CAPTURE"],
    }
    if detector and shutil.which("zeek"):
        what = f'zeek -C -r "$1" LogAscii::use_json=T && {shlex.quote(detector[0])} {shlex.quote(detector[1])} -d .'
        commands["zeek, zeek_anomaly_detector"] = ["sh", "-c", what, "sh", "CAPTURE"]
    elif not detector:
        print("not given, left out: zeek_anomaly_detector", file=sys.stderr)
    found = {}
    for name, command in commands.items():
        path = shutil.which(command[0])
        there = path is not None
        if name == "nfstream" and there:
            there = not subprocess.run(
                [command[0], "-c", "import nfstream"], capture_output=True, check=False
            ).returncode
        if there:
            found[name] = command
        else:
            print(f"not installed, left out: {name}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nfstream", default=sys.executable, help="a Python that has nfstream")
    parser.add_argument(
        "--anomaly-detector",
        nargs=2,
        default=(),
        metavar=("PYTHON", "SCRIPT"),
        help="a Python with pandas and scikit-learn, and zeek-anomaly-detector.py",
    )
    given = parser.parse_args()
    # Programs are called in folders of their own.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    tools = programs(given.nfstream, given.anomaly_detector)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captures = {c.name: c.resolve() for c in given.captures} or made(folder)
        print(
            "| capture | packets | program | seconds | processor s | packets/s | MiB | times cmdana's time |"
        )
        print("|---|---:|---|---:|---:|---:|---:|---:|")
        for what, capture in captures.items():
            n = packets_of(capture)
            taken: dict[str, list[tuple[float, float, int]]] = {tool: [] for tool in tools}
            for i in range(given.rounds + 1):  # in turn, so that what else the machine does meets all alike
                for tool in list(taken):
                    command = tools[tool]
                    where = folder / tool
                    where.mkdir(exist_ok=True)
                    words = [str(capture) if w == "CAPTURE" else w for w in command]
                    try:
                        taken[tool].append(timed(words, where, watched=i == 0))
                    except RuntimeError as error:
                        if tool == "cmdana":
                            raise
                        last = str(error).strip().splitlines()[-1]
                        print(f"{what}: {tool} left out: {last}", file=sys.stderr)
                        del taken[tool]
                    shutil.rmtree(where)
            ours = statistics.median(s for s, _, _ in taken["cmdana"][1:])
            for tool, rounds in taken.items():
                wall, busy = (statistics.median(r[k] for r in rounds[1:]) for k in (0, 1))
                print(
                    f"| {what} | {n:,} | {tool} | {wall:.2f} | {busy:.2f} | {n / wall:,.0f} | "
                    f"{rounds[0][2] // 1024} | {wall / ours:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
