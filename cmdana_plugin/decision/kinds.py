"""What an incident is called: an ordered table of rules over its facts. Words only, an alarm hangs on none of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cmdana_plugin.decision.facts import MOST, TRIES, Facts, Strand
from cmdana_plugin.decision.usual.tails import FIRM

NO_TECHNIQUE: Final = ""
UNUSUAL: Final = "unusual"  # the kind of what no rule knows
_CONSIDERED: Final = (
    0.25  # of the evidence of the strand that has most: one of less does not name the incident
)
_SLOWEST_BURST: Final = 5.0  # seconds: what comes faster is one thing being done and no calls
_LONGEST: Final = 60  # characters of a name in a sentence
_DAY: Final = 86400.0


# What it means when a component of a score is the odd one, as an analyst reads it.
COMPONENT_WORDS: Final[Mapping[str, str]] = {
    "packets": "first packets do not fit the connection record, logs and history",
    "connection": "connection record does not fit the packets, logs and history",
    "log": "log entries do not fit the packets, connection record and history",
    "residual": "packets, connection record and logs do not fit together",
    "next": "unusual after this host's recent connections",
    "density": "unlike any traffic seen in training",
    "isolation": "unusual combination of sizes, times and recent activity",
    "novelty": "first-seen peer, port or name",
    "attack": "resembles attacks seen in training",
    "behaviour": "its run of connections is unlike this network's use",
    "site": "unusual for this service at this site",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of an incident beside the facts of its connections."""

    role: str  # of its host: originator or responder
    usual: Mapping[str, float] = field(
        default_factory=dict
    )  # of the host, a day; empty where it is not known yet
    alone: bool = False  # nobody else speaks to what it speaks to
    chain: tuple[str, ...] = ()  # hosts in the order in which one reached the next


@dataclass(frozen=True, slots=True)
class Named:
    """An incident in words."""

    kind: str
    headline: str  # what the host does
    technique: str  # of MITRE ATT&CK, "" where none fits
    why: tuple[str, ...]  # the strongest pieces of evidence, with what was seen and what is usual


Rule = Callable[[Strand, Setting], "tuple[str, str] | None"]  # headline, technique


def named(facts: Facts, setting: Setting, most: int, lead: str = "") -> Named:
    """What the incident is called; `most` reasons.

    The first kind in the table that fits one of the strands that carry it, the others' kinds after that; of the strand
    `lead`, where one is named, that strand's before all, where it has one.
    """
    strands = facts.ordered()
    carrying = [s for s in strands if s.evidence >= _CONSIDERED * strands[0].evidence] or strands[:1]
    known = sorted(filter(None, (_kind(s, setting) for s in carrying)), key=lambda found: found[0])
    new = facts.strands.get(lead)
    first = None if new is None else _kind(new, setting)
    strange = [f"{UNUSUAL} {quoted(new.name)}"] if new is not None and first is None else []
    first = first or (known[0] if known else None)
    if first is None:
        strand = new or strands[0]
        return Named(UNUSUAL, _unusual(facts, setting), NO_TECHNIQUE, _why(facts, strand, setting, most))
    rank, strand, headline, technique = first
    others = dict.fromkeys([*(KINDS[found[0]] for found in known if found[0] != rank), *strange])
    also = f"; also: {', '.join(others)}" if others else ""
    return Named(KINDS[rank], headline + also, technique, _why(facts, strand, setting, most))


def _kind(s: Strand, setting: Setting) -> tuple[int, Strand, str, str] | None:
    """The first kind that fits a strand, by its place in the table, with headline and technique."""
    found = ((rank, rule(s, setting)) for rank, (_, rule) in enumerate(_RULES))
    return next(((rank, s, *words) for rank, words in found if words is not None), None)


# --- The table ---


