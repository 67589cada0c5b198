"""Quality of training material: its normal by service, in numbers, and hosts that look like attackers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from feature_extractors import PROTO_NAMES, Connections, Windows, address_texts

if TYPE_CHECKING:
    from cmdana_plugin.detector import Checkpoint
    from cmdana_plugin.training.recording import Corpus

_SHOWN_SERVICES: Final = 12  # services in the table
_MAX_SERVICES: Final = 200  # services told apart
_QUANTILES: Final = (0.1, 0.5, 0.9)
_FAILED_STATES: Final = (0, 3)  # S0 and REJ: nobody answered, or nobody wanted to
_MANY_TARGETS: Final = 100  # failed targets, or names, from which on a host is told
_LONG_NAME_CHARACTERS: Final = 60  # characters of a name that is long
_NAMED_HOSTS: Final = 5  # hosts named for each reason
# p-value of the supervised head from which on a connection is like a known attack
_ATTACK_P_VALUE: Final = 1e-3
_MIN_ATTACK_CONNECTIONS: Final = 20  # such connections of a host
_MIN_ATTACK_SHARE: Final = 0.1  # and their share of its connections
_CHUNK_CONNECTIONS: Final = 65_536  # connections looked at together


@dataclass(slots=True)
class Usual:
    """Bytes and durations of the connections of one service that were learned from."""

    connections: int = 0
    failed: int = 0
    originators: set[bytes] = field(default_factory=set)
    responders: set[bytes] = field(default_factory=set)
    # [n, 3] bytes each way, seconds; NaN unset
    values: list[NDArray[np.float32]] = field(default_factory=list)

    def quantiles(self) -> NDArray[np.float64]:
        """Quantiles [3, 3] of bytes of the originator, of the responder, and seconds, at 10, 50 and 90 %; NaN unset."""
        values = np.concatenate(self.values)
        out = np.full((3, len(_QUANTILES)), np.nan)
        for i in range(3):
            known = values[np.isfinite(values[:, i]), i]
            if len(known):
                out[i] = np.quantile(known, _QUANTILES)
        return out


@dataclass(slots=True)
class Normal:
    """The statistics of normal traffic, by service."""

    services: dict[str, Usual] = field(default_factory=dict)

    def receive(self, connections: Connections, rows: NDArray[np.bool_]) -> None:
        """Adds the connections of `rows`, which are learned from."""
        c = connections
        names = np.array([service or PROTO_NAMES.get(p, "other") for service, p in _kinds(c)], object)
        orig = np.ascontiguousarray(c.orig_h).view("V16").ravel()
        resp = np.ascontiguousarray(c.resp_h).view("V16").ravel()
        values = np.stack(
            [
                np.where(c.orig_bytes >= 0, c.orig_bytes, np.nan),
                np.where(c.resp_bytes >= 0, c.resp_bytes, np.nan),
                c.duration,
            ],
            axis=1,
        ).astype(np.float32)
        failed = np.isin(c.conn_state, _FAILED_STATES)
        for name in sorted(set(names[rows])):
            if name not in self.services and len(self.services) >= _MAX_SERVICES:
                continue
            chosen = rows & (names == name)
            usual = self.services.setdefault(name, Usual())
            usual.connections += int(chosen.sum())
            usual.failed += int(failed[chosen].sum())
            usual.originators.update(orig[chosen].tolist())
            usual.responders.update(resp[chosen].tolist())
            usual.values.append(values[chosen])

    def ranked(self) -> Sequence[tuple[str, Usual]]:
        """The services with their statistics, most connections first."""
        return sorted(self.services.items(), key=lambda item: (-item[1].connections, item[0]))

    def table(self) -> list[str]:
        """The statistics as lines of at most 80 characters, most frequent services first."""
        lines = [
            f"{'normal here':<13}{'conns':>9}{'hosts':>7}{'servers':>9}{'sent':>14}{'received':>14} {'seconds':>13}"
        ]
        for name, usual in self.ranked()[:_SHOWN_SERVICES]:
            sent, got, took = usual.quantiles()
            lines.append(
                f"{name[:12]:<13}{usual.connections:>9,}{len(usual.originators):>7,}{len(usual.responders):>9,}"
                f"{_range(sent, _size):>14}{_range(got, _size):>14} {_range(took, _seconds):>13}"
            )
        more = len(self.services) - _SHOWN_SERVICES
        if more > 0:
            lines.append(f"and {more} more services")
        lines.append("sent, received, seconds: 8 of 10 connections lie between these")
        return lines

    def object(self) -> list[dict[str, object]]:
        """For `--json`; quantiles at 10, 50 and 90 %."""
        out: list[dict[str, object]] = []
        for name, usual in self.ranked():
            quantiles = [
                [None if np.isnan(x) else round(float(x), 6) for x in row] for row in usual.quantiles()
            ]
            out.append(
                {
                    "service": name,
                    "connections": usual.connections,
                    "failed": usual.failed,
                    "originators": len(usual.originators),
                    "responders": len(usual.responders),
                    "bytes_from_originator": quantiles[0],
                    "bytes_from_responder": quantiles[1],
                    "seconds": quantiles[2],
                }
            )
        return out


@dataclass(slots=True)
class Suspects:
    """Hosts whose traffic in the training material looks like an attack (poisoning), found by simple rules."""

    # originator -> hosts and ports that did not answer it
    scans: Counter[str] = field(default_factory=Counter)
    # originator, domain -> long names asked for
    names: Counter[tuple[str, str]] = field(default_factory=Counter)
    # originator -> connections that the model before found odd
    odd: Counter[str] = field(default_factory=Counter)

    # originator -> connections that resemble known attacks
    attacks: Counter[str] = field(default_factory=Counter)
    # [n, 16] of every connection that was received
    origins: list[NDArray[np.uint8]] = field(default_factory=list)

    def receive(self, windows: Windows, rows: NDArray[np.bool_]) -> None:
        """Adds the connections of `rows`, which are learned from."""
        self.origins.append(windows.connections.orig_h)
        self._scans(windows.connections, rows)
        self._names(windows, rows)

    def resembling(self, corpus: Corpus, init: Checkpoint | None = None) -> None:
        """Adds the hosts whose connections resemble known attacks far more often than benign ones do.

        `corpus` is of the windows received, in their order; the model is `init`, or the shipped one.
        """
        from cmdana_plugin.detector import shipped_checkpoint, stratum_of, tabulate
        from feature_extractors.features import load_schema, take_features

        known = init if init is not None and init.trees is not None else shipped_checkpoint()
        orig = np.concatenate(self.origins)
        self.origins.clear()
        if known.trees is None or len(orig) != len(corpus):
            return
        own = known.schema_of(load_schema())
        p = np.ones(len(corpus))
        benign = np.flatnonzero(corpus.label == 0)
        for rows in np.array_split(benign, len(benign) // _CHUNK_CONNECTIONS + 1):
            features = take_features(corpus.features, rows)
            # The summary of further logs stands behind what every model knows.
            features = replace(features, log_summary=features.log_summary[:, : len(own.summary)])
            score = known.trees.score(tabulate(features, corpus.state[rows]))
            p[rows] = known.strata["attack"].p_value(np.round(score, 5), stratum_of(features, own))
        hosts, at = np.unique(np.ascontiguousarray(orig).view("V16").ravel(), return_inverse=True)
        all_of = np.bincount(at[benign], minlength=len(hosts))
        alike = np.bincount(at[benign], p[benign] <= _ATTACK_P_VALUE, minlength=len(hosts)).astype(np.int64)
        for host in np.flatnonzero((alike >= _MIN_ATTACK_CONNECTIONS) & (alike > _MIN_ATTACK_SHARE * all_of)):
            self.attacks[address_texts(hosts[host : host + 1].view(np.uint8).reshape(1, 16))[0]] = int(
                alike[host]
            )

    def words(self) -> list[str]:
        """The warnings, each with what to do."""
        found = [
            f"{host} got no answer from {n:,} hosts and ports, as one that scans; --exclude {host} leaves it out"
            for host, n in self.scans.most_common(_NAMED_HOSTS)
        ]
        found += [
            f"{host} asked for {n:,} different long names under {domain}, as through a tunnel; --exclude {host} "
            "leaves it out"
            for (host, domain), n in self.names.most_common(_NAMED_HOSTS)
        ]
        found += [
            f"{n:,} connections of {host} are like attacks that an earlier model knows; --exclude {host} leaves it out"
            for host, n in self.attacks.most_common(_NAMED_HOSTS)
            if host not in self.scans
        ]
        odd = [f"{host} {n:,}" for host, n in self.odd.most_common(_NAMED_HOSTS) if n >= 3]
        if odd:
            found.append(
                f"while learning, the model before found connections odd, by originator: {', '.join(odd)}; look "
                "at them (cmdana alerts), and leave attackers out with --exclude"
            )
        return found

    def _scans(self, c: Connections, rows: NDArray[np.bool_]) -> None:
        tcp = np.flatnonzero(rows & (c.ip_proto == 6))
        if not len(tcp):
            return
        hosts, at = np.unique(np.ascontiguousarray(c.orig_h[tcp]).view("V16").ravel(), return_inverse=True)
        failed = np.isin(c.conn_state[tcp], _FAILED_STATES)
        share = np.bincount(at, failed, len(hosts)) / np.bincount(at, minlength=len(hosts))
        target = np.concatenate([c.resp_h[tcp], c.resp_p[tcp, None].view(np.uint8)], axis=1)
        key = np.concatenate([at[:, None].astype("<u4").view(np.uint8), target], axis=1)[
            failed & (share[at] > 0.5)
        ]
        if not len(key):
            return
        distinct = np.unique(np.ascontiguousarray(key).view(f"V{key.shape[1]}").ravel())
        owner = distinct.view(np.uint8).reshape(-1, key.shape[1])[:, :4].copy().view("<u4").ravel()
        for host, n in zip(*np.unique(owner, return_counts=True), strict=True):
            if n >= _MANY_TARGETS:
                self.scans[address_texts(hosts[host : host + 1].view(np.uint8).reshape(1, 16))[0]] += int(n)

    def _names(self, windows: Windows, rows: NDArray[np.bool_]) -> None:
        start = windows.log_start
        asked: dict[tuple[int, str], set[str]] = {}
        orig = np.ascontiguousarray(windows.connections.orig_h).view("V16").ravel()
        hosts, at = np.unique(orig, return_inverse=True)
        for i in np.flatnonzero(rows & (np.diff(start) > 0)).tolist():
            for entry in windows.logs[start[i] : start[i + 1]]:
                if entry.stream != "dns":
                    continue
                name = entry.fields.get("query")
                if (
                    isinstance(name, str)
                    and len(name) >= _LONG_NAME_CHARACTERS
                    and not name.endswith((".arpa", ".local"))
                ):
                    known = asked.setdefault((int(at[i]), ".".join(name.split(".")[-2:])), set())
                    if len(known) < 100 * _MANY_TARGETS:
                        known.add(name)
        for (host, domain), names in asked.items():
            if len(names) >= _MANY_TARGETS:
                text = address_texts(hosts[host : host + 1].view(np.uint8).reshape(1, 16))[0]
                self.names[text, domain] += len(names)


def _kinds(c: Connections) -> zip[tuple[str, int]]:
    return zip(c.service, c.ip_proto.tolist(), strict=True)


def _range(values: NDArray[np.float64], write: Callable[[float], str]) -> str:
    low, _, high = values.tolist()
    if low != low:
        return "-"
    a, b = write(low), write(high)
    return a if a == b else f"{a}-{b}"


def _size(n: float) -> str:
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= bound:
            return f"{n / bound:.1f} {unit}B" if n < 10 * bound else f"{n / bound:.0f} {unit}B"
    return f"{n:.0f} B"


def _seconds(n: float) -> str:
    return f"{n:.0f}" if n >= 10 else f"{n:.2g}" if n >= 0.01 else f"{n:.1g}"
