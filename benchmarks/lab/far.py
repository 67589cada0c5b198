"""The rest of the web: more sites than anyone listed, most of them visited once, on servers that stand outside anyway.

A name's place (server and address) follows from the name alone, so that one site's days agree about it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
from collections.abc import Iterable, Sequence

NETWORK = ipaddress.ip_network("198.18.0.0/15")  # for benchmarks (RFC 2544), never routed
PREFIX = 20  # of it, the part that each server outside answers for
SHARED = 0.3  # of the domains lie on one of a server's few shared addresses, the others on one of their own
SHARED_ADDRESSES = 12
EXPIRED = 0.02  # of the names have a certificate that ran out
DOMAINS = 4000  # in order of fame; people come across those, and what attackers rent is any of them or none
KINDS = ("www", "www", "www", "m", "blog", "app", "api", "static")
_WORDS = (
    "acorn alder amber anchor apple arch ash aspen badge bake barley basil bay bean beech bell berry birch bloom "
    "blue bold brass bread brick bright brook cable cedar chalk cherry chest clay clear clover coal cobble coral "
    "corn cove crane creek crest crisp crown dale dawn deep delta dove drift dune eagle east elm ember fern "
    "field finch fir flint fog ford forge fox frost garden gate gem glade glen gold grain grand gray green grove "
    "gull harbor hare hazel heath hedge hill holly honey hope horn iris iron island ivory ivy jade jet keen "
    "kettle kite lake lark laurel leaf lemon light lily lime linen lion loft lotus lunar maple marsh"
)
_PARTS = _WORDS.split()
_NAME = re.compile(rf"(?:{'|'.join(sorted(set(KINDS)))})\.([a-z]+)\.example")
_KNOWN = {one + two for one in _PARTS for two in _PARTS}


def domain(number: int) -> str:
    """The registered domain with this number; any number will do."""
    dice = random.Random(f"far/{number}")
    return f"{dice.choice(_PARTS)}{dice.choice(_PARTS)}.example"


def site(dice: random.Random) -> str:
    """One of the sites that people come across: a few of them often, most seldom (Zipf's law)."""
    rank = int((DOMAINS + 1) ** dice.random()) - 1  # probability of rank r falls as 1 / r
    return name(rank, dice)


def name(number: int, dice: random.Random) -> str:
    """A host name of the domain with this number."""
    return f"{dice.choice(KINDS)}.{domain(number)}"


def is_far(host_name: str) -> bool:
    """Whether it is one of these, and not a listed site or a mistyped name."""
    found = _NAME.fullmatch(host_name)
    return found is not None and found[1] in _KNOWN


def named_in(texts: Iterable[str]) -> frozenset[str]:
    """All such names that a story's programs are told."""
    found = (match for text in texts for match in re.findall(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.example", text))
    return frozenset(word for word in found if is_far(word))


def prefix(number: int) -> str:
    """What the server with this number (among those outside with a web server) answers for."""
    size = 1 << (32 - PREFIX)
    return f"{NETWORK.network_address + number * size}/{PREFIX}"


def place(host_name: str, prefixes: Sequence[str]) -> tuple[int, str]:
    """Which of the servers with these prefixes has this site, and at which address."""
    owned = ".".join(host_name.split(".")[-2:])
    dice = random.Random(hashlib.sha256(owned.encode()).digest())
    server = dice.randrange(len(prefixes))
    first = ipaddress.ip_network(prefixes[server]).network_address
    if dice.random() < SHARED:
        return server, str(first + 1 + dice.randrange(SHARED_ADDRESSES))
    return server, str(first + 256 + dice.randrange((1 << (32 - PREFIX)) - 512))


def is_shared(host_name: str, prefixes: Sequence[str]) -> bool:
    """Whether its address is one of those that many sites share."""
    server, address = place(host_name, prefixes)
    first = ipaddress.ip_network(prefixes[server]).network_address
    return int(ipaddress.ip_address(address)) - int(first) <= SHARED_ADDRESSES


def has_expired(host_name: str) -> bool:
    """Whether its certificate ran out, which nobody noticed."""
    return random.Random(f"expired/{host_name}").random() < EXPIRED
