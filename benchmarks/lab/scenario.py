"""A scenario is one YAML file: the hosts, their roles and links, the day's timetable and the attacks."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FOLDER = Path(__file__).parent / "scenarios"
OUTSIDE = ipaddress.ip_network("198.51.100.0/24")  # TEST-NET-2: documentation only, never routed

Service = Literal[
    "web", "ssh", "resolver", "names", "mail", "database", "cache", "broker", "time", "git", "rsync",
    "directory", "share", "snmp", "modbus", "stream", "api", "tunnel-end", "syslog", "print",
    "kerberos", "nfs", "addresses",
]  # fmt: skip
AttackKind = Literal[
    "port-scan", "host-scan", "slow-scan", "syn-scan", "udp-scan", "ssh-guessing", "web-guessing", "mail-guessing",
    "dns-tunnel", "dns-beacon", "beacon-tls", "beacon-http", "upload-tls", "upload-ssh", "slow-upload",
    "slow-http", "syn-flood", "udp-flood", "amplification", "lateral-ssh", "lateral-smb", "web-shell",
    "modbus-writes", "junk-bytes", "arp-spoofing", "dns-spoofing", "connect-flood", "padded-beacon", "padded-scan",
    "ticket-guessing", "dhcp-spoofing",
]  # fmt: skip


EventKind = Literal["nine", "roll-out", "new-poller", "failing-backup", "expired-certificate"]
Often = Annotated[float, Field(ge=0.0, le=100_000.0)]  # not a number is refused as well
Hour = Annotated[float, Field(ge=0.0, le=24.0)]
Site = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)*$")]
TAKEN = ("wire", "router")  # namespaces of the laboratory's own


class LabError(Exception):
    """What stops the laboratory, in one line for the person who started it."""


class Part(BaseModel):
    """Strict: an unknown key is a mistake, not a wish."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Link(Part):
    """One kind of link for every host: whatever differs between classes must not be the wire."""

    rate_mbit: Annotated[float, Field(ge=0.1, le=10_000)] = 100.0
    queue_kb: Annotated[int, Field(ge=4, le=4096)] = 256
    loss: Annotated[float, Field(ge=0.0, le=0.2)] = 0.0
    delay_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = (
        0.0  # of what a host sends, where the kernel has netem
    )
    jitter_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0  # by which that varies


class Hosts(Part):
    """`count` alike hosts; with more than one they are called name1, name2, ..."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,9}$")]
    count: Annotated[int, Field(ge=1, le=200)] = 1
    services: tuple[Service, ...] = ()
    uplinks: Literal[1, 2] = (
        1  # 2: a second line outside that is not recorded, so that half of each talk is unseen
    )
    role: str | None = None
    sites: tuple[Site, ...] = ()


class Attack(Part):
    """`host` does it from `at` for `lasts` (both shares of the recording), `pace` times as fast as usual.

    A host that stands for several (`desk`) or `anyone` (inside) is dealt by the seed; so is an unset `at`.
    """

    kind: AttackKind
    host: str
    at: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    lasts: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    pace: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    size_kb: Annotated[int, Field(ge=1, le=1_000_000)] = 512


class Surge(Part):
    """Everybody does more at the same time: nine o'clock; or more of one habit: a roll-out."""

    at: Annotated[float, Field(ge=0.0, le=1.0)]
    lasts: Annotated[float, Field(gt=0.0, le=1.0)]
    factor: Annotated[float, Field(gt=0.0, le=50.0)]
    habit: str | None = None


class Event(Part):
    """Something that happens to a whole site and is no attack: from `at`, for `lasts` (shares of the recording)."""

    kind: EventKind
    at: Annotated[float, Field(ge=0.0, le=1.0)]
    lasts: Annotated[float, Field(gt=0.0, le=1.0)]


class Timetable(Part):
    """The story's clock: when it starts, how many hours of it the recording compresses, who works when."""

    start_hour: Annotated[float, Field(ge=0.0, lt=24.0)] = 9.0
    hours: Annotated[float, Field(gt=0.0, le=168.0)] | None = (
        None  # unset: as long as the recording, all at work
    )
    workday: tuple[Hour, Hour] = (7.5, 18.5)
    surges: tuple[Surge, ...] = ()

    @field_validator("workday")
    @classmethod
    def _has_hours(cls, workday: tuple[float, float]) -> tuple[float, float]:
        if workday[0] >= workday[1]:
            raise ValueError(
                f"from {workday[0]:g} to {workday[1]:g} is no day: expected the first hour, then the last"
            )
        return workday


