"""What people and machines ordinarily do: each habit turns one occasion into the programs it starts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.lab import far
from benchmarks.lab.net import Host
from benchmarks.lab.services import PYTHON, kerberos_settings, principals
from benchmarks.lab.world import ASSETS, PAGES, Actor, Step, World, words

PROGRAMS = Path(__file__).with_name("programs")
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "curl/7.88.1",
    "updater/2.4",
)
OWN_SITES = 0.5  # of the visits to sites that nobody listed go to the dozen that this person keeps
PLATFORM, NEIGHBOUR = (
    0.15,
    0.2,
)  # of what attackers rent is on everyone's platforms; of the rest shares an address
BY_PROGRAM = (
    0.25  # of what the actor's client could do is done by a program started for it; alike in both classes
)


@dataclass(frozen=True)
class Occasion:
    """One actor wants one thing at one time."""

    world: World
    actor: Actor
    at: float
    rng: random.Random
    squeeze: float = 1.0  # how many seconds of the day one second of the recording stands for

    def step(
        self, what: str, *argv: str, after: float = 0.0, limit: float = 30.0, feed: str = "", **env: str
    ) -> Step:
        return Step(round(self.at + after, 3), what, argv, limit, env, feed)

    def client(self, what: str, do: str, *, after: float = 0.0, **task: Any) -> Step:
        """For the actor's own client."""
        task = {"do": do, "what": what, "ca": self.world.ca(), **task}
        return Step(round(self.at + after, 3), what, (), task=task)

    def by_program(self) -> bool:
        return self.rng.random() < BY_PROGRAM

    def agent(self) -> str:
        return AGENTS[hash_of(self.actor.name) % len(AGENTS)]

    def web(
        self,
        what: str,
        *requests: Request,
        after: float = 0.0,
        limit: float = 30.0,
        auth: str = "",
        apart: bool | None = None,
        by_program: bool | None = None,
    ) -> Step:
        """Requests by curl or by the actor's client; with curl all must be alike but for their address."""
        apart = self.rng.random() < 0.4 if apart is None else apart
        tls = "1.2" if self.rng.random() < 0.25 else ""
        if not (self.by_program() if by_program is None else by_program):
            more = {"auth": auth} if auth else {}
            return self.client(
                what, "web", after=after, requests=requests, agent=self.agent(), apart=apart, tls=tls, **more
            )
        first = requests[0]
        argv = [*(["-u", auth] if auth else []), *(["--tls-max", tls] if tls else []), "--compressed"]
        argv += ["-H", "Connection: close"] if apart else []
        argv += [
            part for name, value in first.get("headers", {}).items() for part in ("-H", f"{name}: {value}")
        ]
        argv += ["-T", first["file"]] if "file" in first else ["-d", first["body"]] if "body" in first else []
        argv += ["--http1.1"] if self.rng.random() < 0.3 else []
        argv += ["--parallel", "--parallel-max", "4"] if len(requests) > 2 and self.rng.random() < 0.3 else []
        for request in requests:
            argv += ["-o", "/dev/null", request["url"]]
        return self.curl(what, *argv, after=after, limit=limit)

    def look_up(
        self, what: str, *names: tuple[str, str], after: float = 0.0, by_program: bool | None = None
    ) -> Step:
        """Questions to the site's resolver; a name `-x` asks for the name of an address."""
        if self.by_program() if by_program is None else by_program:
            tcp = ["+tcp"] if self.rng.random() < 0.04 else []
            return self.step(
                what,
                "dig",
                "+tries=2",
                "+time=2",
                *tcp,
                *(part for pair in names for part in pair),
                after=after,
            )
        asked = [
            (".".join(reversed(kind.split("."))) + ".in-addr.arpa", "PTR") if name == "-x" else (name, kind)
            for name, kind in names
        ]
        server = self.world.offering("resolver")[0].address
        return self.client(what, "dns", after=after, names=asked, server=server, tcp=self.rng.random() < 0.02)

    def knock(self, what: str, host: str, port: int | str, *, after: float = 0.0, wait: float = 3.0) -> Step:
        """A connection that is opened and closed, or fails."""
        if self.by_program():
            return self.step(what, "ncat", "-z", "-w", str(int(wait)), host, str(port), after=after)
        return self.client(what, "knock", after=after, host=host, port=int(port), wait=wait)

    def mail_box(
        self,
        what: str,
        host: str,
        auth: str,
        *,
        secure: bool,
        after: float = 0.0,
        by_program: bool | None = None,
    ) -> Step:
        if self.by_program() if by_program is None else by_program:
            request = self.rng.choice(("NOOP", "SEARCH ALL", "STATUS INBOX (MESSAGES)"))
            url = f"imap{'s' if secure else ''}://{host}/INBOX"
            return self.curl(what, "-u", auth, "-X", request, url, after=after)
        stay = (
            {"looks": self.rng.randrange(2, 8), "pause": self.rng.uniform(2, 25)}
            if self.rng.random() < 0.1
            else {}
        )
        return self.client(what, "imap", after=after, host=host, auth=auth, secure=secure, **stay)

    def curl(self, what: str, *argv: str, after: float = 0.0, limit: float = 30.0) -> Step:
        fixed = ("curl", "-s", "-m", str(int(limit)), "--cacert", self.world.ca(), "-A", self.agent())
        return self.step(what, *fixed, *argv, after=after, limit=limit + 5)

    def targets(self, count: int = 1) -> list[Host]:
        """Hosts inside that somebody looks at, servers more often than others; alike in both classes."""
        found: list[Host] = []
        others = [h for h in self.world.hosts if h.inside and h.name != self.actor.host]
        servers = [h for h in others if h.services]
        while len(found) < min(count, len(others)):
            chosen = self.rng.choice(servers if servers and self.rng.random() < 0.5 else others)
            found += [] if chosen in found else [chosen]
        return found

    def popular(self) -> str:
        """A web site outside, as people choose."""
        sites = self.world.sites(inside=False)
        if self.world.prefixes() and self.rng.random() < self.world.scenario.wander:
            return self.wandering()
        return self.rng.choice(sites[: max(1, len(sites) // 2)] if self.rng.random() < 0.6 else sites)

    def wandering(self) -> str:
        """A site that nobody listed: one of the actor's own few, or any."""
        if self.rng.random() < OWN_SITES:
            mine = random.Random(f"{self.actor.name}/sites/{self.rng.randrange(12)}")
            return far.site(mine)
        return far.site(self.rng)

    def rented(self) -> str:
        """A site of the attackers: mostly new to everybody, by name and address; now and then a platform of everyone's.

        Of the new ones a few are young neighbours of old sites, at an address that many share.
        """
        prefixes = self.world.prefixes()
        if not prefixes or self.rng.random() < PLATFORM:
            return self.popular()
        neighbours = self.rng.random() < NEIGHBOUR
        while True:
            site = far.name(far.DOMAINS + self.rng.randrange(1 << 30), self.rng)
            if far.is_shared(site, prefixes) == neighbours and not far.has_expired(site):
                return site

    def server(self, service: str) -> tuple[Host, str] | None:
        """A host inside that offers this, by its name."""
        offering = self.world.offering(service, inside=True) or self.world.offering(service)
        offering = [h for h in offering if h.name != self.actor.host]
        if not offering:
            return None
        host = self.rng.choice(offering)
        return host, self.world.name_of(host)


def hash_of(text: str) -> int:
    """The same in every process, unlike hash()."""
    return random.Random(text).randrange(1 << 30)


Habit = Callable[[Occasion], Iterator[Step]]
Request = dict[str, Any]  # url; method, body or file, headers, pause before it in seconds


def _pages(o: Occasion, site: str, scheme: str, count: int, what: str) -> Iterator[Step]:
    """Pages with their parts, read one after the other."""
    pages: list[list[Request]] = []
    for number in range(count):
        parts = [
            f"p{o.rng.randrange(PAGES)}.html",
            *(f"a{o.rng.randrange(ASSETS)}" for _ in range(o.rng.choice((0, 0, 1, 2, 4)))),
        ]
        pages.append([{"url": f"{scheme}://{site}/{part}"} for part in parts])
        if number:
            pages[-1][0]["pause"] = round(o.rng.lognormvariate(1.0, 0.8), 2)
    if not o.by_program():
        yield o.web(what, *(request for page in pages for request in page), by_program=False)
        return
    after = 0.0
    for page in pages:
        after += page[0].get("pause", 0.0)
        yield o.web(what, *page, after=after, by_program=True)


def browse(o: Occasion) -> Iterator[Step]:
    site = o.popular()
    scheme = "https" if o.rng.random() < 0.85 else "http"
    yield from _pages(o, site, scheme, o.rng.choice((1, 1, 2, 3)), "browse")
    if scheme == "https" and far.has_expired(site):  # it says so, and people try again
        for number in range(o.rng.choice((1, 2))):
            again = {"url": f"https://{site}/p0.html"}
            yield o.web("browse", again, after=(number + 1) * o.rng.uniform(2.0, 12.0), by_program=False)


def intranet(o: Occasion) -> Iterator[Step]:
    sites = o.world.sites(inside=True)
    if sites:
        yield from _pages(
            o, o.rng.choice(sites), o.rng.choice(("https", "http")), o.rng.choice((1, 2)), "intranet"
        )


def plain_page(o: Occasion) -> Iterator[Step]:
    yield from _pages(o, o.popular(), "http", 1, "plain-page")


def missing_page(o: Occasion) -> Iterator[Step]:
    site = o.rng.choice(o.world.sites(inside=o.rng.random() < 0.5) or o.world.sites(inside=False))
    yield o.web("missing-page", {"url": f"http://{site}/old/{o.rng.randrange(10**4)}.html"})


def _either(o: Occasion) -> str:
    inside = o.world.sites(inside=True)
    return o.rng.choice(inside) if inside and o.rng.random() < 0.5 else o.popular()


def staff_page(o: Occasion) -> Iterator[Step]:
    """Behind a password, and people mistype."""
    sites = o.world.sites(inside=True)
    if not sites:
        return
    word = o.world.password(o.actor.name) if o.rng.random() < 0.7 else "wrong" + str(o.rng.randrange(100))
    url = f"https://{o.rng.choice(sites)}/private/p{o.rng.randrange(PAGES)}.html"
    yield o.web("staff-page", {"url": url}, auth=f"{o.actor.name}:{word}")


def update_check(o: Occasion) -> Iterator[Step]:
    """Software that asks home at regular intervals, much like a beacon: a few polls in a row."""
    sites = o.world.sites(inside=False)
    site = sites[hash_of(o.actor.name + "update") % len(sites)]
    pause = 4.0 + hash_of(o.actor.name + "pause") % 17
    urls = [
        f"https://{site}/a{o.rng.randrange(2)}?v=2.4.{o.rng.randrange(9)}"
        for _ in range(o.rng.randrange(2, 7))
    ]
    by_program = o.by_program()
    after = 0.0
    for number, url in enumerate(urls):
        after += pause + o.rng.uniform(-0.5, 0.5) if number else 0.0
        yield o.web("update-check", {"url": url}, after=after, by_program=by_program)


def telemetry(o: Occasion) -> Iterator[Step]:
    """An agent that reports to its maker at intervals, all day, as most software does."""
    mine = random.Random(f"{o.actor.name}/maker")
    site = mine.choice(o.world.sites(inside=False)) if mine.random() < 0.5 else far.site(mine)
    report: Request = {"url": f"https://{site}/a{mine.randrange(ASSETS)}"}
    if mine.random() < 0.5:
        words_ = "".join(o.rng.choices("abcdef0123456789", k=mine.randrange(60, 400) + o.rng.randrange(40)))
        report |= {"method": "POST", "body": f"d={words_}"}
    yield o.web("telemetry", report, apart=True, by_program=False)


def send_form(o: Occasion) -> Iterator[Step]:
    site = _either(o)
    body = "&".join(f"field{n}={o.rng.randrange(10**6)}" for n in range(o.rng.randrange(3, 30)))
    yield o.web("send-form", {"url": f"https://{site}/p0.html", "method": "POST", "body": body})


def upload_document(o: Occasion) -> Iterator[Step]:
    site = _either(o)
    size = int(o.world.scenario.page_kb * o.rng.choice((0.2, 0.5, 1, 1, 3, 6)))
    url = f"https://{site}/files/{o.actor.name}-{o.rng.randrange(4)}"
    yield o.web("upload-document", {"url": url, "method": "PUT", "file": o.world.file(size)}, limit=60)


def mail_read(o: Occasion) -> Iterator[Step]:
    if found := o.server("mail"):
        word = o.world.password(o.actor.name) if o.rng.random() < 0.95 else "forgotten"
        secure = o.rng.random() < 0.7
        yield o.mail_box("mail-read", found[1], f"{o.actor.name}:{word}", secure=secure)


def mail_send(o: Occasion) -> Iterator[Step]:
    if found := o.server("mail"):
        domain = o.world.scenario.domain
        size = int(o.rng.lognormvariate(6.0, 1.0))
        letter = (
            f"From: {o.actor.name}@{domain}\nTo: team@{domain}\nSubject: note {o.rng.randrange(999)}\n\n"
            + ("word " * 14 + "\n") * (size // 70 + 1)
        )
        submitted = o.rng.random() < 0.6
        if not o.by_program():
            people = {"sender": f"{o.actor.name}@{domain}", "to": f"team@{domain}"}
            port = 587 if submitted else 25
            yield o.client("mail-send", "smtp", host=found[1], port=port, letter=letter, **people)
            return
        secure = ["--ssl-reqd", f"smtp://{found[1]}:587"] if submitted else [f"smtp://{found[1]}:25"]
        step = o.curl(
            "mail-send",
            "--crlf",
            "--mail-from",
            f"{o.actor.name}@{domain}",
            "--mail-rcpt",
            f"team@{domain}",
            "-T",
            "-",
            *secure,
        )
        yield Step(step.at, step.what, step.argv, step.limit, step.env, letter)


def ssh_session(o: Occasion) -> Iterator[Step]:
    if found := o.server("ssh"):
        order = o.rng.choice(
            ("uptime", "df -h", "ls -l /etc", "sleep 2; id", "ps ax | head -40", "sleep 6; uname -a")
        )
        yield o.step("ssh-session", "ssh", f"{o.actor.name}@{found[1]}", order, limit=40)


def ssh_password(o: Occasion) -> Iterator[Step]:
    """By password, which people mistype once or twice."""
    if found := o.server("ssh"):
        wrong = o.rng.choice((0, 0, 1, 1, 2))
        for number in range(wrong + 1):
            word = o.world.password(o.actor.name) if number == wrong else f"typo{o.rng.randrange(99)}"
            options = ("-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no")
            yield o.step(
                "ssh-password",
                "sshpass",
                "-p",
                word,
                "ssh",
                *options,
                f"{o.actor.name}@{found[1]}",
                "id",
                after=number * 3.0,
            )


def sftp_copy(o: Occasion) -> Iterator[Step]:
    if found := o.server("ssh"):
        name = o.world.file(int(o.world.scenario.page_kb * o.rng.choice((0.2, 1, 1, 4))))
        target = f"{o.actor.name}@{found[1]}"
        if o.rng.random() < 0.5:
            yield o.step("sftp-copy", "scp", "-q", name, f"{target}:copy-{o.rng.randrange(5)}")
        else:
            yield o.step(
                "sftp-copy", "sftp", "-q", "-b", "-", target, feed=f"put {name} file\nls -l\nget file got\n"
            )


def database(o: Occasion) -> Iterator[Step]:
    if found := o.server("database"):
        queries: list[str] = []
        for _ in range(o.rng.choice((1, 1, 2, 5))):
            who = f"c{o.rng.randrange(50)}"
            queries += ["-c", o.rng.choice((
                f"select id, amount from orders where who='{who}' limit {o.rng.randrange(1, 30)}",
                f"insert into orders(who,amount,note) values('{who}',{o.rng.randrange(999)},'new')",
                "select who, sum(amount) from orders group by who order by 2 desc limit 5",
            ))]  # fmt: skip
        word = o.world.password("app") if o.rng.random() < 0.96 else "old-password"
        yield o.step(
            "database",
            "psql",
            "-q",
            "-h",
            found[1],
            "-U",
            "app",
            "postgres",
            *queries,
            PGPASSWORD=word,
            PGSSLMODE="prefer",
        )


def cache(o: Occasion) -> Iterator[Step]:
    if found := o.server("cache"):
        key = f"session:{o.rng.randrange(500)}"
        order = o.rng.choice(
            (
                ("set", key, "v" * o.rng.randrange(5, 400)),
                ("get", key),
                ("incr", "visits"),
                ("expire", key, "60"),
            )
        )
        yield o.step("cache", "redis-cli", "-h", found[1], "-r", str(o.rng.choice((1, 1, 3, 8))), *order)


def sensor(o: Occasion) -> Iterator[Step]:
    if found := o.server("broker"):
        value = f'{{"t": {o.rng.uniform(15, 25):.1f}}}'
        yield o.step(
            "sensor",
            "mosquitto_pub",
            "-h",
            found[1],
            "-t",
            f"site/{o.actor.host}/t",
            "-m",
            value,
            "-q",
            o.rng.choice("01"),
        )


def subscribe(o: Occasion) -> Iterator[Step]:
    if found := o.server("broker"):
        yield o.step(
            "subscribe",
            "mosquitto_sub",
            "-h",
            found[1],
            "-t",
            "site/#",
            "-W",
            str(o.rng.randrange(10, 90)),
            limit=100,
        )


def git_work(o: Occasion) -> Iterator[Step]:
    if found := o.server("git"):
        url = f"git://{found[1]}/project{o.rng.randrange(3)}.git"
        folder = f"clone-{o.rng.randrange(10**9)}"
        if o.rng.random() < 0.5:
            yield o.step("git-work", "git", "ls-remote", url)
        else:
            yield o.step(
                "git-work", "git", "clone", "-q", "--depth", "1", url, str(o.world.home(o.actor) / folder)
            )


def backup(o: Occasion) -> Iterator[Step]:
    if found := o.server("rsync"):
        name = o.world.file(int(o.world.scenario.page_kb * o.rng.choice((1, 1, 3, 10))))
        yield o.step(
            "backup",
            "rsync",
            "-t",
            "--ignore-times",
            "--whole-file",
            name,
            f"rsync://{found[1]}/backup/{o.actor.host}-{o.rng.randrange(5)}",
        )


def mirror(o: Occasion) -> Iterator[Step]:
    if found := o.server("rsync"):
        yield o.step("mirror", "rsync", "--list-only", f"rsync://{found[1]}/mirror/")


def look_up(o: Occasion) -> Iterator[Step]:
    """Names of every kind, and some that do not exist."""
    names: list[tuple[str, str]] = []
    for _ in range(o.rng.choice((1, 1, 2, 3, 5))):
        site = o.rng.choice(o.world.sites(inside=False))
        parent = site.split(".", 1)[1]
        first, rest = parent.split(".", 1)
        typo = "".join(o.rng.sample(first, k=len(first))) + "." + rest
        address = o.rng.choice(list(o.world.hosts)).address
        domain = o.world.scenario.domain
        kinds = ((site, "A"), (site, "AAAA"), (parent, "MX"), (parent, "TXT"), (parent, "NS"), (typo, "A"))
        inside = (
            ("-x", address),
            (f"printer{o.rng.randrange(9)}.{domain}", "A"),
            (f"_ldap._tcp.{domain}", "SRV"),
        )
        names.append(o.rng.choice((*kinds, *inside)))
    yield o.look_up("look-up", *names)


def surf(o: Occasion) -> Iterator[Step]:
    """A whole browser without a screen: parts fetched side by side, a profile of its own."""
    site = o.popular()
    scheme = "https" if o.rng.random() < 0.85 else "http"
    profile = o.world.home(o.actor) / f"browser-{o.rng.randrange(10**9)}"
    fixed = words(
        "chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --ignore-certificate-errors --mute-audio "
        "--disable-extensions --renderer-process-limit=1 --dump-dom"
    )
    page = f"{scheme}://{site}/p{o.rng.randrange(PAGES)}.html"
    yield o.step("surf", *fixed, f"--user-data-dir={profile}", page, limit=25)


def unplug(o: Occasion) -> Iterator[Step]:
    """A laptop carried off, a radio link lost: whatever is open hangs, and may never be closed properly."""
    seconds = o.rng.choice((1.0, 3.0, 8.0, 20.0)) * o.rng.uniform(0.7, 1.3)
    argv = (PYTHON, "-IS", str(PROGRAMS / "unplug.py"), f"{seconds:.1f}")
    yield replace(o.step("unplug", *argv, limit=seconds + 10), root=True)


def ssh_stay(o: Occasion) -> Iterator[Step]:
    """A terminal left open, in which something runs now and then."""
    if found := o.server("ssh"):
        rounds, pause = o.rng.randrange(5, 60), o.rng.randrange(2, 12)
        order = f"for n in $(seq {rounds}); do uptime; sleep {pause}; done"
        options = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
        yield o.step(
            "ssh-stay", "ssh", *options, f"{o.actor.name}@{found[1]}", order, limit=rounds * pause + 30
        )


def set_clock(o: Occasion) -> Iterator[Step]:
    if found := o.server("time"):
        yield o.step("set-clock", "ntpdate", "-q", found[1])


def ping(o: Occasion) -> Iterator[Step]:
    target = o.rng.choice([h for h in o.world.hosts if h.name != o.actor.host])
    yield o.step("ping", "ping", "-n", "-q", "-c", str(o.rng.choice((1, 3, 5))), target.address)


def lost_server(o: Occasion) -> Iterator[Step]:
    """A misconfigured client: the old server's address, or a port that nobody serves any more."""
    if o.rng.random() < 0.5:
        target = o.rng.choice(o.world.free_addresses())
    else:
        target = o.rng.choice([h for h in o.world.hosts if h.name != o.actor.host]).address
    port = (445, 515, 631, 1433, 3128, 3306, 5900, 8080, 8443, 9100)[
        hash_of(o.actor.name + str(o.rng.randrange(2))) % 10
    ]
    for number in range(o.rng.choice((1, 2, 3))):
        yield o.knock("lost-server", target, port, after=number * 4.0)


def lost_server_far(o: Occasion) -> Iterator[Step]:
    """Nobody has this address outside: the router says so, or nobody answers."""
    used = {h.address for h in o.world.hosts}
    target = next(a for a in iter(lambda: f"198.51.100.{o.rng.randrange(2, 250)}", "") if a not in used)
    yield o.knock("lost-server", target, o.rng.choice((80, 443, 8530)))


def poll_devices(o: Occasion) -> Iterator[Step]:
    """Monitoring: SNMP where it is offered, a knock on web and SSH ports elsewhere."""
    for number, host in enumerate(o.world.offering("snmp")):
        argv = (
            *words("snmpget -v2c -c public -t 1 -r 1"),
            host.address,
            "1.3.6.1.2.1.1.3.0",
            "1.3.6.1.2.1.1.5.0",
        )
        yield o.step("poll-devices", *argv, after=number * 0.2)
    for service, port in (("web", 443), ("ssh", 22), ("mail", 25), ("database", 5432)):
        for number, host in enumerate(o.world.offering(service, inside=True)):
            if o.rng.random() < 0.5 and host.name != o.actor.host:
                yield o.knock("poll-devices", host.address, port, after=1 + number * 0.3, wait=2.0)


def inventory(o: Occasion) -> Iterator[Step]:
    """Somebody's own look at what is open where, by the same tool, at the same pace and hosts as attackers'."""
    far = [h.address for h in o.world.hosts if not h.inside]
    manner = o.rng.random()
    near = [h.address for h in o.targets(2)]
    if manner < 0.2:
        ports = ("-p", "22,80,443,5432", "--max-rate", "4")
        yield o.step("inventory", *words("nmap -sT -n -Pn"), *ports, *near, limit=60)
    elif manner < 0.6:
        ports = ("--top-ports", str(o.rng.choice((25, 50, 100, 200))))
        yield o.step("inventory", *words("nmap -sT -n -Pn -T4"), *ports, *near, limit=60)
    else:
        ports = ("--top-ports", str(o.rng.choice((25, 50, 100, 200))))
        chosen = [o.rng.choice(far)] if far and o.rng.random() < 0.3 else near
        step = o.step(
            "inventory", *words("nmap -sS -n -Pn -T4 --send-ip --ttl 64"), *ports, *chosen, limit=60
        )
        yield replace(step, root=True)


MOVED = (3306, 5433, 5984, 6380, 8080, 8086, 8443, 9042, 9092, 9200, 11211, 27017)


def pool(o: Occasion) -> Iterator[Step]:
    """A program whose server has moved tries with its whole pool, waits twice as long, and tries again."""
    servers = [h for h in o.world.hosts if h.inside and h.services and h.name != o.actor.host]
    number = hash_of(o.actor.name + "pool" + str(o.rng.randrange(3)))
    host, port, size = servers[number % len(servers)], MOVED[number % len(MOVED)], 4 + number % 17
    after = 0.0
    for attempt in range(o.rng.choice((1, 2, 3))):
        after += 2.0**attempt if attempt else 0.0
        yield o.client("pool", "pool", after=after, host=host.address, port=port, count=size)


def wrong_port(o: Occasion) -> Iterator[Step]:
    """A port mistyped or copied from an old note."""
    host = o.rng.choice([h for h in o.world.hosts if h.services and h.name != o.actor.host])
    yield o.knock(
        "wrong-port", host.address, o.rng.choice((23, 222, 433, 2222, 4443, 5423, 8022, 8081, 8433))
    )


def health_check(o: Occasion) -> Iterator[Step]:
    """A balancer's look at every server it knows, half a handshake each."""
    ports = {"web": 443, "ssh": 22, "mail": 25, "database": 5432, "cache": 6379}
    known = [(h, ports[s]) for h in o.world.hosts if h.name != o.actor.host for s in h.services if s in ports]
    for number, (host, port) in enumerate(o.rng.sample(known, k=min(4, len(known)))):
        yield o.client("health-check", "check", after=number * 0.1, host=host.address, port=port)


def forgotten(o: Occasion) -> Iterator[Step]:
    """A connection that nobody closes: opened ahead of a need that never came, or kept after its only request."""
    site = o.rng.choice(o.world.sites(inside=o.rng.random() < 0.4) or o.world.sites(inside=False))
    used = {"path": f"/p{o.rng.randrange(PAGES)}.html"} if o.rng.random() < 0.6 else {}
    yield o.client("forgotten", "forget", host=site, port=80, **used)


def ticket(o: Occasion) -> Iterator[Step]:
    """A Kerberos ticket by password, which people mistype, then tickets for a service or two."""
    if not o.server("kerberos"):
        return
    cache, name = str(o.world.home(o.actor) / "tickets"), o.actor.name
    settings = {
        "KRB5_CONFIG": kerberos_settings(o.world, tcp=o.rng.random() < 0.4),
        "KRB5CCNAME": f"FILE:{cache}",
    }
    wrong = o.rng.random() < 0.1
    after = 0.0
    for word in ("Tpyo1", o.world.password(name)) if wrong else (o.world.password(name),):
        yield o.step("ticket", "kinit", name, after=after, feed=f"{word}\n", **settings)
        after += 2.0
    wanted = o.rng.sample(principals(o.world), k=o.rng.choice((0, 1, 1, 2)))
    if wanted:
        yield o.step("ticket", "kvno", "-q", *wanted, after=after, **settings)


def work_files(o: Occasion) -> Iterator[Step]:
    """Files on the NFS server: listed, read, written."""
    if found := o.server("nfs"):
        place = f"nfs://{found[1]}/work"
        size = o.rng.choice((1, 4, 16))
        argv = o.rng.choice((
            ("nfs-ls", f"{place}/?version=4"),
            ("nfs-cat", f"{place}/file-{size}k?version=4"),
            ("nfs-cp", o.world.file(size), f"{place}/{o.actor.name}{o.rng.randrange(3)}?version=4"),
        ))  # fmt: skip
        yield o.step("work-files", *argv)


def lease(o: Occasion) -> Iterator[Step]:
    """An address by DHCP, renewed while it lasts; the host has it already, so nothing changes."""
    if not o.world.offering("addresses", inside=True):
        return
    seconds = o.rng.choice((8.0, 30.0, 90.0, 240.0)) * o.rng.uniform(0.7, 1.3)
    home = o.world.home(o.actor)
    files = (
        "-sf",
        "/bin/true",
        "-cf",
        "/dev/null",
        "-lf",
        str(home / "lease"),
        "-pf",
        str(home / "lease.pid"),
    )
    yield replace(o.step("lease", "dhclient", "-d", "-1", *files, "eth0", limit=seconds), root=True)
    if o.rng.random() < 0.3:
        step = o.step("lease", "dhclient", "-d", "-r", *files, "eth0", after=seconds + 1.0, limit=10.0)
        yield replace(step, root=True)


def download(o: Occasion) -> Iterator[Step]:
    """A roll-out: the same parts for everyone."""
    site = o.world.sites(inside=False)[0]
    count = o.rng.choice((2, 4, 6))
    yield o.web("download", *({"url": f"https://{site}/a{number}"} for number in range(count)), limit=60)


def api_call(o: Occasion) -> Iterator[Step]:
    """A program that asks another program, several times over one connection."""
    hosts = [h for h in o.world.offering("api") if h.name != o.actor.host]
    if hosts:
        requests: list[Request] = []
        for _ in range(o.rng.choice((1, 1, 2, 5))):
            site = _site_of(o, o.rng.choice(hosts))
            requests.append({"url": f"https://{site}/api/v1/items?page={o.rng.randrange(50)}"})
        yield o.web("api-call", *requests)


def chat(o: Occasion) -> Iterator[Step]:
    hosts = [h for h in o.world.offering("api") if h.name != o.actor.host]
    if hosts:
        yield chat_with(o, _site_of(o, o.rng.choice(hosts)), o.rng.randrange(5, 120))


def chat_with(o: Occasion, site: str, seconds: int) -> Step:
    """A WebSocket held for so long, with a word now and then."""
    chat = (
        PYTHON,
        str(PROGRAMS / "chat.py"),
        f"wss://{site}/ws",
        o.world.ca(),
        str(seconds),
        str(o.rng.random()),
    )
    return o.step("chat", *chat, limit=seconds + 20)


def _site_of(o: Occasion, host: Host) -> str:
    first = (host.sites or ("www",))[0]
    return f"{first}.{o.world.scenario.domain}" if host.inside else first


def share(o: Occasion) -> Iterator[Step]:
    """Files of the office's share, now and then with an old password."""
    if found := o.server("share"):
        word = o.world.password(o.actor.name) if o.rng.random() < 0.93 else "expired"
        name = o.world.file(int(o.world.scenario.page_kb * o.rng.choice((0.3, 1, 3))))
        order, place = o.rng.choice(
            (
                ("ls", "files"),
                (f"put {name} {o.actor.name}{o.rng.randrange(5)}", "public"),
                ("get file-4k /dev/null", "files"),
                ("ls; du", "public"),
            )
        )
        yield o.step(
            "share", "smbclient", f"//{found[1]}/{place}", "-U", f"{o.actor.name}%{word}", "-c", order
        )


def address_book(o: Occasion) -> Iterator[Step]:
    if found := o.server("directory"):
        base = ",".join(f"dc={part}" for part in o.world.scenario.domain.split("."))
        who = o.rng.choice([a.name for a in o.world.actors])
        login = (
            ("-D", f"uid={o.actor.name},{base}", "-w", o.world.password(o.actor.name))
            if o.rng.random() < 0.5
            else ()
        )
        wanted = o.rng.choice((f"(uid={who})", "(objectClass=inetOrgPerson)", "(mail=*)"))
        argv = ("ldapsearch", "-x", "-LLL", "-H", f"ldap://{found[1]}", *login, "-b", base, wanted, "mail")
        yield o.step("address-book", *argv)


def log_line(o: Occasion) -> Iterator[Step]:
    if found := o.server("syslog"):
        line = f"request {o.rng.randrange(10**6)} done in {o.rng.randrange(900)} ms"
        if o.by_program():
            tcp = "-T" if o.rng.random() < 0.3 else "-d"
            yield o.step("log-line", "logger", "-n", found[1], "-P", "514", tcp, "-t", "app", line)
        else:
            lines = [f"<13>app: {line}"] * o.rng.choice((1, 1, 2, 4))
            yield o.client("log-line", "syslog", host=found[1], lines=lines)


def watch(o: Occasion) -> Iterator[Step]:
    """A film: a piece every two seconds over one connection, slowed to its rate."""
    hosts = [h for h in o.world.offering("stream") if h.name != o.actor.host]
    if hosts:
        host = o.rng.choice(hosts)
        pieces = o.rng.randrange(3, 40)
        urls: list[str] = []
        for number in range(pieces):
            urls += ["-o", "/dev/null", f"http://{o.world.name_of(host)}:8554/piece{number % 20}.ts"]
        yield o.curl("watch", "--limit-rate", f"{o.world.scenario.page_kb * 2}k", *urls, limit=150)


def control(o: Occasion) -> Iterator[Step]:
    """The control room reads the controllers."""
    if found := o.server("modbus"):
        count = o.rng.choice((1, 3, 10, 30))
        yield o.step(
            "control",
            PYTHON,
            str(PROGRAMS / "poll.py"),
            "read",
            found[0].address,
            str(count),
            "0.8",
            str(o.rng.random()),
            limit=60,
        )


def adjust(o: Occasion) -> Iterator[Step]:
    """An operator sets a value, as is her job."""
    if found := o.server("modbus"):
        yield o.step(
            "adjust",
            PYTHON,
            str(PROGRAMS / "poll.py"),
            "set",
            found[0].address,
            str(o.rng.choice((1, 2, 4))),
            "1.5",
            str(o.rng.random()),
        )


def print_page(o: Occasion) -> Iterator[Step]:
    if found := o.server("print"):
        yield o.step(
            "print-page",
            "ncat",
            "--send-only",
            "-w",
            "5",
            found[0].address,
            "9100",
            feed="%!PS\n" + "(line) show\n" * int(o.rng.lognormvariate(5, 1)),
        )


HABITS: dict[str, Habit] = {
    "browse": browse, "intranet": intranet, "plain-page": plain_page, "missing-page": missing_page,
    "surf": surf, "unplug": unplug, "ssh-stay": ssh_stay,
    "staff-page": staff_page, "update-check": update_check, "send-form": send_form, "telemetry": telemetry,
    "upload-document": upload_document, "mail-read": mail_read, "mail-send": mail_send, "ssh-session": ssh_session,
    "ssh-password": ssh_password, "sftp-copy": sftp_copy, "database": database, "cache": cache, "sensor": sensor,
    "subscribe": subscribe, "git-work": git_work, "backup": backup, "mirror": mirror, "look-up": look_up,
    "set-clock": set_clock, "ping": ping, "lost-server": lost_server, "lost-server-far": lost_server_far,
    "poll-devices": poll_devices, "inventory": inventory, "download": download,
    "api-call": api_call, "chat": chat, "share": share, "address-book": address_book, "log-line": log_line,
    "watch": watch, "control": control, "adjust": adjust, "print-page": print_page, "pool": pool,
    "wrong-port": wrong_port, "health-check": health_check, "forgotten": forgotten, "ticket": ticket,
    "work-files": work_files, "lease": lease,
}  # fmt: skip