def _passwords(s: Strand, at: Setting) -> tuple[str, str] | None:
    asked, n = _most_refused(s)
    if asked is None or "login" not in asked[0] or n < 5 or n < s.accepted[asked]:
        return None
    does = _does(at, "tries passwords", "has passwords tried")
    return f"{does}: {_asked(asked, n)}{_toward(s, at)}{_over(s, at, 'refused', n)}", "T1110"


def _no_names(s: Strand, at: Setting) -> tuple[str, str] | None:
    asked, n = _most_refused(s)
    if asked is None or asked[0] != "name" or n < 20 or 4 * n < s.accepted[asked]:
        return None
    does = _does(at, "asks", "is asked")
    return f"{does} for {n:,} names that do not exist{_over(s, at, 'refused', n)}", "T1568.002"


def _floods(s: Strand, at: Setting) -> tuple[str, str] | None:
    a_second = s.a_second()
    if s.connections < 50 or a_second < 10.0 or len(s.targets) > 2 or len(s.ports) > 3:
        return None
    to = ", ".join(sorted(s.ports)) + (f" of {s.target}" if at.role == "originator" else "")
    does, n = _does(at, "floods", "is flooded at"), count(s.connections, "connection")
    return f"{does} {to}: {n}, {a_second:,.0f} a second{_sources(s, at)}", "T1498"


def _scans(s: Strand, at: Setting) -> tuple[str, str] | None:
    few = s.sent + s.got <= 2000 * s.connections
    if (s.name != TRIES and not (few and len(s.targets) >= 15)) or (
        len(s.ports) < 10 and len(s.targets) < 10
    ):
        return None
    ports = count(len(s.ports), "port") if len(s.ports) > 3 else ", ".join(sorted(s.ports))
    ports = f"{MOST:,} or more ports" if len(s.ports) >= MOST else ports
    where = f" of {_hosts(s)}" if at.role == "originator" else ""
    return f"{_does(at, 'scans', 'is scanned')}: {ports}{where}{_over(s, at)}{_sources(s, at)}", "T1046"


def _probes(s: Strand, at: Setting) -> tuple[str, str] | None:
    asked, n = _most_refused(s)
    if asked is None or not asked[0].startswith("web") or n < 20 or n < s.accepted[asked]:
        return None
    does = _does(at, "probes", "is probed")
    return f"{does}: {_asked(asked, n)}{_toward(s, at)}{_over(s, at, 'refused', n)}", "T1595.003"


def _tunnels(s: Strand, at: Setting) -> tuple[str, str] | None:
    if s.bits:
        domain, bits = s.bits.most_common(1)[0]
        if bits >= 8 * 2000 or s.names >= FIRM:
            return (
                f"tunnels through {quoted(domain)}: {size(bits / 8)} of names in {_asked_for(s, domain)}",
                "T1071.004",
            )
    if s.name.endswith("/icmp") and s.sent + s.got >= 20_000:
        return f"tunnels through ICMP{_toward(s, at)}: {size(s.sent + s.got)} in {span(s.lasted)}", "T1095"
    return None


def _asked_for(s: Strand, domain: str) -> str:
    """How long names below a domain were asked for."""
    first, last = s.spans.get(domain, (s.first, s.last))
    return span(max(last - first, 0.0))


_REMOTE: Final[Mapping[str, tuple[str, str]]] = {  # service or port: its name, technique
    "ssh": ("SSH", "T1021.004"), "22/tcp": ("SSH", "T1021.004"), "rdp": ("RDP", "T1021.001"),
    "3389/tcp": ("RDP", "T1021.001"), "smb": ("SMB", "T1021.002"), "445/tcp": ("SMB", "T1021.002"),
    "dce_rpc": ("DCE/RPC", "T1021.003"), "135/tcp": ("DCE/RPC", "T1021.003"), "rfb": ("VNC", "T1021.005"),
    "5985/tcp": ("WinRM", "T1021.006"), "5986/tcp": ("WinRM", "T1021.006"),
}  # fmt: skip


