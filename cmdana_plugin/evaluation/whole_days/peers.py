"""What others would have told of the same days: RITA's analysers and Zeek's own scripts, by their published formulas.

Formulas, not the programs: RITA 5 needs a ClickHouse server, and Zeek's scripts a Zeek, where a day of connections and
their log entries is all that is at hand. Thresholds are the documented defaults. What a program itself said of a day
can be put beside the recording (`programs`) and is counted in the same tables.

RITA (github.com/activecm/rita v5.1, analysis/beacons.go, analysis.go, default_config.hjson, GPL-3.0): for each pair of
an inner host and an outer address or server name of a day, the mean of four scores (Bowley's skewness and median
absolute deviation of intervals and of sent bytes, hours seen, and how even the histogram of 24 bins is); the summed
duration of the pair; subdomains asked for of a domain; and how few inner hosts talk to it. Run at each full hour on the
24 hours before it, of which the day so far is what there is. What it gives for lists of known threats, rare signatures
and mismatched MIME types is left out.

Zeek: policy/misc/scan.zeek (as of 6.0; removed in 6.1), policy/protocols/{ssh,ftp}/detect-bruteforcing.zeek of 8.2.2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.evaluation.whole_days.alarms import Alarm, Truth
from cmdana_plugin.logs import LocalNets
from feature_extractors import CONN_STATES, Windows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LOCAL: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")  # RITA's internal_subnets


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody else's detector: alarms of a day by score, and the score from which on it tells by default."""

    words: str  # what it is, for the page
    alarms: Callable[[Windows, Truth], list[Alarm]]
    default: float
    levels: tuple[float, ...]  # thresholds of its curve


# RITA: what its scores are made of


