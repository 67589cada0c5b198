"""Who opened each connection: the kernel's connection tracking in every host, joined with the recording."""

from __future__ import annotations

import csv
import json
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.flows import Flow, Key
from benchmarks.lab.net import Host
from benchmarks.lab.world import Actor, words

COLUMNS = tuple(words("capture uid ts proto orig_h orig_p resp_h resp_p label family strength reason"))
LATE = 2.0  # seconds by which the kernel's event may be stamped after the packet
_SET = re.compile(r"([\d.]+) \. (\d+) \. ([\d.]+) \. (\d+) \. (\d+)")


@dataclass(frozen=True)
class Label:
    """One row of labels.csv, but for the capture's name and the uid, which only Zeek gives."""

    flow: Flow
    label: str
    family: str
    reason: str

    def row(self, capture: str) -> tuple[str | int, ...]:
        proto, orig_h, orig_p, resp_h, resp_p = self.flow.key
        strength = "strict" if self.label != "unknown" else ""
        connection = (capture, "", f"{self.flow.start:.6f}", proto, orig_h, orig_p, resp_h, resp_p)
        return (*connection, self.label, self.family, strength, self.reason)


PATIENCE = 1.0  # seconds for which a resolver goes on asking after its client's last packet
AT_ONCE = (
    0.1  # seconds within which it asks what is not in its cache: of two who want the same, the nearer one's
)
Asked = dict[
    str, list[tuple[float, float, str, str]]
]  # DNS name: when it was asked from .. to, class and family
Events = Mapping[Key, Sequence[tuple[float, int]]]  # connection: when it was opened and under which mark
Raw = Mapping[
    str, Sequence[tuple[float, float, int]]
]  # host: when such a program ran, from .. to, and its group
NOBODY = "0.0.0.0"
RAW_PROGRAMS = ("lease", "dhcp-spoofing")  # what the steps are called


def events(logs: Mapping[str, Path], hosts: Sequence[Host]) -> Events:
    """Read each host's log of new connections; only connections that the host itself opened count."""
    found: dict[Key, list[tuple[float, int]]] = defaultdict(list)
    for host in hosts:
        for key, ts, mark in _lines(logs[host.name]):
            if (
                mark or key[1] == host.address
            ):  # a mark is only ever set on the way out, forged addresses included
                found[key].append((ts, mark))
    for host in hosts:
        for key, mark in _set(logs[host.name].with_suffix(".opened")):
            found[key].append((0.0, mark))
    return {key: sorted(times) for key, times in found.items()}


def answered(logs: Mapping[str, Path]) -> dict[Key, int]:
    """Connections that a program of an attacker answered, and its mark."""
    found: dict[Key, int] = {}
    for log in logs.values():
        for (_, *ends), mark in _set(log.with_suffix(".answered")):
            found |= {(proto, *ends): mark for proto in ("tcp", "udp")}  # type: ignore[misc]
    return found


def _set(listing: Path) -> Iterator[tuple[Key, int]]:
    """Connections without an event: of packets that connection tracking calls invalid, or lost on a busy machine."""
    if listing.is_file():
        for source, source_port, target, target_port, gid in _SET.findall(
            listing.read_text(encoding="utf-8")
        ):
            yield ("tcp", source, int(source_port), target, int(target_port)), int(gid)


def _lines(log: Path) -> Iterator[tuple[Key, float, int]]:
    """What `tracker` wrote; the last line may be cut by a crash."""
    for line in log.read_text(encoding="ascii").splitlines():
        if len(parts := line.split()) == 7:
            ts, proto, source, source_port, target, target_port, mark = parts
            yield (proto, source, int(source_port), target, int(target_port)), float(ts), int(mark)