def _remote(name: str) -> tuple[str, str] | None:
    return next((_REMOTE[part] for part in name.split(",") if part in _REMOTE), None)


def is_remote(name: str) -> bool:
    """Whether a service or port is one by which one host is worked on from another."""
    return _remote(name) is not None


def _moves(s: Strand, at: Setting) -> tuple[str, str] | None:
    by = _remote(s.name)
    if by is None or at.role != "originator":
        return None
    if len(at.chain) > 2:
        return f"moves: {by[0]} from {' to '.join(at.chain[:8])}", by[1]
    if len(s.targets) >= 3:
        return f"moves: {by[0]} to {_hosts(s)} in {span(s.lasted)}", by[1]
    return None


_CARRIERS: Final[Mapping[str, str]] = {
    "dns": "T1071.004", "http": "T1071.001", "ssl": "T1071.001", "quic": "T1071.001", "smtp": "T1071.003",
}  # fmt: skip


def _carried_by(s: Strand) -> str:
    """The technique of speaking to a master by this service."""
    return next((_CARRIERS[part] for part in s.name.split(",") if part in _CARRIERS), "T1071")


def _calls(s: Strand, at: Setting) -> tuple[str, str] | None:
    beat = s.beat() if at.role == "originator" else None
    if beat is None or s.targets[s.target] < 0.9 * s.connections:
        return None
    every, spread, _ = beat
    if every < _SLOWEST_BURST or spread > 0.25 or s.sent + s.got > 1e6 * s.connections:
        return None
    to = f"{s.target}{_named_domain(s)}"
    alone = ", nobody else does" if at.alone else ""
    return (
        f"calls home every {span(every)} (±{100 * spread:.0f} %) to {to} for {span(s.lasted)}{alone}",
        _carried_by(s),
    )


_MUCH: Final = 1_000_000  # bytes sent that are told of as such


def _sends(s: Strand, at: Setting) -> tuple[str, str] | None:
    if s.sent < 3 * s.got:
        return None
    if at.role != "originator":  # what is usual of a host is what it sends itself
        receives = f"receives {size(s.sent)}{_sources(s, at)}{_named_domain(s)}{_over(s, at)}"
        return (receives, "T1048") if s.sent >= _MUCH else None
    usual = at.usual.get("sent")
    # A copy that is rare here is one, however little it is and however much the host sends in a day.
    if s.volume < FIRM and (s.sent < _MUCH or (usual is not None and s.sent < 3 * usual)):
        return None
    return f"sends {size(s.sent)} to {_hosts(s)}{_named_domain(s)}{_over(s, at, 'sent', s.sent)}", "T1048"


def _keeps(s: Strand, at: Setting) -> tuple[str, str] | None:
    if at.role != "originator" or not s.kept:
        return None
    name, n = s.kept.most_common(1)[0]
    if 4 * n < s.evident:
        return None
    to = quoted(name) if name in s.targets else f"{s.target} ({quoted(name)})"
    alone = ", nobody else does" if at.alone else ""
    back = (
        f"keeps going back to {to}, new here today: {count(s.connections, 'connection')}{_over(s, at)}{alone}"
    )
    return back, _carried_by(s)


def _refused(s: Strand, at: Setting) -> tuple[str, str] | None:
    asked, n = _most_refused(s)
    if asked is None or n < 10 or n < s.accepted[asked]:
        return None
    does = _does(at, "asks in vain", "is asked in vain")
    return f"{does}: {_asked(asked, n)}{_toward(s, at)}{_over(s, at, 'refused', n)}", NO_TECHNIQUE


def _known(s: Strand, at: Setting) -> tuple[str, str] | None:
    if not s.known:
        return None
    name, n = s.known.most_common(1)[0]
    if 2 * n < s.evident:
        return None
    does, many = _does(at, "does", "receives"), count(s.connections, "connection")
    return f"{does} what resembles an attack known as {quoted(name)}: {many}{_over(s, at)}", NO_TECHNIQUE