def quartiles(x: Floats) -> tuple[float, float, float]:
    """Medians of the lower half, the whole and the upper half of a rising sample; an odd middle is in neither half."""
    n = len(x)
    return float(np.median(x[: n // 2])), float(np.median(x)), float(np.median(x[(n + 1) // 2 :]))


def evenness(x: Floats, otherwise: float) -> float:
    """Of intervals or sizes, 0..1: symmetric (Bowley) and close to their median; `otherwise` for a median below 1."""
    x = np.sort(x)
    q1, q2, q3 = quartiles(x)
    skewness = (q1 + q3 - 2.0 * q2) / (q3 - q1) if q3 - q1 >= 10.0 and q2 not in (q1, q3) else 0.0
    spread = float(np.median(np.abs(x - q2)))
    close = max((q2 - spread) / q2, 0.0) if q2 >= 1.0 else otherwise
    return round((1.0 - abs(skewness) + close) / 2.0, 3)


def histogram_score(counts: NDArray[np.int64], sensitivity: float = 0.05, outliers: int = 1) -> float:
    """How even the bars of a day are: the better of a small coefficient of variation and two heights."""
    cv = float(counts.std() / counts.mean())
    flat = round(max(1.0 - cv, 0.0), 3)
    bars = counts[counts > 0]
    if len(bars) < 11:
        return flat
    width = math.ceil(int(counts.max()) * sensitivity)
    heights = np.sort(np.unique(bars // width, return_counts=True)[1])[::-1]
    two = round(float(heights[:2].sum()) / max(len(bars) - outliers, 1), 3)
    return max(flat, min(two, 1.0))


def duration_score(counts: NDArray[np.int64], covered: float, least: int = 6, ideal: int = 12) -> float:
    """How much of the day, or how many hours in a row, a pair was at it; 0 under six bars."""
    if (counts > 0).sum() < least:
        return 0.0
    longest = run = 0
    for count in np.concatenate([counts, counts]):
        run = run + 1 if count else 0
        longest = max(longest, run)
    in_a_row = min(longest, len(counts)) / ideal
    return max(min(math.ceil(covered * 1000) / 1000, 1.0), min(math.ceil(in_a_row * 1000) / 1000, 1.0))


def beacon_score(ts: Floats, sent: Floats, first: float, last: float) -> float:
    """0..1 of a pair's connections over 24 hours from `first` to `last`; NaN where there are too few to say."""
    seconds = np.sort(np.floor(ts))
    gaps = np.diff(seconds)
    gaps = gaps[gaps > 0]
    if len(np.unique(seconds)) < 4 or len(gaps) < 3 or last <= first:
        return float("nan")
    counts = np.histogram(seconds, bins=24, range=(math.floor(first), max(math.floor(last), seconds[-1])))[0]
    covered = (seconds[-1] - seconds[0]) / (last - first)
    parts = (
        evenness(gaps, 1.0), evenness(sent, 0.0), duration_score(counts, covered), histogram_score(counts)
    )  # fmt: skip
    return round(float(np.mean(parts)), 3)


def severity(value: float, base: float, low: float, medium: float, high: float) -> float:
    """A value on RITA's common scale: .2 at `base`, .4 at `low`, .6 at `medium`, .8 at `high` and above; else 0."""
    if not value >= base:
        return 0.0
    return float(np.interp(value, (base, low, medium, high), (0.2, 0.4, 0.6, 0.8)))


HIGH: Final = 0.6  # from which on RITA says "high"
_BEACON: Final = (0.5, 0.7, 0.9, 1.0)
_LONG: Final = (3600.0, 14400.0, 28800.0, 43200.0)
_SUBDOMAINS: Final = (100.0, 500.0, 800.0, 1000.0)
_RARE, _COMMON, _MODIFIER = 0.02, 0.5, 0.15
_STROBE: Final = 86_400  # connections of a pair in a day that are no beacon but a strobe


@dataclass(frozen=True, slots=True)
class _Pair:
    """An inner host and an outer address or name, and their connections in order of their ends."""

    host: str
    other: str
    rows: Rows


def rita(windows: Windows, truth: Truth, only: str = "") -> list[Alarm]:
    """The alarms of its list at each full hour; `only` one analyser: beacon, long or dns."""
    if not len(truth):
        return []
    alarms: list[Alarm] = []
    first = float(truth.ts.min())
    local = LocalNets(_LOCAL)
    inside = np.array([local(a) for a in truth.orig.tolist()], np.bool_)
    outward = inside & ~np.array([local(a) for a in truth.resp.tolist()], np.bool_) & truth.final
    size = len(set(truth.orig[inside].tolist())) or 1
    if only in ("", "beacon", "long"):
        for pair, talkers in _pairs(windows, truth, np.flatnonzero(outward)):
            alarms += _of_pair(windows, truth, pair, first, talkers / size, only)
    if only in ("", "dns"):
        alarms += _of_domains(windows, truth, size, first)
    return alarms


def _of_pair(
    windows: Windows, truth: Truth, pair: _Pair, first: float, prevalence: float, only: str
) -> Iterator[Alarm]:
    c = windows.connections
    rows = pair.rows
    ts, end, sent = truth.ts[rows], truth.end[rows], c.orig_ip_bytes[rows].astype(np.float64)
    took = np.cumsum(np.nan_to_num(np.maximum(c.duration[rows], 0.0)))
    seconds = np.floor(ts)
    if len(np.unique(seconds)) < 4 and took[-1] < _LONG[0]:
        return
    best = 0.0
    hour = np.ceil((end - first) / 3600.0)
    for h in np.unique(hour):
        n = int(np.searchsorted(hour, h, side="right"))
        now = first + float(h) * 3600.0
        scores = [0.0]
        if only in ("", "beacon") and n < _STROBE:
            scores.append(severity(beacon_score(ts[:n], sent[:n], now - 86400.0, now), *_BEACON))
        elif only in ("", "beacon"):
            scores.append(0.8)
        if only in ("", "long"):
            scores.append(severity(float(took[n - 1]), *_LONG))
        score = max(scores)
        if score > 0.0:
            score += _MODIFIER * ((prevalence <= _RARE) - float(prevalence >= _COMMON))
        if score > best:
            best = score
            yield Alarm(now, pair.host, "originator", score, rows[:n], f"{pair.host}|{pair.other}")


def _pairs(windows: Windows, truth: Truth, rows: Rows) -> Iterator[tuple[_Pair, int]]:
    """By server name where a connection tells one, else by address, with how many inner hosts talk to the other."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in rows[np.argsort(truth.end[rows], kind="stable")].tolist():
        names = {
            str(said)
            for e in windows.logs[windows.log_start[i] : windows.log_start[i + 1]]
            if (said := e.fields.get({"http": "host", "ssl": "server_name"}.get(e.stream, "")))
        }
        for name in names or {str(truth.resp[i])}:
            members[str(truth.orig[i]), name].append(i)
    talkers: dict[str, int] = defaultdict(int)
    for _, other in members:
        talkers[other] += 1
    for (host, other), mine in members.items():
        yield _Pair(host, other, np.array(mine, np.int64)), talkers[other]


def _of_domains(windows: Windows, truth: Truth, size: int, first: float) -> Iterator[Alarm]:
    """A domain of which many names are asked for; it names the inner host that asked most of them."""
    asked: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for i in np.argsort(truth.end, kind="stable").tolist():
        if not truth.final[i]:
            continue
        for e in windows.logs[windows.log_start[i] : windows.log_start[i + 1]]:
            name = str(e.fields.get("query") or "").lower().rstrip(".") if e.stream == "dns" else ""
            if name.count(".") > 1:
                asked[".".join(name.split(".")[-2:])].append((truth.end[i], i, name))
    for domain, questions in asked.items():
        if len({name for _, _, name in questions}) < _SUBDOMAINS[0]:
            continue
        hosts: dict[str, int] = defaultdict(int)
        for _, i, _ in questions:
            hosts[str(truth.orig[i])] += 1
        rare = len(hosts) / size
        names: set[str] = set()
        best, due = 0.0, 0.0
        so_far: list[int] = []
        for k, (end, i, name) in enumerate(questions):
            names.add(name)
            so_far.append(i)
            now = first + math.ceil((end - first) / 3600.0) * 3600.0
            following = questions[k + 1][0] if k + 1 < len(questions) else math.inf
            if following <= now or now <= due:
                continue
            due = now
            score = severity(float(len(names)), *_SUBDOMAINS)
            score += _MODIFIER * ((rare <= _RARE) - float(rare >= _COMMON)) if score else 0.0
            if score > best:
                best = score
                most = max(hosts, key=lambda h: hosts[h])
                yield Alarm(now, most, "originator", score, np.unique(so_far), f"dns|{domain}")


_EVERY: Final = (
    40  # a sum up to this raises an alarm at each step, so at any threshold; a greater one as it grows
)

# Zeek's own scripts: sums over fixed stretches of time, one notice when a sum crosses its threshold


def _counted(
    truth: Truth,
    rows: Iterable[int],
    key: Callable[[int], str],
    what: Callable[[int], str],
    epoch: float,
    kind: str,
) -> Iterator[Alarm]:
    """Alarms as the number of different `what` of a key grows within an epoch; the score is that number."""
    first = float(truth.ts.min())
    due: dict[tuple[int, str], int] = {}
    seen: dict[tuple[int, str], dict[str, None]] = {}
    basis: dict[tuple[int, str], list[int]] = {}
    for i in rows:
        number = int((truth.end[i] - first) // epoch)
        group = number, key(i)
        names = seen.setdefault(group, {})
        basis.setdefault(group, []).append(i)
        names[what(i)] = None
        n = len(names)
        if n > 1 and n >= due.get(group, 2):
            due[group] = n + 1 if n < _EVERY else n + n // 4
            mine = np.array(basis[group], np.int64)
            yield Alarm(
                float(truth.end[i]),
                str(truth.orig[i]),
                "originator",
                float(n),
                mine,
                f"{kind}|{number}|{group[1]}",
            )


_FAILED: Final = frozenset(CONN_STATES.index(s) for s in ("S0", "REJ", "RSTR", "RSTRH", "SH"))


def zeek_scan(windows: Windows, truth: Truth) -> list[Alarm]:
    """25 hosts on a port, or 15 ports of a host, that failed within five minutes; as shares of these thresholds.

    Failed are TCP connections that were never answered, refused, or reset before any data.
    """
    if not len(truth):
        return []
    c = windows.connections
    empty = np.array([not set(b"Dd") & set(h) for h in c.history.tolist()], np.bool_)
    reset = np.isin(c.conn_state, [CONN_STATES.index(s) for s in ("RSTO", "RSTR", "RSTOS0", "RSTRH")])
    tried = np.isin(c.conn_state, [CONN_STATES.index(s) for s in ("S0", "REJ")])
    failed = np.flatnonzero((c.ip_proto == 6) & truth.final & (tried | (reset & empty)))
    failed = failed[np.argsort(truth.end[failed], kind="stable")]
    port = c.resp_p
    hosts = _counted(
        truth,
        failed.tolist(),
        lambda i: f"{truth.orig[i]}|{port[i]}",
        lambda i: str(truth.resp[i]),
        300.0,
        "hosts",
    )
    ports = _counted(
        truth,
        failed.tolist(),
        lambda i: f"{truth.orig[i]}|{truth.resp[i]}",
        lambda i: str(port[i]),
        300.0,
        "ports",
    )
    return [*_scaled(hosts, 25.0), *_scaled(ports, 15.0)]


def zeek_guessing(windows: Windows, truth: Truth) -> list[Alarm]:
    """30 failed SSH logins of a host in 30 minutes, or 20 refused FTP logins in 15; as shares of these thresholds."""
    if not len(truth):
        return []
    ssh: list[int] = []
    ftp: list[int] = []
    for i in np.argsort(truth.end, kind="stable").tolist():
        if not truth.final[i]:
            continue
        for e in windows.logs[windows.log_start[i] : windows.log_start[i + 1]]:
            if e.stream == "ssh" and e.fields.get("auth_success") is False:
                ssh.append(i)
            elif e.stream == "ftp" and str(e.fields.get("reply_code", "")).startswith("5"):
                ftp += [i] * (e.fields.get("command") in ("USER", "PASS"))
    many = np.arange(len(truth)).astype(str)
    return [
        *_scaled(_counted(truth, ssh, lambda i: str(truth.orig[i]), lambda i: many[i], 1800.0, "ssh"), 30.0),
        *_scaled(_counted(truth, ftp, lambda i: str(truth.orig[i]), lambda i: many[i], 900.0, "ftp"), 20.0),
    ]


def _scaled(alarms: Iterable[Alarm], threshold: float) -> Iterator[Alarm]:
    for a in alarms:
        yield Alarm(a.ts, a.host, a.role, a.score / threshold, a.rows, a.key)


def zeek(windows: Windows, truth: Truth) -> list[Alarm]:
    return [*zeek_scan(windows, truth), *zeek_guessing(windows, truth)]


_RITAS: Final = tuple(float(x) for x in np.arange(95, 0, -5) / 100.0)
_SHARES: Final = (50.0, 20.0, 10.0, 5.0, 3.0, 2.0, 1.5, 1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)

PEERS: Final[Mapping[str, Peer]] = {
    "rita": Peer(
        "RITA 5's beacon, long-connection and DNS formulas, the highest of a pair", rita, HIGH, _RITAS
    ),
    "rita-beacon": Peer("its beacon formula alone", partial(rita, only="beacon"), HIGH, _RITAS),
    "rita-long": Peer("its long-connection formula alone", partial(rita, only="long"), HIGH, _RITAS),
    "rita-dns": Peer("its C2-over-DNS formula alone", partial(rita, only="dns"), HIGH, _RITAS),
    "zeek-scripts": Peer("scan, SSH and FTP guessing scripts of Zeek together", zeek, 1.0, _SHARES),
    "zeek-scan": Peer("scan.zeek alone", zeek_scan, 1.0, _SHARES),
    "zeek-guessing": Peer("detect-bruteforcing.zeek of SSH and FTP alone", zeek_guessing, 1.0, _SHARES),
}
