"""Mutated lines of Zeek logs through every reader of logs, in process: python -m benchmarks.fuzz_logs LINES [--seed N]

Each round writes a small folder of logs (TSV or JSON) whose lines are mutated, and a label file, and has them read as
`alerts`, `explain`, `label`, `report`, `anonymise` and `train` read them. Allowed are rows, counts and `CmdanaError`;
anything else is a fault, and so is a round that takes longer than `SLOW` seconds. The input of a fault is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cmdana_plugin.analyst import explain as explain_uid
from cmdana_plugin.analyst import label as feedback
from cmdana_plugin.analyst import report as pages
from cmdana_plugin.analyst.alerts import Filter, show_alerts
from cmdana_plugin.analyst.anonymise import anonymise
from cmdana_plugin.logs.labels import read_labels
from feature_extractors.errors import CmdanaError
from feature_extractors.features.encoding import encode
from feature_extractors.features.schema import load_schema
from feature_extractors.readers.zeek_logs import ZeekLogs

SLOW: Final = 20.0  # seconds for a folder; ordinary ones take a fifth of one
LINES: Final = 5000  # of a folder
UID: Final = "CHhAvVGS1DHFjwGM9"
KNOWN: Final = "CwholeAndAlone"

Streams = dict[str, tuple[tuple[str, str, str], ...]]
_ID: Final = (
    ("ts", "time", "1700000000.5"), ("uid", "string", UID), ("id.orig_h", "addr", "10.0.0.1"),
    ("id.orig_p", "port", "40000"), ("id.resp_h", "addr", "10.0.0.2"), ("id.resp_p", "port", "53"),
    ("proto", "enum", "udp"),
)  # fmt: skip
STREAMS: Final[Streams] = {
    "conn": (
        *_ID, ("service", "string", "dns"), ("duration", "interval", "0.25"), ("orig_bytes", "count", "40"),
        ("resp_bytes", "count", "120"), ("conn_state", "string", "SF"), ("history", "string", "Dd"),
        ("orig_pkts", "count", "1"), ("orig_ip_bytes", "count", "68"), ("resp_pkts", "count", "1"),
        ("resp_ip_bytes", "count", "148"), ("tunnel_parents", "set[string]", "-"), ("ip_proto", "count", "17"),
    ),
    "dns": (
        *_ID, ("query", "string", "www.example.org"), ("qtype_name", "string", "A"), ("rcode", "count", "0"),
        ("AA", "bool", "F"), ("answers", "vector[string]", "192.0.2.1,192.0.2.2"),
        ("TTLs", "vector[interval]", "60.0,60.0"),
    ),
    "cmdana": (
        *_ID, ("service", "string", "dns"), ("community_id", "string", "1:abc="), ("stage", "string", "final"),
        ("score", "double", "0.9"), ("p_value", "double", "0.0001"), ("threshold", "double", "0.5"),
        ("verdict", "string", "anomalous"), ("packet_reliance", "double", "0.25"),
        ("connection_reliance", "double", "0.25"), ("log_reliance", "double", "0.25"),
        ("state_reliance", "double", "0.25"), ("modalities", "set[string]", "packet,connection"),
        ("reasons", "vector[string]", "many bytes,a rare port"), ("model", "string", "cmdana-3"),
    ),
    "notice": (
        *_ID, ("note", "enum", "CMDANA::Anomalous_Host"), ("msg", "string", "10.0.0.1 is behind 3 odd connections"),
        ("sub", "string", "evidence 12 decades"), ("src", "addr", "10.0.0.1"), ("dst", "addr", "-"),
        ("p", "port", "53"), ("n", "count", "3"), ("actions", "set[enum]", "Notice::ACTION_LOG"),
        ("suppress_for", "interval", "3600.0"), ("cmdana.role", "string", "originator"),
        ("cmdana.host", "addr", "10.0.0.1"), ("cmdana.score", "double", "0.9"), ("cmdana.evidence", "double", "12.5"),
        ("cmdana.services", "vector[string]", "dns,22/tcp"), ("cmdana.reasons", "vector[string]", "many bytes"),
        ("cmdana.latest_reasons", "vector[string]", "-"),
    ),
}  # fmt: skip
ODD: Final = (
    "", "-", "(empty)", "0", "-0", "-1", "nan", "inf", "-inf", "1e400", "1e20", "-1e15", "1e-400", "9" * 19, "9" * 21,
    "9" * 400, "9" * 5000, "1_000", "0x10", "1e11", "253402300800", "-62135596801", "T", "F", "\x00", "a\x00b", "\\x00",
    "\\xff\\xfe", "\\", "\\x", "\ud800", "\u202e", "\x1b[2J", "'", '"', "<b>", "::1", "::ffff:1.2.3.4", "1.2.3.4.5",
    "fe80::1%eth0", "10.0.0.0/8", "a,b,c", "," * 50, "A" * 5000, "early", "final", "65536", "9999-12-31T23:59:59-23:59",
    "2026-11-22T14:00:00Z", "0001-01-01", "\r", "{", "[", "]" * 10, "=1+1", "CMDANA::Detector_Lost",
)  # fmt: skip
ODD_JSON: Final = (
    "null", "true", "false", "[]", "{}", "[1]", '{"a":[1]}', '""', '"\\ud800"', '"\\u0000"', "NaN", "Infinity", "-1",
    "-Infinity", "1e400", "-1e400", "1e20", "9" * 400, "9" * 5000, "[" * 7 + "]" * 7, "[" * 20 + "]" * 20, "1E5",
    "[" * 2000 + "]" * 2000, '["a",null,1.5,{}]', '"9999-12-31T23:59:59.999999-23:59"', '"2026-11-22T14:00:00"', "0.0",
    '"nan"', '"1e400"', "18446744073709551615", "18446744073709551616", '{"ts":1}', "253402300800.5", "1700000000000.0",
)  # fmt: skip


def line(rng: random.Random, stream: str, as_json: bool) -> bytes:
    """One line of a log, most often broken somewhere."""
    cells = [value for _, _, value in STREAMS[stream]]
    names = [name for name, _, _ in STREAMS[stream]]
    cells[0] = f"{1.7e9 + rng.random() * 1e5:.6f}"
    if rng.random() < 0.5:
        cells[1] = f"C{rng.randrange(100):017d}"
    odd: dict[int, str] = {}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        odd[rng.randrange(len(cells))] = rng.choice(ODD_JSON if as_json else ODD)
    if as_json:
        parts = [
            f'"{names[i]}":{odd.get(i) or _json(cell, kind)}'
            for i, (cell, (_, kind, _)) in enumerate(zip(cells, STREAMS[stream], strict=True))
            if rng.random() < 0.98
        ]
        if rng.random() < 0.05:
            parts.append(rng.choice(parts or ['"ts":1']))  # a key twice
        text = "{" + ",".join(parts) + "}"
    else:
        for i, value in odd.items():
            cells[i] = value
        if rng.random() < 0.05:
            cells = cells[: rng.randrange(len(cells))] + rng.choice(([], ["x"] * 3, ["x"] * 500))
        text = "\t".join(cells)
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice((0, 0, 0, 1, 1, 3, 10))):
        if not raw:
            break
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randrange(1, 9)]
            case 2:
                raw[at:at] = bytes([rng.choice(b'\t\n\r\0{}[]",:\\#-x1\xff')]) * rng.choice((1, 1, 2, 40))
            case 3:
                raw[at:at] = raw[rng.randrange(len(raw)) :][: rng.randrange(1, 60)]
    return bytes(raw)


def _json(cell: str, kind: str) -> str:
    if kind in ("time", "interval", "double", "count", "port"):
        return cell if cell != "-" else "null"
    if kind.startswith(("set", "vector")):
        return "[" + ",".join(f'"{c}"' for c in cell.split(",")) + "]"
    return f'"{cell}"'


def _whole(as_json: bool) -> bytes:
    """A verdict that nothing is wrong with, the only one of its connection."""
    cells = [(name, kind, KNOWN if name == "uid" else value) for name, kind, value in STREAMS["cmdana"]]
    if as_json:
        return ("{" + ",".join(f'"{name}":{_json(cell, kind)}' for name, kind, cell in cells) + "}").encode()
    return "\t".join(cell for *_, cell in cells).encode()


def header(stream: str) -> bytes:
    """The header lines of a TSV log."""
    names = "\t".join(name for name, _, _ in STREAMS[stream])
    kinds = "\t".join(kind for _, kind, _ in STREAMS[stream])
    return (
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n"
        f"#path\t{stream}\n#fields\t{names}\n#types\t{kinds}\n"
    ).encode()


def folder(rng: random.Random, at: Path, lines: int) -> None:
    """A folder of logs with so many lines in all; now and then a header is broken too."""
    for stream in STREAMS:
        as_json = rng.random() < 0.5
        head = b"" if as_json else header(stream)
        if head and rng.random() < 0.05:
            broken = bytearray(head)
            broken[rng.randrange(len(broken))] = rng.randrange(256)
            head = bytes(broken)
        body = b"\n".join(line(rng, stream, as_json) for _ in range(lines // (len(STREAMS) + 1)))
        if stream == "cmdana":
            body = _whole(as_json) + b"\n" + body
        (at / f"{stream}.log").write_bytes(head + body + (b"\n" if rng.random() < 0.9 else b""))
    rows = [b"ts,proto,orig_h,orig_p,resp_h,resp_p,label,family"]
    for _ in range(lines // (len(STREAMS) + 1)):
        cells = ["1700000000.5", "udp", "10.0.0.1", "40000", "10.0.0.2", "53", "benign", ""]
        if rng.random() < 0.0005:
            cells[rng.randrange(len(cells))] = rng.choice(ODD)
        rows.append(",".join(cells).encode("utf-8", "surrogatepass"))
    (at / "labels.csv").write_bytes(b"\n".join(rows) + b"\n")


def readers(at: Path, scratch: Path) -> dict[str, Callable[[], object]]:
    """The functions that each command runs on a folder, by name."""
    schema = load_schema()

    def report() -> None:
        seen = pages.gather(at)
        pages.write(pages.render(seen, at, 20.0), scratch / "report.html")

    def explain() -> None:
        found = explain_uid.explain(UID, at)
        explain_uid.show(found, at)
        explain_uid.explanation_object(found)

    everything = Filter.parse(host=None, note=None, since=None, until=None)
    return {
        "alerts": lambda: show_alerts([at], everything, follow=False, form="table"),
        "alerts --json": lambda: show_alerts([at], everything, follow=False, form="json"),
        "report": report,
        "explain": explain,
        "label": lambda: feedback.store(feedback.find(KNOWN, at), "benign", scratch / "store.csv"),
        "labels": lambda: read_labels(at / "labels.csv").count(at),
        "train": lambda: [encode(windows, schema) for windows in ZeekLogs([at])],
        "anonymise": lambda: anonymise(at, scratch / "anonymous", bytes(32)),
    }


def tried(at: Path, outcomes: Counter[str]) -> list[str]:
    """Every reader over one folder: the faults, in words."""
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, read in readers(at, Path(scratch)).items():
            begun = time.monotonic()
            sink = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # strict, as a terminal is
            try:
                with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                    read()
                outcomes[f"{name}: read"] += 1
            except CmdanaError:
                outcomes[f"{name}: refused in words"] += 1
            except Exception:  # noqa: BLE001  # a fault is what is looked for
                faults.append(f"{name}: {traceback.format_exc()}")
            if time.monotonic() - begun > SLOW:
                faults.append(f"{name}: {time.monotonic() - begun:.0f} s")
    return faults


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lines", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-logs-faults"), help="where inputs of faults go"
    )
    asked = parser.parse_args()
    outcomes: Counter[str] = Counter()
    known: Counter[str] = Counter()
    begun, done, worst = time.monotonic(), 0, 0.0
    while done < asked.lines:
        seed = asked.seed + done
        with tempfile.TemporaryDirectory() as name:
            at = Path(name)
            folder(random.Random(seed), at, LINES)
            before = time.process_time()
            faults = tried(at, outcomes)
            worst = max(worst, time.process_time() - before)
            for fault in faults:
                kind = fault.splitlines()[-1] + fault.split(":")[0]
                known[kind] += 1
                if known[kind] == 1:
                    print(f"seed {seed}: {fault}", flush=True)
                    kept = asked.keep / str(seed)
                    kept.mkdir(parents=True, exist_ok=True)
                    for file in at.iterdir():
                        (kept / file.name).write_bytes(file.read_bytes())
        done += LINES
    print(
        f"{done:,} lines in {time.monotonic() - begun:.0f} s, the slowest folder {worst:.2f} s of processor time"
    )
    for outcome, n in sorted(outcomes.items()):
        print(f"  {outcome} {n:,} times")
    print(f"faults: {sum(known.values())}")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