_RULES: Final[Sequence[tuple[str, Rule]]] = (
    ("password guessing", _passwords), ("names that do not exist", _no_names), ("flood", _floods), ("scan", _scans),
    ("probing", _probes), ("tunnel", _tunnels), ("lateral movement", _moves), ("beacon", _calls),
    ("exfiltration", _sends), ("refused", _refused), ("known attack", _known), ("persistence", _keeps),
)  # fmt: skip
KINDS: Final = (*(kind for kind, _ in _RULES), UNUSUAL)


def _unusual(facts: Facts, at: Setting) -> str:
    services = facts.services()
    top = [name for name, _ in services.most_common(3)]
    more = f" and {len(services) - 3} more" if len(services) > 3 else ""
    n, targets = facts.evident, facts.targets()
    peers = (
        _many(targets) if at.role == "originator" else _many(_sum(s.sources for s in facts.strands.values()))
    )
    toward = "to" if at.role == "originator" else "from"
    does = "opens" if at.role == "originator" else "receives"
    over = f" in {span(facts.last - facts.first)}" if n > 1 else ""
    return f"{does} {count(max(n, 1), 'unusual connection')} {toward} {peers} ({', '.join(top)}{more}){over}"


# --- Why ---


def _why(facts: Facts, s: Strand, at: Setting, most: int) -> tuple[str, ...]:
    """The strongest pieces of evidence, each with what is usual where that is known."""
    pieces: list[tuple[float, str]] = []
    asked, n = _most_refused(s)
    lasted = span(s.lasted)
    if asked is not None:
        pieces.append(
            (_beyond(at, "refused", n), f"{_asked(asked, n)} in {lasted}{_usual(at, 'refused', n)}")
        )
    if s.name == TRIES:
        ports = f"{MOST:,} or more ports" if len(s.ports) >= MOST else count(len(s.ports), "port")
        words = f"{count(s.connections, 'attempt')} without an answer, at {ports} of {_hosts(s)}, in {lasted}"
        pieces.append((_beyond(at, "tries", s.connections), f"{words}{_usual(at, 'tries', s.connections)}"))
    elif s.connections > 1:
        words = f"{count(s.connections, 'connection')} ({quoted(s.name)}) in {lasted}"
        beyond = _beyond(at, "connections", s.connections)
        pieces.append((beyond, f"{words}{_usual(at, 'connections', s.connections)}"))
    if s.sent >= 100_000:
        pieces.append(
            (_beyond(at, "sent", s.sent), f"{size(s.sent)} sent in {lasted}{_usual(at, 'sent', s.sent)}")
        )
    for rare, does in (
        (s.volume, "sends as much in one connection"),
        (s.reach, "speaks to as many hosts"),
        (s.guesses, "has as many logins refused"),
        (s.tries, "opens as many connections without an answer"),
        (s.names, "asks for as much below one domain"),
    ):
        if rare >= FIRM:
            pieces.append((rare, f"one in {10.0**rare:,.0f} hosts' hours {does}"))
    if (beat := s.beat()) is not None and beat[1] <= 0.25 and beat[0] >= 1.0:
        words = f"{beat[2] + 1:,} calls {span(beat[0])} apart, half of them within {beat[1] * beat[0]:.2g} s"
        pieces.append((1.5, words))
    if s.kept:
        new = quoted(s.kept.most_common(1)[0][0])
        words = (
            f"of what hosts newly go to one in {10.0 ** (s.longest + 1.0):,.0f} is kept to as long as {new}"
        )
        pieces.append((2.0, words))
    if s.bits and (top := s.bits.most_common(1)[0])[1] >= 8000:
        pieces.append((2.0, f"{size(top[1] / 8)} of names below {quoted(top[0])} in {_asked_for(s, top[0])}"))
    if at.alone and at.role == "originator" and len(s.targets) == 1:
        pieces.append((1.0, f"nobody else speaks to {s.target}"))
    for component, k in facts.components.most_common(3):
        if component in COMPONENT_WORDS:
            mean = s.evidence / max(s.evident, 1)
            words = f"{COMPONENT_WORDS[component]} in {k:,} of {count(facts.evident, 'connection')}"
            pieces.append((min(mean, 3.0) * k / max(facts.evident, 1), words))
    return tuple(words for _, words in sorted(pieces, key=lambda p: -p[0])[:most])