class Scenario(Part):
    """The whole story but for the seed and the length."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    about: str
    keep_for: Literal["train", "test", "demo"] = "train"
    network: str = "10.20.0.0/24"
    domain: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+$")] = "office.example"
    seconds: Annotated[int, Field(ge=5, le=86_400)] = 600
    page_kb: Annotated[int, Field(ge=1, le=1024)] = 24  # of a typical page part on the web servers
    link: Link = Link()
    timetable: Timetable = Timetable()
    inside: tuple[Hosts, ...]
    outside: tuple[Hosts, ...]
    busy: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0  # multiplies every role's rates
    roles: dict[str, dict[str, Often]] = {}  # role: habit: times per recorded hour at full work
    scanners: dict[str, Often] = {}  # the few hosts that look at what is open where, and how often
    wander: Annotated[float, Field(ge=0.0, le=1.0)] = (
        0.45  # share of visits outside to sites that nobody listed
    )
    events: tuple[Event, ...] = ()
    like: str | None = None  # the scenario that this one is but for what it says itself; the same site
    attacks: tuple[Attack, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> Scenario:
        net = ipaddress.ip_network(self.network)
        if net.version != 4 or not net.is_private or net.overlaps(OUTSIDE):
            raise ValueError(f"network: {self.network} is not a private IPv4 network")
        for group in self.outside:
            if group.uplinks != 1:
                raise ValueError(f"outside: host {group.name}: only hosts inside can have 2 uplinks")
        names = [n for group in (*self.inside, *self.outside) for n in host_names(group)]
        doubled = {n for n in names if names.count(n) > 1}
        if doubled:
            raise ValueError(f"inside/outside: host name {sorted(doubled)[0]} is used twice")
        if taken := sorted(set(names) & set(TAKEN)):
            raise ValueError(f"inside/outside: a host cannot be called {taken[0]}")
        if len(names) > net.num_addresses - 20:
            raise ValueError(f"network: {self.network} is too small for {len(names)} hosts")
        for attack in self.attacks:
            if not self.candidates(attack):
                raise ValueError(f"attacks: host {attack.host} does not exist")
        for group in (*self.inside, *self.outside):
            if group.role is not None and group.role not in self.roles:
                raise ValueError(f"role {group.role} of host {group.name} is not under roles")
        if unknown := sorted(set(self.scanners) - set(names)):
            raise ValueError(f"scanners: host {unknown[0]} does not exist")
        habits = {habit for role in self.roles.values() for habit in role}
        for surge in self.timetable.surges:
            if surge.habit is not None and surge.habit not in habits:
                raise ValueError(f"timetable.surges: no role has habit {surge.habit}")
        for needed in ("resolver", "names"):
            if not any(needed in group.services for group in (*self.inside, *self.outside)):
                raise ValueError(f"services: no host offers {needed}, and nothing works without it")
        return self

    @property
    def kin(self) -> str:
        """Whose passwords, pages and names these are."""
        return self.like or self.name

    def candidates(self, attack: Attack) -> list[str]:
        """The hosts from which this attack may come."""
        if attack.host == "anyone":
            return [name for group in self.inside if group.role is not None for name in host_names(group)]
        groups = (*self.inside, *self.outside)
        return [n for g in groups for n in host_names(g) if attack.host in (g.name, n)]


def host_names(group: Hosts) -> list[str]:
    """The hosts that one entry stands for."""
    return [group.name] if group.count == 1 else [f"{group.name}{i + 1}" for i in range(group.count)]


def known() -> list[str]:
    """The scenarios that come with the laboratory."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def load(name_or_path: str) -> Scenario:
    """Read a scenario by its name or its file; raises LabError with one line."""
    path = FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise LabError(f"{name_or_path}: no such scenario; there are {', '.join(known())}, or give a file")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise LabError(
            f"{path}: found {type(found).__name__}, expected a mapping of keys such as name, inside"
        )
    if isinstance(found.get("like"), str) and path.parent == FOLDER:
        base = yaml.safe_load((FOLDER / f"{found['like']}.yaml").read_text(encoding="utf-8"))
        more = found.pop("more", {})
        found = {**base, **found, "inside": [*base["inside"], *more.get("inside", ())]}
        found["roles"] = {**base["roles"], **more.get("roles", {})}
    try:
        return Scenario.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "scenario"
        got = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
        raise LabError(f"{path}: {where}: {first['msg']}{got}") from None
