"""The registered domain that a connection is about, and how much its DNS queries say left of it.

Registered is what stands one label left of a public suffix (https://publicsuffix.org, private ones such as
`github.io` too), by the list that comes with `publicsuffixlist`; nothing is fetched. A name without such a label has
none, nor has an address. A name of the reverse tree stands for an address: it has the tree's domain and says nothing.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections import Counter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from publicsuffixlist import PublicSuffixList

from feature_extractors.observations import MAX_LOG_ENTRIES, Windows

_MAX_NAME: Final = 253  # characters of a domain name (RFC 1035, 2.3.4); of a longer one the end is looked at
_REMEMBERED: Final = 16_384  # names
_REVERSE: Final = re.compile(r"(?:^|\.)(in-addr\.arpa|ip6\.arpa)\Z")
_PORT: Final = re.compile(r":\d{0,5}\Z")
_MAX_TOLD: Final = _MAX_NAME + 7  # with a last dot and a port
_NAMES: Final = {"dns": "query", "ssl": "server_name", "http": "host"}
_RANK: Final = {"dns": 0, "ssl": 1, "http": 2}  # whose name is taken where several have one


class Domains(NamedTuple):
    """Of n connections."""

    domain: list[str]  # [n] of the DNS query, the TLS server name or the HTTP host, "" none
    bits: NDArray[np.float32]  # [n] information left of it in DNS queries


def domains_of(windows: Windows) -> Domains:
    """Of several domains in a connection's queries that of which they say most, else the first that is named.

    Bits are a name's length times the entropy of its own letters, summed over the different names below the domain in
    the first `MAX_LOG_ENTRIES` log entries: `www` says nothing, forty letters in base 32 some 180 bits, and the same
    query again nothing more.
    """
    n = len(windows)
    domains, bits = [""] * n, np.zeros(n, np.float32)
    entries: list[int] = []
    names: list[str] = []
    for i, entry in enumerate(windows.logs):
        field = _NAMES.get(entry.stream)
        if field is not None and type(name := entry.fields.get(field)) is str and name:
            entries.append(i)
            names.append(name)
    at = np.array(entries, np.int64)
    rows = np.searchsorted(windows.log_start, at, side="right") - 1
    counted = at - windows.log_start[rows] < MAX_LOG_ENTRIES
    alone = np.bincount(rows, minlength=n)[rows] == 1
    of_row: dict[int, list[tuple[str, str]]] = {}  # where there are several
    for row, i, name, counts, single in zip(
        rows.tolist(), entries, names, counted.tolist(), alone.tolist(), strict=True
    ):
        if single and counts:
            domains[row], said = registered(name)
            if said and windows.logs[i].stream == "dns":
                bits[row] = said
        elif counts:
            of_row.setdefault(row, []).append((windows.logs[i].stream, name))
    for row, told in of_row.items():
        domains[row], bits[row] = _told(told)
    return Domains(domains, bits)


def _told(names: list[tuple[str, str]]) -> tuple[str, float]:
    asked: dict[str, float] = {}
    for name in dict.fromkeys(name.lower() for stream, name in names if stream == "dns"):
        domain, said = registered(name)
        if domain:
            asked[domain] = asked.get(domain, 0.0) + said
    if asked:
        return max(asked.items(), key=lambda one: one[1])
    for _, name in sorted(names, key=lambda one: _RANK[one[0]]):
        domain, _ = registered(name)
        if domain:
            return domain, 0.0
    return "", 0.0


def registered(name: str) -> tuple[str, float]:
    """The registered domain of a name, "" where it has none, and the bits in what stands left of it."""
    return _registered(name[-_MAX_TOLD:])


@functools.lru_cache(maxsize=_REMEMBERED)
def _registered(told: str) -> tuple[str, float]:
    if told.startswith("[") or told.count(":") > 1:
        return "", 0.0  # an address of IPv6
    name = _PORT.sub("", told).lower().rstrip(".")[-_MAX_NAME:].lstrip(".")
    if name.replace(".", "").isdigit():
        return "", 0.0
    reverse = _REVERSE.search(name)
    if reverse is not None:
        return reverse[1], 0.0
    if not name.isascii():
        with contextlib.suppress(UnicodeError):  # else as it is: its last two labels
            name = name.encode("idna").decode("ascii")
    domain = _suffixes().privatesuffix(name)
    if domain is None:
        return "", 0.0
    return domain, _bits(name[: -len(domain)].replace(".", ""))


def _bits(text: str) -> float:
    """The letters' entropy times their number: n log n - sum of c log c."""
    n = len(text)
    return n * math.log2(n) - sum(c * math.log2(c) for c in Counter(text).values()) if n else 0.0


@functools.cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