def _beyond(at: Setting, name: str, seen: float) -> float:
    usual = at.usual.get(name)
    if usual is None:
        return 0.5 if name == "connections" else 1.0
    ratio = seen / max(usual, 1.0)
    return float(max(len(str(int(ratio))) - 1 + 0.5, 0.0)) if ratio >= 1.0 else 0.0


# --- Words ---


def _does(at: Setting, originator: str, responder: str) -> str:
    return originator if at.role == "originator" else responder


def _most_refused(s: Strand) -> tuple[tuple[str, str, str] | None, int]:
    return s.refused.most_common(1)[0] if s.refused else (None, 0)


def _asked(asked: tuple[str, str, str], n: int) -> str:
    return f"{n:,} {asked[0] if n == 1 else asked[1]} {asked[2]}"


def _toward(s: Strand, at: Setting) -> str:
    return f" by {_hosts(s)}" if at.role == "originator" else f" from {_many(s.sources)}"


def _over(s: Strand, at: Setting, name: str = "", n: float = 0) -> str:
    """In how long a time, and what is usual."""
    return f" in {span(s.lasted)}" + (_usual(at, name, n) if name else "")


def _sources(s: Strand, at: Setting) -> str:
    return "" if at.role == "originator" else f" from {_many(s.sources)}"


def _hosts(s: Strand) -> str:
    return _many(s.targets)


def _many(hosts: Mapping[str, int]) -> str:
    if len(hosts) == 1:
        return next(iter(hosts))
    return f"{MOST:,} or more hosts" if len(hosts) >= MOST else count(len(hosts), "host")


def _sum(counts: object) -> Mapping[str, int]:
    total: dict[str, int] = {}
    for each in counts:  # type: ignore[attr-defined]
        total |= each
    return total


def _named_domain(s: Strand) -> str:
    if not s.domains:
        return ""
    domain, n = s.domains.most_common(1)[0]
    return f" ({quoted(domain)})" if 2 * n > s.connections else ""


def _usual(at: Setting, name: str, seen: float) -> str:
    usual = at.usual.get(name)
    if usual is None or seen <= usual:
        return ""
    words = size(usual) if name == "sent" else f"{usual:,.0f}" if usual >= 0.5 else "none"
    return f", usual is {words}" if words == "none" else f", usual is {words} a day"


def count(n: int, word: str) -> str:
    """So many of something."""
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def span(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "an instant"
    for unit, length, until in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 2 * _DAY)):
        if seconds < until:
            n = seconds / length
            return f"{n:.0f} {unit}" if n >= 10 else f"{n:.2g} {unit}"
    return f"{seconds / _DAY:.1f} days"


def size(octets: float) -> str:
    """An amount of data as a person says it."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= factor:
            n = octets / factor
            return f"{n:.0f} {unit}" if n >= 10 else f"{n:.2g} {unit}"
    return f"{octets:.0f} B"


_ODD: Final = re.compile(r"[^\x21-\x7e]")


def quoted(name: str, most: int = _LONGEST) -> str:
    """A name from the traffic, made harmless and cut in the middle."""
    shown = _ODD.sub(lambda m: m[0].encode("unicode_escape", "surrogatepass").decode(), name)
    return shown if len(shown) <= most else f"{shown[: most // 2]}…{shown[-(most // 2 - 1) :]}"
