"""Whether the traffic has moved away from what the model learned: p-values that no longer mean what they say.

On benign traffic like that of the calibration at most one connection in ten has a p-value of 0.1 or less, one in a
hundred of 0.01 (ties make it fewer, never more). Where that fails for hours, over many hosts, for one kind of
traffic, it is not one host that misbehaves but the model that no longer describes the network, and the alert budget
no longer holds. Time is network time, memory is fixed, every host counts for a bounded share of a window, and the
oddest hosts are left out, so that a scan is an incident and not a drift.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Drift
from cmdana_plugin.decision.notice import TRAFFIC_DRIFT, Notice, TrafficDrift
from cmdana_plugin.detector import Scores
from cmdana_plugin.statefile import column, of_text, packed, text_array, unpacked
from feature_extractors import PROTO_NAMES, Stage
from feature_extractors.compiled import entry, hashed, new_key
from feature_extractors.features import Encoded

TAILS: Final = (0.1, 0.01)  # p-values at which the share of connections is compared with the nominal one
_FIRST_UNPRIVILEGED_PORT: Final = 1024  # the lowest port that is nobody's in particular
_MAX_STRATA: Final = 512  # services and well-known ports of a window; the rest share one
# originators by kind of traffic in a window; one that finds no slot does not count
_ORIGINATOR_SLOTS: Final = 1 << 16
_MAX_PROBES: Final = 16  # slots that an originator may take
_MIN_SIGMAS: Final = 3.0  # standard deviations by which the share must exceed what is tolerated
_NAMED_COMPONENTS: Final = 2  # at most, of a notice
_NAMED_SHARE: Final = 0.2  # of the connections above which a component's being odd is named


@dataclass(frozen=True, slots=True)
class Lift:
    """The observed over the nominal share of small p-values of one kind of traffic in the last whole window."""

    connections: int  # that counted
    hosts: int
    lift: float  # times the nominal share at TAILS[tail], without the oddest hosts; about 1 on traffic as calibrated
    tail: int
    moved: bool  # by more than is tolerated and chance explains


class DriftMonitor:
    """Calibration monitor: p-values in, `CMDANA::Traffic_Drift` notices out, from the shares of small p-values by kind
    and window.
    """

    def __init__(self, settings: Drift, components: Collection[str]) -> None:
        """`components` are those of a score that can be named as what has moved."""
        self.lifts: Mapping[str, Lift] = {}  # by kind of traffic, of the last whole window
        self._settings = settings
        self._named = components
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._window = -(2**62)  # number of the window that is being counted
        self._components: tuple[str, ...] = ()
        self._n = np.zeros(_MAX_STRATA, np.int64)
        self._hosts = np.zeros(_MAX_STRATA, np.int64)
        self._tails = np.zeros((_MAX_STRATA, len(TAILS)), np.int64)
        self._odd = np.zeros((_MAX_STRATA, 0), np.int64)  # connections whose component has p <= 0.1
        self._owner = np.zeros(_ORIGINATOR_SLOTS, np.int16)  # stratum of the originator of each slot
        self._slot_key = np.zeros(_ORIGINATOR_SLOTS, np.uint64)  # the keyed hash of the originator
        self._key = new_key()
        self._used = np.zeros(_ORIGINATOR_SLOTS, np.uint16)  # its connections that counted
        self._used_tails = np.zeros((_ORIGINATOR_SLOTS, len(TAILS)), np.uint16)  # those of them in each tail
        self._streak: dict[int, int] = {}  # stratum -> windows in a row that have drifted
        self._raised: dict[int, float] = {}  # stratum -> network time of its last notice

    def state(self) -> dict[str, NDArray[Any]]:
        """What the present window has come to, as arrays by name."""
        kinds = {
            "key": list(self._key),
            "names": self._names,
            "window": self._window,
            "components": self._components,
            "streak": list(self._streak.items()),
            "raised": list(self._raised.items()),
        }
        counts = {"n": self._n, "hosts": self._hosts, "tails": self._tails, "odd": self._odd}
        return (
            {name: array.copy() for name, array in counts.items()}
            | packed("originators", self._used, self._originators())
            | {"kinds": text_array(kinds)}
        )

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a `state`. Raises `ValueError` where it is none."""
        originators = unpacked("originators", state, self._originators(), [_ORIGINATOR_SLOTS])
        kinds = of_text(state, "kinds")
        try:
            key, names = tuple(int(x) for x in kinds["key"]), [str(name) for name in kinds["names"]]
            window, components = int(kinds["window"]), tuple(str(c) for c in kinds["components"])
            streak = {int(code): int(n) for code, n in kinds["streak"]}
            raised = {int(code): float(ts) for code, ts in kinds["raised"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"drift: found no {error}") from None
        like = {
            "n": self._n, "hosts": self._hosts, "tails": self._tails,
            "odd": np.zeros((_MAX_STRATA, len(components)), np.int64),
        }  # fmt: skip
        found = {name: column(state, name, array) for name, array in like.items()}
        if len(names) >= _MAX_STRATA or len(key) != 2:
            raise ValueError("drift: found more kinds of traffic than there may be")
        if originators["owner"].min() < 0 or originators["owner"].max() >= _MAX_STRATA:
            raise ValueError("drift: found other kinds of traffic than there may be")
        self._key, self._names, self._window = (key[0], key[1]), names, window
        self._codes = {name: code for code, name in enumerate(names)}
        self._components, self._streak, self._raised = components, streak, raised
        self._n, self._hosts, self._tails, self._odd = (found[n] for n in ("n", "hosts", "tails", "odd"))
        self._owner, self._slot_key = originators["owner"], originators["key"]
        self._used, self._used_tails = originators["used"], originators["tails"]

    def _originators(self) -> dict[str, NDArray[Any]]:
        return {"owner": self._owner, "key": self._slot_key, "used": self._used, "tails": self._used_tails}

    def receive(self, windows: Encoded, scores: Scores) -> list[Notice]:
        """The notices of the windows of network time that end with this block; blocks come in order of `end`."""
        c = windows.connections
        final = np.flatnonzero(c.stage == Stage.FINAL)
        if not len(final):
            return []
        if not self._components:
            self._components = tuple(name for name in scores.components if name in self._named)
            self._odd = np.zeros((_MAX_STRATA, len(self._components)), np.int64)
        kinds = list(
            zip(
                c.service,
                c.ip_proto.tolist(),
                np.minimum(c.resp_p, _FIRST_UNPRIVILEGED_PORT).tolist(),
                strict=True,
            )
        )
        kinds = [kinds[i] for i in final.tolist()]
        halves = np.ascontiguousarray(c.orig_h).view(np.uint64).reshape(-1, 2)[final]
        p = scores.p_value[final]
        parts = np.empty((len(final), len(self._components)))
        for i, name in enumerate(self._components):
            parts[:, i] = scores.components[name][final]
        window = np.floor(c.end[final] / self._settings.window).astype(np.int64)
        notices: list[Notice] = []
        cuts = [0, *(np.flatnonzero(np.diff(window)) + 1).tolist(), len(final)]
        for begin, end in itertools.pairwise(cuts):
            notices += self._turn(int(window[begin]))
            rows = slice(begin, end)
            codes = {kind: self._code(*kind) for kind in dict.fromkeys(kinds[rows])}
            stratum = np.array([codes[kind] for kind in kinds[rows]], np.int64)
            host = hashed(self._key, halves[rows, 0], halves[rows, 1], stratum.astype(np.uint64))
            _count(
                stratum, host, p[rows], parts[rows], np.array(TAILS), self._settings.per_host,
                self._n, self._hosts, self._tails, self._odd, self._owner, self._slot_key, self._used,
                self._used_tails,
            )  # fmt: skip
        return notices

    def _code(self, service: str, ip_proto: int, port: int) -> int:
        name = (
            service
            or f"{port if port < _FIRST_UNPRIVILEGED_PORT else 'high ports'}/{PROTO_NAMES.get(ip_proto, ip_proto)}"
        )
        code = self._codes.get(name)
        if code is None:
            if len(self._names) >= _MAX_STRATA - 1:
                return _MAX_STRATA - 1
            code = self._codes[name] = len(self._names)
            self._names.append(name)
        return code

    def _turn(self, window: int) -> list[Notice]:
        """Ends the window that was counted if `window` is another one."""
        # A step back is another capture, or a node of a cluster that lags: what is late counts where it arrives.
        if window == self._window or window == self._window - 1:
            return []
        following = window == self._window + 1
        notices = self._judge() if self._window > -(2**62) else []
        if not following:
            self._streak.clear()
        self._free()
        self._window = window
        for counts in (
            self._n, self._hosts, self._tails, self._odd, self._owner, self._used, self._used_tails,
        ):  # fmt: skip
            counts[...] = 0
        return notices

    def _free(self) -> None:
        """Lets go of kinds of traffic too rare to be judged: a scan of many ports leaves no place to others."""
        kept = [
            code
            for code in range(len(self._names))
            if self._n[code] >= self._settings.least or code in self._streak or code in self._raised
        ]
        new = {code: i for i, code in enumerate(kept)} | {_MAX_STRATA - 1: _MAX_STRATA - 1}
        self._names = [self._names[code] for code in kept]
        self._codes = {name: code for code, name in enumerate(self._names)}
        self._streak = {new[code]: n for code, n in self._streak.items() if code in new}
        self._raised = {new[code]: ts for code, ts in self._raised.items() if code in new}

    def _judge(self) -> list[Notice]:
        s = self._settings
        lifts: dict[str, Lift] = {}
        notices: list[Notice] = []
        now = (self._window + 1) * s.window
        for code in np.flatnonzero(self._n).tolist():
            if self._n[code] < s.least or self._hosts[code] < s.hosts:
                self._streak.pop(code, None)
                continue
            name = self._names[code] if code < len(self._names) else "the rest"
            lift = lifts[name] = self._lift(code)
            if not lift.moved:
                self._streak.pop(code, None)
                self._raised.pop(code, None)
                continue
            streak = self._streak[code] = self._streak.get(code, 0) + 1
            if streak >= s.windows and now - self._raised.get(code, -math.inf) >= s.suppress_for:
                self._raised[code] = now
                notices.append(self._notice(code, name, lift, now))
        self.lifts = lifts
        return notices

    def _lift(self, code: int) -> Lift:
        """How far a kind of traffic has moved, by what is left without the hosts that are oddest."""
        s = self._settings
        slots = np.flatnonzero((self._owner == code) & (self._used > 0))
        best = Lift(int(self._n[code]), int(self._hosts[code]), 0.0, 0, False)
        for tail, nominal in enumerate(TAILS):
            odd = self._used_tails[slots, tail].astype(np.int64)
            kept = slots[np.argsort(-odd, kind="stable")][s.hosts - 1 :]
            n, k = int(self._used[kept].sum()), int(self._used_tails[kept, tail].sum())
            tolerated = s.lift * n * nominal
            moved = k > tolerated + _MIN_SIGMAS * math.sqrt(tolerated)
            lift = Lift(best.connections, best.hosts, k / (n * nominal) if n else 0.0, tail, moved)
            best = max(best, lift, key=lambda found: (found.moved, found.lift))
        return best

    def _notice(self, code: int, name: str, lift: Lift, now: float) -> Notice:
        n = lift.connections
        odd = sorted(zip(self._odd[code].tolist(), self._components, strict=True), reverse=True)
        drift = TrafficDrift(
            traffic=name,
            tail=TAILS[lift.tail],
            share=float(self._tails[code, lift.tail] / n),
            connections=n,
            hosts=lift.hosts,
            window=self._settings.window,
            windows=self._streak[code],
            components=tuple((c, k / n) for k, c in odd[:_NAMED_COMPONENTS] if k > _NAMED_SHARE * n),
        )
        return Notice(
            ts=now,
            note=TRAFFIC_DRIFT,
            identifier=f"drift|{name}",
            drift=drift,
            suppress_for=self._settings.suppress_for,
        )


def strongest(lifts: Mapping[str, Lift], most: int) -> Sequence[tuple[str, Lift]]:
    """The kinds of traffic with the greatest lifts, greatest first."""
    return sorted(lifts.items(), key=lambda item: -item[1].lift)[:most]


@entry
def _count(stratum, host, p, parts, nominal, per_host, n, hosts, tails, odd, owner, key, used, used_tails):  # type: ignore[no-untyped-def]
    for i in range(len(stratum)):
        s = stratum[i]
        slot = host[i] % np.uint64(len(used))
        for _ in range(_MAX_PROBES):
            if used[slot] == 0 or (key[slot] == host[i] and owner[slot] == s):
                break
            slot = (slot + np.uint64(1)) % np.uint64(len(used))
        if used[slot] == 0:
            owner[slot] = s
            key[slot] = host[i]
            hosts[s] += 1
        if used[slot] >= per_host or key[slot] != host[i] or owner[slot] != s:
            continue
        used[slot] += np.uint16(1)
        n[s] += 1
        for k in range(len(nominal)):
            if p[i] <= nominal[k]:
                tails[s, k] += 1
                used_tails[slot, k] += np.uint16(1)
        for k in range(parts.shape[1]):
            if parts[i, k] <= 0.1:
                odd[s, k] += 1