def label(
    flows: Sequence[Flow],
    opened: Events,
    actors: Sequence[Actor],
    resolvers: set[str],
    led: Mapping[Key, int] | None = None,
    hardware: Mapping[bytes, tuple[str, str]] | None = None,
    raw: Raw | None = None,
) -> list[Label]:
    """Every connection of the recording gets its label; what nobody opened by our knowledge is unknown.

    `led`: connections that attackers' programs answered; `hardware`: the host (name, address) with each;
    `raw`: when which host ran a program that hands whole frames to the wire, past the kernel's IP.
    """
    by_gid = {actor.gid: actor for actor in actors}
    first = [_unseen(_direct(flow, opened, by_gid), hardware or {}, raw or {}, by_gid) for flow in flows]
    asked: Asked = defaultdict(list)
    for found in first:
        if found.flow.key[1] not in resolvers:
            for question in found.flow.questions:
                asked[question].append((found.flow.start, found.flow.last, found.label, found.family))
    by_key: dict[Key, list[Label]] = defaultdict(list)
    for found in first:
        by_key[found.flow.key].append(found)
    known = [_caused(found, by_key, asked, resolvers) for found in first]
    spoofers = {actor.host: actor for actor in actors if actor.family.startswith("spoof-")}
    return [_misled(found, by_gid, led or {}, hardware or {}, spoofers) for found in known]


def _misled(
    found: Label,
    by_gid: Mapping[int, Actor],
    led: Mapping[Key, int],
    hardware: Mapping[bytes, tuple[str, str]],
    spoofers: Mapping[str, Actor],
) -> Label:
    """A connection whose opener meant no harm, but that an attacker answered or carried."""
    if found.label == "malicious":
        return found
    actor = by_gid.get(led.get(found.flow.key, 0))
    if actor is not None:
        return Label(
            found.flow, "malicious", actor.family, f"{found.reason}, answered by attacker {actor.name}"
        )
    if (
        found.flow.key[1] == NOBODY
    ):  # hosts without an address share this connection; none carries the others' frames
        return found
    for mac in sorted(found.flow.carriers):
        host, address = hardware.get(mac, ("", ""))
        if host in spoofers and address not in (found.flow.key[1], found.flow.key[3]):
            reason = f"{found.reason}, carried by attacker {spoofers[host].name} on {host}"
            return Label(found.flow, "malicious", spoofers[host].family, reason)
    return found


def _unseen(
    found: Label, hardware: Mapping[bytes, tuple[str, str]], raw: Raw, by_gid: Mapping[int, Actor]
) -> Label:
    """A host without an address yet speaks past the kernel's IP: by the card its frames left, and what ran there."""
    if found.label != "unknown" or found.flow.key[0] != "udp" or found.flow.key[4] not in (67, 68):
        return found
    hosts = {hardware[mac][0] for mac in found.flow.carriers if mac in hardware}
    ran = sorted(
        (by_gid[gid].family, by_gid[gid].name, host)
        for host in hosts
        for began, ended, gid in raw.get(host, ())
        if began - 0.1 <= found.flow.last and found.flow.start <= ended + 0.1 and gid in by_gid
    )
    if not ran:
        return found
    family, name, host = ran[-1]  # a family sorts behind none: one attacker among them is enough
    kind, who = ("malicious", "attacker") if family else ("benign", "user")
    return Label(found.flow, kind, family, f"opened by {who} {name} on {host}, by raw frames")


def raw_programs(logs: Mapping[str, Path]) -> Raw:
    """From the launchers' logs: the programs that ask for an address or spoof the answer."""
    found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for host, log in logs.items():
        if not log.is_file():
            continue
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.endswith("}") and (entry := json.loads(line)).get("what") in RAW_PROGRAMS:
                found[host].append((entry["began"], entry["ended"], entry["gid"]))
    return found


def _direct(flow: Flow, opened: Events, by_gid: Mapping[int, Actor]) -> Label:
    proto, source, source_port, target, target_port = flow.key
    times = opened.get(flow.key) or opened.get((proto, target, target_port, source, source_port))
    if not times:
        return Label(flow, "unknown", "", "no process of a host opened it")
    mark = times[max(0, bisect_right(times, (flow.start + LATE, 1 << 62)) - 1)][1]
    actor = by_gid.get(mark)
    if actor is None:
        return Label(flow, "benign", "", "opened by a server's own program")
    if actor.family:
        return Label(flow, "malicious", actor.family, f"opened by attacker {actor.name} on {actor.host}")
    return Label(flow, "benign", "", f"opened by user {actor.name} on {actor.host}")


