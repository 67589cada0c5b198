"""Network namespaces, the bridge between them, and their removal: the only module that changes the machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import far
from benchmarks.lab.scenario import OUTSIDE, LabError, Link, Scenario, host_names

PREFIX = "cmlab"
STATE = Path("/var/tmp/cmdana-lab")  # one folder per run: its process id, configurations, homes, logs
ETC_NETNS = Path("/etc/netns")  # `ip netns exec` lays these files over /etc
NO_GROUP = 1  # the mark of connections by a process without a group of ours
TOOLS = ("ip", "tc", "nft", "tcpdump", "ethtool", "setpriv", "openssl")


@dataclass(frozen=True)
class Host:
    """One namespace with one address."""

    name: str
    netns: str
    address: str
    mac: str
    inside: bool
    services: tuple[str, ...]
    role: str | None
    sites: tuple[str, ...]
    prefix: str = ""  # addresses that it answers for besides its own: of sites that nobody listed
    uplinks: int = 1  # with 2, what goes out one way comes back the other, and one of them is not recorded


@dataclass(frozen=True)
class Run:
    """One recording's own names: nothing outside them is ever touched."""

    ident: str
    state: Path

    def netns(self, host: str) -> str:
        return f"{PREFIX}-{self.ident}-{host}"


def command(*argv: str, check: bool = True, feed: str | None = None) -> str:
    """Run one tool to its end; raises LabError with the tool's own words."""
    done = subprocess.run(argv, input=feed, capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode != 0:
        words = " ".join((done.stderr or done.stdout).split())[:300]
        raise LabError(f"{' '.join(argv[:6])}: {words or f'exit status {done.returncode}'}")
    return done.stdout


def require(tools: Iterable[str]) -> None:
    """Refuse to start without root or with a tool missing; what was found is then also what runs."""
    if os.geteuid() != 0:
        raise LabError("the laboratory makes network namespaces: run it as root")
    if (closed := closed_folder()) is not None:
        raise LabError(
            f"{closed}: closed to other users, and the laboratory's people run programs below it: move the project"
        )
    missing = sorted({tool for tool in tools if shutil.which(tool, path=search_path()) is None})
    if missing:
        raise LabError(
            f"missing programs: {', '.join(missing)} (benchmarks/lab/README.md names their packages)"
        )
    os.environ["PATH"] = f"{search_path()}:{os.environ.get('PATH', '')}"


def closed_folder() -> Path | None:
    """The folder that keeps other users from the programs that the laboratory's people run."""
    programs = Path(__file__).resolve().parent / "programs"
    return next((f for f in (programs, *programs.parents) if not f.stat().st_mode & stat.S_IXOTH), None)


def search_path() -> str:
    """Servers live in sbin, which is not on everyone's PATH."""
    return "/usr/sbin:/usr/bin:/sbin:/bin"


def lay_out(scenario: Scenario, run: Run, order: Sequence[int]) -> list[Host]:
    """Give every host an address; `order` (a shuffle by the seed) keeps addresses from telling roles apart."""
    inside_net = ipaddress.ip_network(scenario.network)
    hosts: list[Host] = []
    for inside, groups, net in ((True, scenario.inside, inside_net), (False, scenario.outside, OUTSIDE)):
        names = [(name, group) for group in groups for name in host_names(group)]
        slots = [slot for slot in order if slot < min(net.num_addresses - 3, 240)][: len(names)]
        prefixes = 0
        for (name, group), slot in zip(names, slots, strict=True):
            address = str(net.network_address + 2 + slot)
            octets = [int(part) for part in address.split(".")]
            mac = "02:" + ":".join(f"{part:02x}" for part in ((o * 37 + 11) % 256 for o in (90, *octets)))
            many = not inside and "web" in group.services
            hosts.append(
                Host(
                    name,
                    run.netns(name),
                    address,
                    mac,
                    inside,
                    group.services,
                    group.role,
                    group.sites,
                    far.prefix(prefixes) if many else "",
                    group.uplinks,
                )
            )
            prefixes += many
    return hosts


def build(
    run: Run,
    scenario: Scenario,
    hosts: Sequence[Host],
    groups: Sequence[int],
    attackers: Sequence[int],
    etc: dict[str, str],
) -> Link:
    """Make the namespaces: `wire` holds both bridges and `router` joins them; nothing leads out of here.

    Returns the link as it could be made.
    """
    STATE.mkdir(mode=0o755, exist_ok=True)
    wire, router = run.netns("wire"), run.netns("router")
    for netns in (wire, router):
        _namespace(netns)
    link = _feasible(wire, scenario.link)
    for bridge in ("inside", "outside"):
        command("ip", "-n", wire, "link", "add", bridge, "type", "bridge")
        command("ip", "-n", wire, "link", "set", bridge, "up")
    gateways = {}
    for number, (bridge, net) in enumerate((("inside", scenario.network), ("outside", str(OUTSIDE)))):
        gateway = ipaddress.ip_network(net).network_address + 1
        gateways[bridge] = str(gateway)
        prefix = ipaddress.ip_network(net).prefixlen
        _plug(
            wire,
            router,
            f"r{number}",
            bridge,
            f"02:5a:00:00:00:0{number + 1}",
            f"{gateway}/{prefix}",
            f"eth{number}",
            link,
        )
    for number, host in enumerate(hosts):
        _namespace(host.netns)
        _lay_etc(host.netns, etc, host.name)
        bridge = "inside" if host.inside else "outside"
        prefix = ipaddress.ip_network(scenario.network if host.inside else str(OUTSIDE)).prefixlen
        _plug(
            wire,
            host.netns,
            f"p{number}",
            bridge,
            host.mac,
            f"{host.address}/{prefix}",
            "eth0",
            link,
        )
        command("ip", "-n", host.netns, "route", "add", "default", "via", gateways[bridge])
        if host.prefix:
            command("ip", "-n", host.netns, "route", "add", "local", host.prefix, "dev", "lo")
            command("ip", "-n", router, "route", "add", host.prefix, "via", host.address)
        command("ip", "netns", "exec", host.netns, "nft", "-f", "-", feed=_rules(groups, attackers, link))
    outside = [host for host in hosts if not host.inside]
    for number, host in enumerate(host for host in hosts if host.uplinks == 2):
        _second_uplink(wire, number, host, outside, link)
    return link


def _feasible(netns: str, link: Link) -> Link:
    """The link as this kernel can make it: netem is not in every one."""
    if not link.delay_ms:
        return link
    try:
        command("tc", "-n", netns, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except LabError:
        return link.model_copy(update={"delay_ms": 0.0, "jitter_ms": 0.0})
    command("tc", "-n", netns, "qdisc", "del", "dev", "lo", "root")
    return link


def _second_uplink(wire: str, number: int, host: Host, outside: Sequence[Host], link: Link) -> None:
    """A cable past the recorded bridge: to every second server outside go the questions there, from the others come
    the answers, so that the recording has one side only, as behind a second line or half a mirror port.
    """
    mac = f"02:5b:00:00:00:{number + 1:02x}"
    _plug(wire, host.netns, f"u{number}", "outside", mac, None, "eth1", link)
    for place, other in enumerate(outside):
        if place % 2:
            command("ip", "-n", host.netns, "route", "add", other.address, "dev", "eth1", "src", host.address)
        else:
            command("ip", "-n", other.netns, "route", "add", host.address, "dev", "eth0")


def _namespace(netns: str) -> None:
    command("ip", "netns", "add", netns)
    command("ip", "-n", netns, "link", "set", "lo", "up")
    off = ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    # Every host would forward, and tells nobody of a shorter way, so that one which does not is not marked by it.
    forward = (
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    )
    ping = "net.ipv4.ping_group_range=0 2147483647"
    command("ip", "netns", "exec", netns, "sysctl", "-qw", *off, *forward, ping)


def _lay_etc(netns: str, etc: dict[str, str], host: str) -> None:
    folder = ETC_NETNS / netns
    folder.mkdir(parents=True)
    for name, text in {**etc, "hostname": host + "\n"}.items():
        (folder / name).write_text(text, encoding="utf-8")


def _plug(
    wire: str, netns: str, port: str, bridge: str, mac: str, address: str | None, device: str, link: Link
) -> None:
    """A cable from the bridge to a host: same rate and queue both ways, no offloads, so frames are real frames."""
    command("ip", "-n", wire, "link", "add", port, "type", "veth", "peer", "name", device, "netns", netns)
    command("ip", "-n", netns, "link", "set", device, "address", mac)
    command("ip", "-n", wire, "link", "set", port, "master", bridge)
    for inside, name, delay in ((wire, port, 0.0), (netns, device, link.delay_ms)):
        offloads = ("tx", "off", "tso", "off", "gso", "off", "gro", "off")
        command("ip", "netns", "exec", inside, "ethtool", "-K", name, *offloads)
        command("ip", "-n", inside, "link", "set", name, "up")
        queue = ("tc", "-n", inside, "qdisc", "add", "dev", name)
        if delay:
            late = ("delay", f"{delay}ms", f"{link.jitter_ms}ms", "limit", "10000")
            command(*queue, "root", "handle", "1:", "netem", *late)
        shape = ("rate", f"{link.rate_mbit}mbit", "burst", "32kb", "limit", f"{link.queue_kb}kb")
        command(*queue, *(("parent", "1:1") if delay else ("root",)), "tbf", *shape)
    if address is not None:
        command("ip", "-n", netns, "addr", "add", address, "dev", device)


def _rules(groups: Sequence[int], attackers: Sequence[int], link: Link) -> str:
    """The truth's source: a connection is marked with the group of the process that opens it.

    The set holds the same without times: for packets that connection tracking calls invalid, should an event be lost.

    What an attacker's program answers is kept likewise: whoever was led there did not mean to.
    Raw sockets say the window that the kernel says, and are answered with the same, so that a tool's own window and
    want of options do not give the class away.
    """
    elements = ", ".join(f"{gid} : {gid}" for gid in groups) + f", 0 : {NO_GROUP}"
    loss = round(link.loss * 100_000)
    drop = f"meta iif != lo numgen random mod 100000 < {loss} counter drop" if loss else ""
    theirs = ", ".join(map(str, attackers))
    answer = "ip daddr . th dport . ip saddr . th sport . meta skgid"
    led = f"ct direction reply meta skgid {{ {theirs} }} add @answered {{ {answer} }}" if attackers else ""
    return f"""
table inet lab {{
  map who {{
    type gid : mark
    elements = {{ {elements} }}
  }}
  set opened {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service . gid
    flags dynamic
    size 1000000
  }}
  set answered {{
    type ipv4_addr . inet_service . ipv4_addr . inet_service . gid
    flags dynamic
    size 65535
  }}
  chain out {{
    type filter hook output priority filter
    ct state new ct mark set meta skgid map @who
    ct state new,invalid meta l4proto tcp add @opened {{ ip saddr . tcp sport . ip daddr . tcp dport . meta skgid }}
    {led}
    tcp flags & (syn | ack) == syn tcp window set 64240
    tcp flags & (syn | ack) == (syn | ack) tcp window set 65160
  }}
  chain in {{
    type filter hook prerouting priority raw
    {drop}
  }}
}}
"""


def clean(ident: str | None = None) -> list[str]:
    """Remove what a run left behind, without `ident` what every dead run did; returns the namespaces removed."""
    listed = [line.split(" ")[0] for line in command("ip", "netns", "list", check=False).split("\n")]
    ours = [name for name in listed if name.startswith(f"{PREFIX}-")]
    dead = {owner for owner in {name.split("-")[1] for name in ours} if ident is None and not alive(owner)}
    removed = [name for name in ours if name.split("-")[1] in (dead | {ident})]
    _end_processes(removed)
    for name in removed:
        command("ip", "netns", "del", name, check=False)
    for folder in (*ETC_NETNS.glob(f"{PREFIX}-*"), *STATE.glob("*")):
        owner = folder.name.split("-")[1] if folder.parent == ETC_NETNS else folder.name
        if owner == ident or (ident is None and not alive(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (ETC_NETNS, STATE):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return removed


def living() -> list[str]:
    """The recordings that run on this machine now."""
    return sorted(folder.name for folder in STATE.glob("*") if alive(folder.name))


def alive(ident: str) -> bool:
    """Whether the recording with this name still runs, and not another process under its number."""
    try:
        return born(int((STATE / ident / "pid").read_text())) == (STATE / ident / "born").read_text()
    except (OSError, ValueError):
        return False


def born(pid: int) -> str:
    """When a process began, in ticks since the machine did: process numbers come again."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def _end_processes(namespaces: Sequence[str]) -> None:
    """Only processes inside these namespaces, by their ids: first asked, then made."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        pids = [
            int(p) for name in namespaces for p in command("ip", "netns", "pids", name, check=False).split()
        ]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.1)
