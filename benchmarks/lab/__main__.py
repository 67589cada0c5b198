"""`python -m benchmarks.lab record|check|clean|list`: the laboratory's front door."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

from benchmarks.lab import net, record, scenario, verify, writeup


def main(arguments: list[str] | None = None) -> int:
    """0 fine, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    rec = verbs.add_parser("record", help="play a scenario and write capture and labels")
    rec.add_argument("--scenario", required=True, help=f"a file, or one of {', '.join(scenario.known())}")
    rec.add_argument("--seconds", type=float, help="length of the recording (default: the scenario's)")
    rec.add_argument("--seed", type=int, default=1)
    rec.add_argument(
        "--site",
        type=int,
        help="whose hosts, addresses and people (default: the seed): one site on other days",
    )
    rec.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    rec.add_argument("--name", default="capture", help="of the capture file")
    rec.add_argument("--keep-logs", action="store_true", help="keep the servers' logs beside the recording")
    rec.add_argument("--gzip", action="store_true", help="compress the capture")
    rec.add_argument("--classes", choices=("both", "benign", "attacks"), default="both")
    rec.add_argument(
        "--nice", type=int, default=10, help="of every program (default 10, the lowest priority is 19)"
    )
    day = verbs.add_parser("unsqueeze", help="move a recording's connections to the times of a whole day")
    day.add_argument("folder", type=Path, nargs="+", help="recordings; several become several days")
    day.add_argument(
        "--factor", type=float, help="seconds of the day per recorded second (default: the story's)"
    )
    day.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    day.add_argument(
        "--start",
        type=_date,
        nargs="+",
        default=[],
        metavar="DATE",
        help="as 2026-03-02; later ones follow day by day",
    )
    test = verbs.add_parser("check", help="can the classes be told apart by what should not matter?")
    test.add_argument(
        "folder", type=Path, nargs="+", help="recordings; with several, each is judged by the others"
    )
    how_much = verbs.add_parser("rates", help="how much ordinary use there is, as published of real networks")
    how_much.add_argument(
        "folder", type=Path, nargs="+", help="recordings of one site, in the order of their days"
    )
    held = verbs.add_parser(
        "verify", help="hold the labels against what the clients and servers wrote themselves"
    )
    held.add_argument("folder", type=Path)
    held.add_argument(
        "--conn-log", type=Path, help="Zeek's conn.log of it (TSV): has each of its rows a label?"
    )
    late = verbs.add_parser("label", help="label a recording whose laboratory was killed")
    late.add_argument("folder", type=Path)
    weeks = verbs.add_parser(
        "splice", help="unroll recorded days of one site to weeks of logs, with attacks in them"
    )
    weeks.add_argument("folder", type=Path, nargs="+", help="unsqueezed recordings of one site, several days")
    weeks.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    weeks.add_argument("--days", type=int, default=14)
    weeks.add_argument("--seed", type=int, default=1)
    weeks.add_argument("--connections", type=int, default=1_000_000, help="of normal use, at least")
    verbs.add_parser("clean", help="remove namespaces and files of recordings that crashed")
    verbs.add_parser("list", help="name the scenarios")
    wanted = parser.parse_args(arguments)
    try:
        return _do(wanted)
    except scenario.LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: stopped, nothing left behind", file=sys.stderr)
        return 1


def _date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def _do(wanted: argparse.Namespace) -> int:
    if wanted.verb == "list":
        for name in scenario.known():
            print(f"{name:<14}{scenario.load(name).about}")
    elif wanted.verb == "check":
        from benchmarks.lab import check  # needs numpy and lightgbm, which recording does not

        verdict = check.judge([check.load(folder) for folder in wanted.folder])
        print(verdict)
        return 0 if verdict.fine else 1
    elif wanted.verb == "unsqueeze":
        from benchmarks.lab import unsqueeze  # needs numpy

        for moved in unsqueeze.unsqueeze(wanted.folder, wanted.out, wanted.factor, wanted.start):
            print(moved)
    elif wanted.verb == "rates":
        from benchmarks.lab import rates  # needs numpy

        print(rates.measure(wanted.folder))
    elif wanted.verb == "verify":
        compared = verify.verify(wanted.folder, wanted.conn_log)
        print(compared)
        return 0 if compared.fine else 1
    elif wanted.verb == "splice":
        from benchmarks.lab import splice  # needs numpy and the engine, which recording does not

        print(splice.splice(wanted.folder, wanted.out, wanted.days, wanted.seed, wanted.connections))
    elif wanted.verb == "label":
        print(writeup.write_up(wanted.folder))
    elif wanted.verb == "clean":
        net.require(("ip",))
        removed = net.clean()
        print(f"removed {len(removed)} namespaces")
    else:
        found = scenario.load(wanted.scenario)
        seconds = found.seconds if wanted.seconds is None else wanted.seconds
        if not 5 <= seconds <= 86_400:
            raise scenario.LabError(f"--seconds: found {seconds:g}, expected 5 to 86400")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", wanted.name):
            raise scenario.LabError(
                f"--name: found {wanted.name!r}, expected letters, digits, dots and dashes"
            )
        record.record(
            found,
            seconds,
            wanted.seed,
            wanted.out,
            name=wanted.name,
            compress=wanted.gzip,
            classes=wanted.classes,
            nice=wanted.nice,
            site=wanted.site,
            keep_logs=wanted.keep_logs,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