def _caused(found: Label, by_key: Mapping[Key, Sequence[Label]], asked: Asked, resolvers: set[str]) -> Label:
    """The resolver's own questions and the routers' errors belong to whoever caused them."""
    flow = found.flow
    if flow.cause is not None:
        proto, source, source_port, target, target_port = flow.cause
        either = (
            *by_key.get(flow.cause, ()),
            *by_key.get((proto, target, target_port, source, source_port), ()),
        )
        about = sorted(
            (other for other in either if other.flow.start <= flow.start), key=lambda other: other.flow.start
        )
        if about:
            return Label(
                flow, about[-1].label, about[-1].family, f"ICMP error about a connection {about[-1].reason}"
            )
        return found
    if flow.key[1] in resolvers and flow.questions and found.reason.endswith("own program"):
        causes = sorted(
            (abs(flow.start - start), kind, family)
            for question in flow.questions
            for start, last, kind, family in asked.get(question, ())
            if start - 0.01 <= flow.start <= last + PATIENCE
        )
        kinds = {kind for _, kind, _ in causes}
        if len(kinds) > 1 and causes[0][0] > AT_ONCE:
            return Label(flow, "unknown", "", "resolver asks on behalf of both classes")
        # Long after the last client it still retries: for a name that only attackers ever asked for, on their behalf.
        ever = [a for q in flow.questions for a in asked.get(q, ()) if a[0] - 0.01 <= flow.start]
        if not causes and ever and all(kind == "malicious" for *_, kind, _ in ever):
            causes = [(0.0, "malicious", ever[-1][3])]
        if causes and causes[0][1] == "malicious":
            return Label(flow, "malicious", causes[0][2], "resolver asks on behalf of an attacker")
    return found


def write(labels: Sequence[Label], path: Path, capture: str) -> None:
    """labels.csv in the columns of the project's other labelled captures."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(found.row(capture) for found in labels)


def summary(labels: Sequence[Label]) -> str:
    """Connections by service and class, and by family."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for found in labels:
        table[service(found.flow.key)][found.label] += 1
    lines = [f"{'service':<14}{'benign':>9}{'malicious':>11}{'unknown':>9}"]
    for name, counts in sorted(table.items(), key=lambda item: -sum(item[1].values())):
        lines.append(f"{name:<14}{counts['benign']:>9}{counts['malicious']:>11}{counts['unknown']:>9}")
    total = Counter(found.label for found in labels)
    lines.append(f"{'all':<14}{total['benign']:>9}{total['malicious']:>11}{total['unknown']:>9}")
    lines += [
        f"  {family:<26}{count:>8}"
        for family, count in Counter(f.family for f in labels if f.family).most_common()
    ]
    return "\n".join(lines)


_SERVICES = {
    ("tcp", 22): "ssh", ("tcp", 25): "smtp", ("udp", 53): "dns", ("tcp", 53): "dns", ("tcp", 80): "http",
    ("udp", 123): "ntp", ("tcp", 143): "imap", ("udp", 161): "snmp", ("tcp", 389): "ldap", ("tcp", 443): "ssl",
    ("tcp", 445): "smb", ("tcp", 502): "modbus", ("udp", 514): "syslog", ("tcp", 587): "submission",
    ("tcp", 873): "rsync", ("tcp", 993): "imaps", ("tcp", 1883): "mqtt", ("tcp", 5432): "postgresql",
    ("tcp", 514): "syslog", ("tcp", 6379): "redis", ("tcp", 9100): "print",
    ("tcp", 8554): "stream", ("tcp", 9418): "git", ("udp", 67): "dhcp", ("udp", 68): "dhcp",
    ("tcp", 88): "kerberos", ("udp", 88): "kerberos", ("tcp", 2049): "nfs",
}  # fmt: skip


def service(key: Key) -> str:
    """By the responder's port: enough for a summary."""
    if key[0] == "icmp":
        return "icmp"
    return _SERVICES.get((key[0], key[4]), f"other {key[0]}")
