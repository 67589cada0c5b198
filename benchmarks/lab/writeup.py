"""From what a recording left in its folder to labels, summary and pictures; works after a crash as well."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab import flows, truth
from benchmarks.lab.net import Host
from benchmarks.lab.scenario import LabError, Scenario
from benchmarks.lab.world import Actor

TRUTH = "truth"  # the kernel's and the launchers' logs beside the capture, until they are written up


def tell(
    out: Path,
    scenario: Scenario,
    seeds: tuple[int, int],
    seconds: float,
    hosts: Sequence[Host],
    actors: Sequence[Actor],
    capture: str,
) -> None:
    """story.json: who plays, where, under which mark."""
    people = [{"name": a.name, "host": a.host, "gid": a.gid, "family": a.family} for a in actors]
    places = [
        {
            "name": h.name,
            "address": h.address,
            "mac": h.mac,
            "inside": h.inside,
            "services": h.services,
            "role": h.role,
            "prefix": h.prefix,
        }
        for h in hosts
    ]
    told = {
        "capture": capture,
        "seed": seeds[0],
        "site": seeds[1],
        "seconds": seconds,
        "actors": people,
        "hosts": places,
    }
    told["scanners"] = sorted(scenario.scanners)
    told["events"] = [
        {"kind": e.kind, "at": e.at * seconds, "until": min(1.0, e.at + e.lasts) * seconds}
        for e in scenario.events
    ]
    told["scenario"] = scenario.model_dump(mode="json")
    (out / "story.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def begun(out: Path, begin: float) -> None:
    """Adds the recording's zero, in seconds since 1970, to story.json."""
    path = out / "story.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, "begin": round(begin, 6)}, indent=1) + "\n", encoding="utf-8")


def write_up(out: Path, lost: str = "?") -> str:
    """Label the recording in `out`; returns the summary. `lost`: frames dropped, as the recorder said."""
    told = _story(out)
    folder = out / TRUTH
    hosts = [
        Host(h["name"], "", h["address"], h["mac"], h["inside"], tuple(h["services"]), None, ())
        for h in told["hosts"]
    ]
    actors = [Actor(a["name"], a["host"], a["gid"], a["family"]) for a in told["actors"]]
    opened = truth.events({h.name: folder / f"{h.name}.log" for h in hosts}, hosts)
    resolvers = {host.address for host in hosts if "resolver" in host.services}
    name = told["capture"]
    led = truth.answered({h.name: folder / f"{h.name}.log" for h in hosts})
    hardware = {bytes.fromhex(h.mac.replace(":", "")): (h.name, h.address) for h in hosts}
    raw = truth.raw_programs({h.name: folder / f"{h.name}.jsonl" for h in hosts})
    labels = truth.label(flows.read(out / f"{name}.pcap"), opened, actors, resolvers, led, hardware, raw)
    truth.write(labels, out / "labels.csv", name)
    overruns = sum("lost\n" in log.read_text(encoding="ascii") for log in folder.glob("*.log"))
    skipped = _programs(out)
    text = truth.summary(labels) + (
        f"\n\nscenario {told['scenario']['name']}, seed {told['seed']}, {told['seconds']:.0f} s; "
        f"frames dropped by the recorder: {lost}; hosts whose tracking overran: {overruns}; "
        f"programs skipped because the machine was late: {skipped}\n"
    )
    (out / "summary.txt").write_text(text, encoding="utf-8")
    _picture(labels, out, f"{told['scenario']['name']}, seed {told['seed']}: {told['scenario']['about']}")
    shutil.rmtree(folder)
    return text


def _story(out: Path) -> Any:
    if not (out / "story.json").is_file() or not (out / TRUTH).is_dir():
        raise LabError(f"{out}: expected a recording that was not written up (story.json and {TRUTH}/)")
    return json.loads((out / "story.json").read_text(encoding="utf-8"))


def _programs(out: Path) -> int:
    """programs.jsonl: what launchers and staying clients did; connections.jsonl: what the latter opened.

    Returns how many programs and tasks were skipped.
    """
    skipped = 0
    with (
        (out / "programs.jsonl").open("w", encoding="utf-8") as programs,
        (out / "connections.jsonl").open("w", encoding="utf-8") as connections,
    ):
        for log in sorted((*(out / TRUTH).glob("*.jsonl"), *(out / TRUTH).glob("*.person"))):
            host, _, gid = log.stem.partition(".")
            for line in log.read_text(encoding="utf-8").splitlines():
                if not line.endswith("}"):
                    continue  # cut by a crash
                entry = {"host": host, **({"gid": int(gid)} if gid else {}), **json.loads(line)}
                skipped += "error" in entry
                file = connections if "opened" in entry else programs
                file.write(json.dumps(entry) + "\n")
    return skipped


def _picture(labels: Sequence[truth.Label], out: Path, title: str) -> None:
    try:
        from benchmarks.lab import picture
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    for ending in ("png", "svg"):
        picture.draw(labels, out / f"traffic.{ending}", title)
