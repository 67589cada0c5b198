"""The registered domain that a connection is about, and how much its DNS queries say left of it.

Registered is what stands one label left of a public suffix (https://publicsuffix.org, private ones such as
`github.io` too), by the list that comes with `publicsuffixlist`; nothing is fetched. A name without such a label has
none, nor has an address. A name of the reverse tree stands for an address: it has the tree's domain and says nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_extractors.compiled import remembered
from feature_extractors.features.by_stream import Entries
from feature_extractors.observations import MAX_LOG_ENTRIES

_MAX_NAME: Final = 253  # characters of a domain name (RFC 1035, 2.3.4); of a longer one the end is looked at
_REMEMBERED: Final = 16_384  # names
_REVERSE: Final = re.compile(r"(?:^|\.)(in-addr\.arpa|ip6\.arpa)\Z")
_PORT: Final = re.compile(r":\d{0,5}\Z")
_MAX_TOLD: Final = _MAX_NAME + 7  # with a last dot and a port
_NAMES: Final = {
    "dns": "query",
    "ssl": "server_name",
    "http": "host",
}  # the first has rank 0: its name is taken


class Domains(NamedTuple):
    """Of n connections."""

    domain: list[str]  # [n] of the DNS query, the TLS server name or the HTTP host, "" none
    bits: NDArray[np.float32]  # [n] information left of it in DNS queries


def domains_of(entries: Mapping[str, Entries], start: NDArray[np.int64]) -> Domains:
    """Of several domains in a connection's queries that of which they say most, else the first that is named.

    Bits are a name's length times the entropy of its own letters, summed over the different names below the domain in
    the first `MAX_LOG_ENTRIES` log entries: `www` says nothing, forty letters in base 32 some 180 bits, and the same
    query again nothing more.
    """
    n = len(start) - 1
    domains, bits = [""] * n, np.zeros(n, np.float32)
    names: list[str] = []
    places: list[NDArray[np.int64]] = []  # entries, and the rank of their stream
    for rank, (stream, field) in enumerate(_NAMES.items()):
        if stream in entries:
            at, fields = entries[stream]
            asked = [name if type(name := one.get(field)) is str else "" for one in fields]
            places.append(np.stack([at, np.full(len(at), rank)]))
            names += asked
    if not names:
        return Domains(domains, bits)
    entry, ranks = np.concatenate(places, axis=1)
    row = np.searchsorted(start, entry, side="right") - 1
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    distinct = list(number)
    key = (row * len(_NAMES) + ranks) * len(distinct) + np.array([number[name] for name in names], np.int64)
    key = key[(entry - start[row] < MAX_LOG_ENTRIES)]
    # A connection's different names, those of DNS first, each stream's in the order in which they were asked.
    told, first = np.unique(key, return_index=True)
    told = told[np.lexsort((first, told // len(distinct)))]
    which, name_of = np.divmod(told, len(distinct))
    rows, ranks = np.divmod(which, len(_NAMES))
    said = [registered(name) for name in distinct]
    alone = np.bincount(rows, minlength=n)[rows] == 1
    several: dict[int, list[tuple[int, str]]] = {}
    for i, rank, k, single in zip(
        rows.tolist(), ranks.tolist(), name_of.tolist(), alone.tolist(), strict=True
    ):
        if not single:
            several.setdefault(i, []).append((rank, distinct[k]))
            continue
        domains[i], information = said[k]
        if information and rank == 0:
            bits[i] = information
    for i, asked_for in several.items():
        domains[i], bits[i] = _told(asked_for)
    return Domains(domains, bits)


def _told(names: list[tuple[int, str]]) -> tuple[str, float]:
    """Domain and bits of a connection's different names, in the order of their streams' rank."""
    asked: dict[str, float] = {}
    for name in dict.fromkeys(name.lower() for rank, name in names if rank == 0):
        domain, said = registered(name)
        if domain:
            asked[domain] = asked.get(domain, 0.0) + said
    if asked:
        return max(asked.items(), key=lambda one: one[1])
    found = (registered(name)[0] for _, name in names)
    return next(filter(None, found), ""), 0.0


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
    domain = _below_suffix(name)
    if domain is None:
        return "", 0.0
    return domain, _bits(name[: -len(domain)].replace(".", ""))


def _bits(text: str) -> float:
    """The letters' entropy times their number: n log n - sum of c log c."""
    n = len(text)
    return n * math.log2(n) - sum(c * math.log2(c) for c in Counter(text).values()) if n else 0.0


def _below_suffix(name: str) -> str | None:
    """A name's public suffix and the label before it, as `PublicSuffixList.privatesuffix` has them; None for none."""
    labels = name.split(".")
    if "" in labels:
        return None
    rules, most = _rules()
    n = len(labels)
    public = 1
    for i in range(max(0, n - most - 1), n if n > 1 else 0):
        ending = ".".join(labels[i:])
        if f"!{ending}" in rules:
            public = n - i - 1
            break
        if f"*.{ending}" in rules:
            public = n - i + (i > 0)
            break
        if ending in rules:
            public = n - i
            break
    return ".".join(labels[n - public - 1 :]) if public < n else None


@functools.cache
def _rules() -> tuple[frozenset[str], int]:
    """The rules of the list, in ASCII too, and how many labels they have at most."""
    from publicsuffixlist import PSLFILE

    content = Path(PSLFILE).read_bytes()
    rules = remembered(
        "public suffixes", hashlib.sha256(content).hexdigest(), lambda: _read(content.decode())
    )
    return rules, max(rule.count(".") for rule in rules) + 1


def _read(content: str) -> frozenset[str]:
    rules = [line.split()[0].lower() for line in content.splitlines() if line.strip() and line[:2] != "//"]
    there = [rule for rule in rules if rule.isascii()]
    for rule in rules:
        if not rule.isascii():
            mark = "!" * rule.startswith("!")
            there += [rule, mark + rule[len(mark) :].encode("idna").decode()]
    return frozenset(there)
