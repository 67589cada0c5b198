"""Archives of made-up Zeek logs: days in folders, one of JSON, one of packed TSV."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from made_windows import office

from cmdana_plugin.logs import CONN, LocalNets, LogWriter, conn_columns
from cmdana_plugin.logs.streams import words_of
from feature_extractors import Windows, address_texts, take

LOCAL = LocalNets(["10.0.0.0/8"])


def archive(folder: Path, n: int = 1500, scan: int = 60, seed: int = 1) -> Windows:
    """Writes two days below `folder`; their connections in the order of their ends."""
    windows = office(n, seed=seed, scan=scan, gap=120.0)
    c = windows.connections
    windows = take(windows, np.argsort(c.end, kind="stable"))
    half = len(windows.connections) // 2
    for day, rows, fmt in (("2026-01-01", range(half), "json"), ("2026-01-02", range(half, len(c)), "tsv")):
        _write(folder / day, take(windows, np.array(rows)), fmt)
    return windows


def _write(folder: Path, windows: Windows, fmt: Any) -> None:
    folder.mkdir(parents=True)
    c = windows.connections
    log = LogWriter(folder, CONN, fmt)
    log.write_columns(conn_columns(c, words_of(c), LOCAL), float(c.end[-1]), float(c.end[0]))
    log.close()
    if fmt == "tsv":
        (folder / "conn.log.gz").write_bytes(gzip.compress((folder / "conn.log").read_bytes()))
        (folder / "conn.log").unlink()
    orig, resp = address_texts(c.orig_h), address_texts(c.resp_h)
    lines: dict[str, list[str]] = {}
    for i, uid in enumerate(c.uid.tolist()):
        for entry in windows.logs[windows.log_start[i] : windows.log_start[i + 1]]:
            row = {"ts": entry.ts, "uid": uid.decode(), "id.orig_h": orig[i], "id.resp_h": resp[i]}
            row |= {"id.orig_p": int(c.orig_p[i]), "id.resp_p": int(c.resp_p[i]), **entry.fields}
            lines.setdefault(entry.stream, []).append(json.dumps(row))
    for stream, some in lines.items():
        (folder / f"{stream}.log").write_text("\n".join(some) + "\n")
