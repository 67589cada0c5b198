"""The one loop over connections: each finds its five streams, is told what they were and are, and enters them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from cmdana_plugin.behaviour.clocks import evidence_after, gap_symbol, learn_hour, predicted, size_symbol
from cmdana_plugin.behaviour.clusters import cluster_of
from cmdana_plugin.behaviour.rhythm import RHYTHM, active_after, bits_set, rhythm
from cmdana_plugin.behaviour.tables import (
    ACCEPTED,
    ALPHABET,
    BITS,
    CONNS,
    DOMAIN,
    FAILED,
    GROUPS,
    HORIZONS,
    HOST,
    KINDS,
    ORIG,
    OTHERS,
    PAIR,
    PORTS,
    REFUSED,
    RESP,
    RING,
    SUMS,
    SUMS_OF,
    SYMBOLS,
    TARGET,
    UNANSWERED,
    USE,
    YOUNG,
    Groups,
    Marks,
    Rows,
    claimed,
    find,
    full,
    host_key,
    key_of,
    used_again,
)
from feature_extractors.compiled import borrowed, entry, helper

H: Final = len(HORIZONS)
# What a row tells of each kind of stream: places in its columns.
AT_SUMS: Final = 0
AT_SEEN: Final = SUMS * H
AT_AGE: Final = AT_SEEN + 1  # seconds since the first connection that was to be learned from
AT_GAP: Final = AT_AGE + 1  # seconds since the last, NaN for the first
AT_RHYTHM: Final = AT_GAP + 1  # as `rhythm` has them
AT_BITS: Final = AT_RHYTHM + RHYTHM  # that the slow clock needed
AT_GAIN: Final = AT_BITS + 1
AT_EVIDENCE: Final = AT_GAIN + 1
AT_MINUTES: Final = AT_EVIDENCE + 1  # of the last 64 in which it was there
AT_TENS: Final = AT_MINUTES + 1  # of the last 64 ten minutes
AT_SURPRISE: Final = AT_TENS + 1  # bits of the first contact
AT_ENTERED: Final = AT_SURPRISE + 1  # 1 where it is the first in its ten minutes; NaN of a look-up
AT_NEW: Final = AT_ENTERED + 1  # 1 where nobody here went there before the last day, when its host first did
WIDTH: Final = AT_NEW + 1

_HORIZONS: Final = np.array(HORIZONS)
# For compiled code: by kind, padded, with their numbers.
_SUMS_OF: Final = np.array([[*sums, *[0] * (SUMS - len(sums))] for sums in SUMS_OF])
_HOW_MANY: Final = np.array([len(sums) for sums in SUMS_OF])
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_YOUNG: Final = 3600.0  # seconds for which a pair is new
_SURE: Final = 0.5  # hosts that a coarser level weighs in how expected a contact is
LOOKUP: Final = 1  # the purpose that DNS has
_VISIT: Final = 2.0  # seconds of pause between connections of two visits
_TO_CLUSTER: Final = 8.0  # connections of a host before it belongs to a cluster


@helper
def _met(marks: Any, key: Any, now: Any) -> Any:
    """The slot of a mark; a new one is empty. The second value is 1 where another was evicted."""
    at = find(marks.keys, key)
    if at >= 0:
        used_again(marks.used, marks.worth, at, now, 1.0)
        return at, 0
    at, taken = claimed(marks.keys, marks.used, marks.worth, key, now)
    marks.keys[at] = key
    marks.used[at] = now
    marks.worth[at] = 1.0
    marks.value[at] = 0.0
    return at, 1 if taken else 0


@helper
def _share(count: Any, whole: Any, prior: Any) -> Any:
    return (count + _SURE * prior) / (max(whole, count) + _SURE)


@helper
def _surprise(marks: Any, groups: Any, cluster: Any, target: Any, use: Any, hosts: Any, now: Any) -> Any:
    """Bits by which a first contact was unexpected: of the target for the cluster's hosts, and of the service.

    A host like this one that uses the target, or the service, makes it likelier for all. The contact is counted.
    The second value counts marks that were evicted.
    """
    evicted = 0
    members = groups.members[cluster - 1] if cluster > 0 else 0.0
    kind = np.uint64(cluster + 1)
    a, e = _met(marks, key_of(use, np.uint64(3), 0), now)
    evicted += e
    of_service = _share(marks.value[a], hosts, 0.01)
    marks.value[a] = min(marks.value[a] + 1.0, 1e6)
    a, e = _met(marks, key_of(use, np.uint64(5), kind), now)
    evicted += e
    of_service = _share(marks.value[a], members, of_service)
    marks.value[a] = min(marks.value[a] + 1.0, 1e6)
    a, e = _met(marks, key_of(target, np.uint64(7), 0), now)
    evicted += e
    of_target = _share(marks.value[a], hosts, 0.1 * of_service)
    marks.value[a] = min(marks.value[a] + 1.0, 1e6)
    a, e = _met(marks, key_of(target, np.uint64(9), kind), now)
    evicted += e
    of_target = _share(marks.value[a], members, of_target)
    marks.value[a] = min(marks.value[a] + 1.0, 1e6)
    return -np.log2(max(of_target, 1e-9)), evicted


@helper
def _group_of(groups: Any, key: Any, now: Any) -> Any:
    at = find(groups.keys, key)
    if at < 0:
        at, _ = claimed(groups.keys, groups.used, groups.worth, key, now)
        groups.keys[at] = key
        groups.used[at] = now
        groups.worth[at] = 0.0
        groups.slow[at] = 0.0
    used_again(groups.used, groups.worth, at, now, 1.0)
    return at


@helper
def _fading(elapsed: Any, out: Any) -> None:
    """What is left of a sum over each horizon: the shorter ones as powers of the longest."""
    week = np.exp(-elapsed / _HORIZONS[H - 1])
    x2 = week * week
    day = x2 * x2 * x2 * week
    x2 = day * day
    x4 = x2 * x2
    x8 = x4 * x4
    hour = x8 * x8 * x8
    x2 = hour * hour
    ten = x2 * x2 * x2
    x2 = ten * ten
    x4 = x2 * x2
    out[4], out[3], out[2], out[1], out[0] = week, day, hour, ten, x4 * x4 * x2


@helper
def _borrowed(r: Any) -> Any:
    return Rows(
        borrowed(r.keys), borrowed(r.used), borrowed(r.worth), borrowed(r.ends), borrowed(r.first), borrowed(r.seen),
        borrowed(r.hour), borrowed(r.held), borrowed(r.visits),
        borrowed(r.visited), borrowed(r.sums), borrowed(r.ring),
        borrowed(r.codes), borrowed(r.slow), borrowed(r.active), borrowed(r.slot_of),
    )  # fmt: skip


@helper
def _empty(rows: Any, at: Any, key: Any, now: Any) -> None:
    rows.keys[at] = key
    rows.used[at] = now
    rows.worth[at] = 0.0
    rows.first[at] = -1.0
    rows.seen[at] = 0.0
    rows.hour[at] = 0
    rows.held[at] = 0.0
    rows.visits[at] = 0.0
    rows.visited[at] = 0.0
    rows.sums[at] = 0.0
    rows.slow[at] = 0.0
    rows.active[at] = 0
    rows.slot_of[at] = 0


@entry
def walk(  # type: ignore[no-untyped-def]
    begin, ts, end, orig, resp, port, proto, use, use_bin, failed, answered, duration, orig_bytes, resp_bytes,
    accepted, refused, domain, bits, teach, tables, shared, met, alike, may_grow, clock, evicted, told,
):  # fmt: skip
    """Connections from `begin` on. Returns how far it came, and which table must grow before it can go on.

    `tables` are the rows of each kind, `shared` their groups, `met` when a host met another or a port last, `alike` how
    many met; `clock` [2] the time and the hosts so far; `evicted` [KINDS + 2] is added to; `told` [n, KINDS, WIDTH].
    """
    kinds = (
        _borrowed(tables[0]), _borrowed(tables[1]), _borrowed(tables[2]), _borrowed(tables[3]), _borrowed(tables[4]),
    )  # fmt: skip
    groups = Groups(
        borrowed(shared.keys), borrowed(shared.used), borrowed(shared.worth), borrowed(shared.slow),
        borrowed(shared.centre), borrowed(shared.members),
    )  # fmt: skip
    meetings = Marks(borrowed(met.keys), borrowed(met.used), borrowed(met.worth), borrowed(met.value))
    likes = Marks(borrowed(alike.keys), borrowed(alike.used), borrowed(alike.worth), borrowed(alike.value))
    out = borrowed(told)
    keys = np.zeros(KINDS, np.uint64)
    slots = np.zeros(KINDS, np.int64)
    fading, unmet, met_again = np.zeros(H), np.zeros(H), np.zeros((2, H))
    more = np.zeros(SUMS)
    symbols = np.zeros(SYMBOLS, np.int64)
    scratch = np.zeros(RING)
    for i in range(begin, len(end)):
        now = end[i] if abs(end[i]) < 1e12 else clock[0]  # NaN neither
        began = ts[i] if abs(ts[i]) < 1e12 else now
        target = key_of(resp[i], np.uint64(proto[i]), port[i])
        keys[PAIR] = key_of(orig[i], resp[i], port[i] * 256 + proto[i])
        keys[USE] = key_of(orig[i], np.uint64(1), use[i])
        keys[TARGET] = target
        lookup = 1 if use_bin[i] == LOOKUP else 0  # looking a name up is not yet going there
        keys[DOMAIN] = key_of(orig[i], domain[i], lookup) if domain[i] != 0 else np.uint64(0)
        name = key_of(domain[i], np.uint64(17), lookup)
        keys[HOST] = host_key(orig[i])
        to = key_of(orig[i], resp[i], 2)
        on = key_of(orig[i], np.uint64(11), port[i] * 256 + proto[i])
        # Places first: whoever has none and whose table may grow stops the walk before anything is changed.
        for k in range(KINDS):
            slots[k] = find(kinds[k].keys, keys[k]) if keys[k] != 0 else -1
            if slots[k] < 0 and keys[k] != 0 and may_grow[k] and full(kinds[k].keys, keys[k]):
                return i, k
        if may_grow[KINDS] and (
            (find(meetings.keys, to) < 0 and full(meetings.keys, to))
            or (find(meetings.keys, on) < 0 and full(meetings.keys, on))
        ):
            return i, KINDS
        clock[0] = now
        for k in range(KINDS):
            if keys[k] == 0 or slots[k] >= 0:
                continue
            rows = kinds[k]
            at, taken = claimed(rows.keys, rows.used, rows.worth, keys[k], now)
            if taken:
                evicted[k] += 1
            if k == HOST:
                if taken:
                    clock[1] -= 1.0
                    was = int(rows.held[at, 2])
                    if was > 0:
                        groups.members[was - 1] -= 1.0
                clock[1] += 1.0
            _empty(rows, at, keys[k], now)
            slots[k] = at
        pairs, hosts = kinds[PAIR], kinds[HOST]
        pair, host = slots[PAIR], slots[HOST]
        cluster = int(hosts.held[host, 2])
        teaches = teach[i]
        if pairs.seen[pair, 0] == 0.0:
            surprise, e = _surprise(likes, groups, cluster, target, np.uint64(use[i]), clock[1], now)
            evicted[KINDS + 1] += e
            pairs.held[pair, 1] = surprise
        if domain[i] != 0 and kinds[DOMAIN].seen[slots[DOMAIN], 0] == 0.0:
            surprise, e = _surprise(likes, groups, cluster, name, np.uint64(1 << 40 | lookup), clock[1], now)
            evicted[KINDS + 1] += e
            kinds[DOMAIN].held[slots[DOMAIN], 1] = surprise
            m, e = _met(likes, key_of(name, np.uint64(19), 0), now)
            evicted[KINDS + 1] += e
            if likes.value[m] == 0.0:
                likes.value[m] = now
            kinds[DOMAIN].held[slots[DOMAIN], 3] = 1.0 if now - likes.value[m] < _DAY else 0.0
        surprise = np.float64(pairs.held[pair, 1])
        first_contact = pairs.seen[pair, 0] == 0.0
        since = max(now - pairs.used[pair], 0.0)
        age = max(now - pairs.first[pair], 0.0) if pairs.first[pair] >= 0.0 else 0.0
        young = 1.0 if age < _YOUNG else 0.0
        newness = (2 if surprise > 4.0 else 1) if young > 0.0 else 0
        bad = 1.0 if failed[i] else 0.0
        more[CONNS], more[FAILED], more[REFUSED], more[ACCEPTED] = 1.0, bad, refused[i], accepted[i]
        more[ORIG], more[RESP], more[YOUNG] = orig_bytes[i], resp_bytes[i], young
        # What had not been met in a horizon counts as one more.
        _fading(since, unmet)
        for h in range(H):
            unmet[h] = 1.0 if first_contact else 1.0 - unmet[h]
        for j in range(2):
            m, e = _met(meetings, to if j == 0 else on, now)
            evicted[KINDS] += e
            _fading(max(now - meetings.value[m], 0.0) if meetings.value[m] > 0.0 else 1e12, fading)
            for h in range(H):
                met_again[j, h] = 1.0 - fading[h]
            meetings.value[m] = max(now, meetings.value[m])
        for k in range(KINDS):
            if keys[k] == 0:
                for c in range(WIDTH):
                    out[i, k, c] = np.nan
                continue
            rows, at = kinds[k], slots[k]
            fresh = rows.seen[at, 0] == 0.0
            group = _group_of(
                groups,
                key_of(
                    np.uint64(k + 1),
                    np.uint64(0 if k == TARGET else cluster + 1),
                    0 if k in (HOST, DOMAIN) else use[i] + 1,
                ),
                now,
            )
            every = GROUPS + k
            elapsed = max(now - rows.used[at], 0.0)
            # The slow clock learns the hour that is over.
            hour = int(np.floor(now / _HOUR))
            if fresh:
                rows.hour[at] = hour
            elif hour > rows.hour[at]:
                if rows.slow[at, 1, 0, ALPHABET] > 0.0:  # it held something to be learned from
                    if k == HOST and rows.seen[at, 1] >= _TO_CLUSTER:
                        rows.held[at, 2] = cluster_of(
                            rows.slow[at, 0, 1] + rows.slow[at, 1, 1], cluster, groups.centre, groups.members
                        )
                    learn_hour(rows.slow[at, 0], groups.slow[group], groups.slow[every], rows.slow[at, 1])
                rows.hour[at] = hour
            # The sums, with this connection in them.
            _fading(elapsed, fading)
            more[BITS] = bits[i] if k == DOMAIN else (surprise if first_contact else 0.0)
            row = out[i, k]
            for j in range(_HOW_MANY[k]):
                s = _SUMS_OF[k, j]
                for h in range(H):
                    value = rows.sums[at, s, h] * fading[h]
                    if s == OTHERS:
                        value += met_again[0, h] if k == HOST else unmet[h]
                    elif s == PORTS:
                        value += met_again[1, h]
                    else:
                        value += more[s]
                    rows.sums[at, s, h] = value
                    row[AT_SUMS + s * H + h] = value
            # The ring and the clocks.
            have = int(min(rows.seen[at, 0], RING))
            place = int(rows.seen[at, 0]) & (RING - 1)
            last = (place - 1) & (RING - 1)
            gap = -1.0 if fresh else max(began - rows.ends[at], 0.0)
            symbols[0] = ALPHABET - 1 if fresh else gap_symbol(gap)
            if k == PAIR:
                symbols[1], symbols[2] = size_symbol(orig_bytes[i]), size_symbol(resp_bytes[i])
            elif k == HOST:
                symbols[1], symbols[2] = use_bin[i], newness * 2 + int(bad)
            else:
                symbols[1], symbols[2] = newness * 2 + int(bad), size_symbol(orig_bytes[i])
            if k != DOMAIN:
                row[AT_BITS], row[AT_GAIN] = predicted(
                    rows.slow[at, 0],
                    groups.slow[group],
                    groups.slow[every],
                    rows.codes[at],
                    have,
                    last,
                    symbols,
                )
                rows.held[at, 0] = evidence_after(rows.held[at, 0], elapsed, row[AT_GAIN])
                row[AT_EVIDENCE] = rows.held[at, 0]
                for s in range(SYMBOLS):
                    rows.codes[at, place, s] = symbols[s]
                    if teaches:
                        rows.slow[at, 1, s, symbols[s]] += 1.0
                        rows.slow[at, 1, s, ALPHABET] += 1.0
            if k in (PAIR, USE, DOMAIN):
                # Connections at once are one visit.
                visits = rows.visits[at]
                pause = max(began - rows.visited[at], 0.0) if visits > 0.0 else -1.0
                if visits == 0.0 or pause >= _VISIT:
                    v = int(visits) & (RING - 1)
                    rows.ring[at, v, 0] = pause
                    rows.ring[at, v, 1] = orig_bytes[i]
                    visits += 1.0
                    rows.visits[at] = visits if visits < 1e6 else visits - 1e6 + 1e5
                    rows.visited[at] = began
                else:
                    rows.ring[at, (int(visits) - 1) & (RING - 1), 1] += orig_bytes[i]
                have = int(min(rows.visits[at], RING))
                rhythm(rows.ring[at], have, scratch, row[AT_RHYTHM : AT_RHYTHM + RHYTHM])
            if k in (PAIR, DOMAIN):
                entered = fresh or int(np.floor(began / 600.0)) > rows.slot_of[at, 1]
                row[AT_ENTERED] = np.nan if lookup else (1.0 if entered else 0.0)
                served = kinds[TARGET].first[slots[TARGET]]
                if k == DOMAIN:
                    row[AT_NEW] = rows.held[at, 3]
                else:
                    row[AT_NEW] = 1.0 if served < 0.0 or now - served < _DAY else 0.0
                for r in range(2):
                    slot = int(np.floor(began / (60.0 if r == 0 else 600.0)))
                    rows.active[at, r] = active_after(rows.active[at, r], rows.slot_of[at, r], slot)
                    rows.slot_of[at, r] = max(slot, rows.slot_of[at, r])
                row[AT_MINUTES] = bits_set(rows.active[at, 0])
                row[AT_TENS] = bits_set(rows.active[at, 1])
            row[AT_SEEN] = min(rows.seen[at, 0], 1e6)
            row[AT_AGE] = max(now - rows.first[at], 0.0) if rows.first[at] >= 0.0 else 0.0
            row[AT_GAP] = np.nan if fresh else gap
            row[AT_SURPRISE] = rows.held[at, 1] if k == DOMAIN else surprise
            # It has been seen.
            if teaches and rows.first[at] < 0.0:
                rows.first[at] = now
            rows.ends[at] = began if fresh else max(began, rows.ends[at])
            seen = rows.seen[at, 0] + 1.0
            rows.seen[at, 0] = seen if seen < 1e6 else seen - 1e6 + 1e5
            rows.seen[at, 1] = min(rows.seen[at, 1] + (1.0 if teaches else 0.0), 1e6)
            worth = (1.0 if answered[i] else UNANSWERED) + hosts.held[host, 3]
            used_again(rows.used, rows.worth, at, now, worth)
    return len(end), -1
