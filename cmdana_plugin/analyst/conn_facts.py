"""A connection as the page and `explain` say it: a row of conn.log in words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cmdana_plugin.analyst import units
from cmdana_plugin.logs import Field, number, text
from feature_extractors import CONN_STATES, Connections


def record(c: Connections, i: int) -> Mapping[str, Field]:
    """What `facts` says of connection `i`, as the row of conn.log has it."""
    counts = {"orig_bytes": int(c.orig_bytes[i]), "resp_bytes": int(c.resp_bytes[i])}
    row: dict[str, Field] = {name: n for name, n in counts.items() if n >= 0}
    if not math.isnan(c.duration[i]):
        row["duration"] = float(c.duration[i])
    if c.conn_state[i] >= 0:
        row["conn_state"] = CONN_STATES[c.conn_state[i]]
    row["history"] = c.history[i].decode("ascii")
    return row


def facts(row: Mapping[str, Field]) -> str:
    """A row of conn.log in words: how long, how much, state and history."""
    parts = []
    if row.get("duration") is not None:
        parts.append(f"lasted {units.span(number(row, 'duration'))}")
    if row.get("orig_bytes") is not None or row.get("resp_bytes") is not None:
        parts.append(
            f"sent {units.size(number(row, 'orig_bytes'))}, got {units.size(number(row, 'resp_bytes'))}"
        )
    if row.get("conn_state"):
        parts.append(f"state {text(row, 'conn_state')}")
    if row.get("history"):
        parts.append(f"history {text(row, 'history')}")
    return ", ".join(parts)
