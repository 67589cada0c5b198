"""The servers: real programs, each with the smallest configuration under which it behaves like itself."""

from __future__ import annotations

import ipaddress
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import far, net
from benchmarks.lab.net import Host, command, search_path
from benchmarks.lab.scenario import LabError
from benchmarks.lab.world import ASSETS, FILES_KB, PAGES, Step, World, words

PYTHON = "/usr/bin/python3"  # Debian's, with Debian's modules, whatever Python runs the laboratory
MODULES = {"mail": "aiosmtpd", "api": "websockets", "modbus": "pymodbus"}
PROGRAMS = Path(__file__).with_name("programs")
FAR_PAGES = 8  # different contents of the sites that nobody listed
PATIENCE = 40.0  # seconds for a server to listen; the machine may be busy


@dataclass(frozen=True)
class Daemon:
    """A server to start, and the ports on which it is ready."""

    what: str
    argv: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    user: str | None = None


def require(world: World, steps: Iterable[Step]) -> None:
    """Refuse to start without a program that a server or the story needs, or a module of Debian's Python."""
    offered = {service for host in world.hosts for service in host.services}
    programs = {
        "web": ("nginx",), "ssh": ("sshd", "ssh"), "resolver": ("unbound",), "names": ("named",), "mail": ("dovecot",),
        "database": ("psql",), "cache": ("redis-server",), "broker": ("mosquitto",), "time": ("chronyd",),
        "git": ("git",), "rsync": ("rsync",), "snmp": ("snmpd",), "share": ("smbd",), "directory": ("slapd",),
        "tunnel-end": ("iodined",), "syslog": ("rsyslogd",), "print": ("ncat",), "stream": ("nginx",),
        "kerberos": ("krb5kdc", "kdb5_util", "kadmin.local", "kinit", "kvno"), "nfs": ("ganesha.nfsd",),
        "addresses": ("dnsmasq",),
    }  # fmt: skip
    started = {step.argv[0] for step in steps if step.argv}
    net.require({*started, *(tool for service in offered for tool in programs.get(service, ())), PYTHON})
    wanted = sorted(MODULES[service] for service in offered & MODULES.keys())
    look = "import sys, importlib.util as u; print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    if missing := command(PYTHON, "-I", "-c", look, *wanted).split():
        raise LabError(
            f"missing modules of {PYTHON}: {', '.join(missing)} (benchmarks/lab/README.md names their packages)"
        )


def prepare(world: World) -> None:
    """Certificates, web content, files and homes, all under the run's own folder."""
    _certificates(world)
    rng = random.Random(f"{world.scenario.kin}/content")
    _content(world, rng)
    for actor in world.actors:
        _home(world, actor.name, actor.uid, actor.gid)


def daemons(world: World, host: Host) -> list[Daemon]:
    """What this host runs, its configuration written."""
    folder = world.run.state / "srv" / host.name
    folder.mkdir(parents=True)
    return [daemon for service in host.services for daemon in _SERVICES[service](world, host, folder)]


def start(world: World) -> list[subprocess.Popen[bytes]]:
    """Start every server and wait until all listen; raises LabError naming the one that does not."""
    processes: list[subprocess.Popen[bytes]] = []
    waiting: list[tuple[Host, Daemon, subprocess.Popen[bytes], Path]] = []
    for host in world.hosts:
        for daemon in daemons(world, host):
            log = world.run.state / "srv" / host.name / f"{daemon.what}.out"
            user = (
                ("setpriv", f"--reuid={daemon.user}", f"--regid={daemon.user}", "--clear-groups", "--")
                if daemon.user
                else ()
            )
            with log.open("wb") as out:
                process = subprocess.Popen(
                    ("ip", "netns", "exec", host.netns, *user, *daemon.argv),
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
                    env=_environment(world.run.state / "srv" / host.name),
                    start_new_session=True,
                )  # fmt: skip
            processes.append(process)
            waiting.append((host, daemon, process, log))
    for host, daemon, process, log in waiting:
        _wait(host, daemon, process, log)
        _after(world, host, daemon)
    return processes


def _environment(folder: Path) -> dict[str, str]:
    """Of a server: what it keeps goes into its own folder, what it would note of the machine nowhere."""
    kept = {"SNMP_PERSISTENT_DIR": str(folder / "snmp"), "BLKID_FILE": "/dev/null"}
    return {"PATH": search_path(), "LANG": "C.UTF-8", "HOME": "/nonexistent", **kept}


def _wait(host: Host, daemon: Daemon, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        listening = command("ip", "netns", "exec", host.netns, "ss", "-Htuln", check=False)
        open_ports = {
            (line.split()[0], int(line.split()[4].rsplit(":", 1)[1])) for line in listening.splitlines()
        }
        if all(port in open_ports for port in daemon.ports):
            return
        if process.poll() not in (None, 0) or time.monotonic() > deadline:
            words = " ".join(log.read_text(errors="replace").split())[-300:]
            raise LabError(
                f"server {daemon.what} on {host.name} does not listen on {daemon.ports}: {words or 'no word'}"
            )
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------------ content


def _certificates(world: World) -> None:
    folder = world.run.state / "tls"
    folder.mkdir(parents=True)
    key, ca = str(folder / "ca.key"), str(folder / "ca.pem")
    _openssl_key(key)
    command(
        "openssl",
        "req",
        "-x509",
        "-new",
        "-key",
        key,
        "-out",
        ca,
        "-days",
        "3650",
        "-subj",
        "/O=Lab Trust/CN=Lab Root CA",
    )
    rng = random.Random(f"{world.scenario.kin}/tls")
    for name in sorted(_tls_names(world)):
        own, request = str(folder / f"{name}.key"), str(folder / f"{name}.csr")
        _openssl_key(own)
        command("openssl", "req", "-new", "-key", own, "-out", request, "-subj", f"/CN={name}")
        extension = folder / f"{name}.ext"
        extension.write_text(f"subjectAltName=DNS:{name}\n", encoding="utf-8")
        days = rng.choice((90, 90, 365, 365, 825))
        for ending, valid in (("pem", days), ("late", -1)) if name in world.expiring() else (("pem", days),):
            _sign(folder, name, ending, valid, rng)
    _openssl_key(str(folder / "far.key"))  # of all sites that nobody listed: hundreds, and new every day
    asked = ("-key", str(folder / "far.key"), "-out", str(folder / "far.csr"), "-subj", "/CN=far")
    command("openssl", "req", "-new", *asked)
    for name in sorted(world.far):
        rng = random.Random(f"{world.scenario.kin}/tls/{name}")
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n", encoding="utf-8")
        days = -1 if far.has_expired(name) else rng.choice((90, 90, 365, 365))
        _sign(folder, name, "pem", days, rng, request="far")
    for path in folder.iterdir():
        path.chmod(0o644)


def _sign(
    folder: Path, name: str, ending: str, days: int, rng: random.Random, request: str | None = None
) -> None:
    """A certificate for a name, valid for so many days; with -1 until yesterday. `request`: another name's."""
    signed = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-days", str(days))
    serial = ("-set_serial", str(rng.getrandbits(64)))
    out = ("-out", str(folder / f"{name}.{ending}"), "-extfile", str(folder / f"{name}.ext"))
    command(
        "openssl",
        "x509",
        "-req",
        "-in",
        str(folder / f"{request or name}.csr"),
        "-subj",
        f"/CN={name}",
        *signed,
        *serial,
        *out,
    )


def _openssl_key(path: str) -> None:
    command("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _tls_names(world: World) -> set[str]:
    names = {site for inside in (True, False) for site in world.sites(inside=inside)}
    return names | {world.name_of(h) for h in world.hosts if "mail" in h.services}


def _text(rng: random.Random, kilobytes: float) -> bytes:
    words = [
        "the",
        "report",
        "of",
        "order",
        "for",
        "network",
        "plan",
        "is",
        "new",
        "with",
        "team",
        "open",
        "week",
        "budget",
        "server",
        "north",
        "river",
        "note",
    ]
    out = " ".join(rng.choice(words) for _ in range(int(kilobytes * 1024 / 5)))
    return out.encode()[: max(64, int(kilobytes * 1024))]


def _content(world: World, rng: random.Random) -> None:
    www = world.run.state / "www"
    listed = {s for i in (True, False) for s in world.sites(inside=i)}
    for site in sorted(listed | {f"far{n}" for n in range(FAR_PAGES)}):
        folder = www / site
        (folder / "files").mkdir(parents=True)
        (folder / "files").chmod(0o777)
        for number in range(PAGES):
            links = "".join(f"<img src=/a{rng.randrange(ASSETS)}>" for _ in range(4))
            body = (
                b"<html><body>" + links.encode() + _text(rng, world.scenario.page_kb * rng.uniform(0.2, 1.5))
            )
            (folder / f"p{number}.html").write_bytes(body)
        shutil.copy(folder / "p0.html", folder / "index.html")
        for number in range(ASSETS):
            size = int(world.scenario.page_kb * 1024 * rng.lognormvariate(-0.7, 1.0))
            half = rng.randbytes(min(size // 2, 512 * 1024))
            (folder / f"a{number}").write_bytes(half + _text(rng, size / 2048))
    for site in world.far:  # they look like one another, as sites do
        (www / site).symlink_to(www / f"far{random.Random(site).randrange(FAR_PAGES)}")
    files = world.run.state / "files"
    files.mkdir()
    for size in FILES_KB:
        (files / f"file-{size}k").write_bytes(rng.randbytes(size * 900) + _text(rng, size * 124 / 1024))


def _home(world: World, name: str, uid: int, gid: int) -> None:
    home = world.run.state / "home" / name
    ssh = home / ".ssh"
    ssh.mkdir(parents=True)
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(ssh / "id_ed25519"))
    shutil.copy(ssh / "id_ed25519.pub", ssh / "authorized_keys")
    (ssh / "config").write_text(
        "Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n ConnectTimeout 8\n"
        " NumberOfPasswordPrompts 1\n",
        encoding="utf-8",
    )
    (home / ".gitconfig").write_text(
        f"[user]\n name = {name}\n email = {name}@{world.scenario.domain}\n", encoding="utf-8"
    )
    command("chown", "-R", f"{uid}:{gid}", str(home))


def _hashed(world: World, kind: str) -> dict[str, str]:
    """Every actor's password in the form that /etc/shadow (-6) or a web server (-apr1) keeps, once per run."""
    names = [actor.name for actor in world.actors]
    kept = world.run.state / f"hashed{kind}"
    if not kept.is_file():
        feed = "".join(f"{world.password(name)}\n" for name in names)
        kept.write_text(command("openssl", "passwd", kind, "-stdin", feed=feed), encoding="utf-8")
    return dict(zip(names, kept.read_text(encoding="utf-8").split(), strict=True))


def etc_files(world: World) -> dict[str, str]:
    """What `ip netns exec` lays over /etc: our resolver and our accounts beside the machine's own."""
    resolver = world.offering("resolver")[0].address
    hashed = _hashed(world, "-6")
    accounts = "".join(f"{a.name}:x:{a.uid}:{a.gid}::{world.home(a)}:/bin/sh\n" for a in world.actors)
    return {
        "resolv.conf": f"nameserver {resolver}\nsearch {world.scenario.domain}\noptions timeout:2 attempts:2\n",
        "hosts": "127.0.0.1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "passwd": Path("/etc/passwd").read_text(encoding="utf-8") + accounts,
        "group": Path("/etc/group").read_text(encoding="utf-8")
        + "".join(f"{a.name}:x:{a.gid}:\n" for a in world.actors),
        "shadow": Path("/etc/shadow").read_text(encoding="utf-8")
        + "".join(f"{name}:{word}:19000:0:99999:7:::\n" for name, word in hashed.items()),
    }


# ------------------------------------------------------------------------------------------------ servers


def _web(world: World, host: Host, folder: Path) -> list[Daemon]:
    sites = host.sites or (("www", "intranet") if host.inside else ("www.site.example",))
    names = [f"{s}.{world.scenario.domain}" if host.inside else s for s in sites]
    tls, www = world.run.state / "tls", world.run.state / "www"
    backend = (
        "proxy_pass http://127.0.0.1:8081; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
        "proxy_set_header Connection $connection_upgrade; proxy_set_header X-Site $server_name;"
    )
    extra = (
        f"location /api/ {{ {backend} }} location /ws {{ {backend.replace('8081', '8082')} proxy_read_timeout 600; }}"
        if "api" in host.services
        else ""
    )
    servers = ""
    certificates = "$ssl_server_name" if world.expiring() & set(names) else ""
    for number, name in enumerate(names):
        default = " default_server" if number == 0 else ""
        servers += f"""
 server {{ listen 443 ssl http2{default}; listen 80{default}; server_name {name}; root {www / name};
  error_page 405 =200 $uri;
  ssl_certificate {tls}/{certificates or name}.pem; ssl_certificate_key {tls}/{certificates or name}.key;
  location /files/ {{ dav_methods PUT DELETE; client_max_body_size 4g; }}
  location /private/ {{ auth_basic "staff"; auth_basic_user_file {folder}/htpasswd; alias {www / name}/; }}
  {extra} }}"""
    if host.prefix and world.far:
        servers += f"""
 server {{ listen 443 ssl http2; listen 80; server_name ~[.]example$; root {www}/$host;
  error_page 405 =200 $uri;
  ssl_certificate {tls}/$ssl_server_name.pem; ssl_certificate_key {tls}/far.key;
  location /files/ {{ dav_methods PUT DELETE; client_max_body_size 4g; }}
  {extra.replace("$server_name", "$host")} }}"""
    hashed = "".join(f"{name}:{word}\n" for name, word in _hashed(world, "-apr1").items())
    (folder / "htpasswd").write_text(hashed, encoding="utf-8")
    (folder / "nginx.conf").write_text(
        f"""user www-data; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ log_format peer '$msec $remote_addr $remote_port "$request" $status $http_host $remote_user';
 access_log {folder}/access.log peer; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
 fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; types_hash_max_size 2048;
 include /etc/nginx/mime.types; default_type application/octet-stream; gzip on; keepalive_timeout 20;
 client_header_timeout 10s; reset_timedout_connection on;
 server_names_hash_bucket_size 128; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:1m;
 map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
{servers}
}}
""",
        encoding="utf-8",
    )
    return [
        Daemon(
            "nginx",
            ("nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"),
            (("tcp", 80), ("tcp", 443)),
        )
    ]


def _ssh(world: World, host: Host, folder: Path) -> list[Daemon]:
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "hostkey"))
    (folder / "sshd_config").write_text(
        f"Port 22\nHostKey {folder}/hostkey\nPidFile {folder}/sshd.pid\nUsePAM no\nStrictModes no\nUseDNS no\n"
        "PasswordAuthentication yes\nMaxStartups 50:30:200\nPrintMotd no\nSubsystem sftp internal-sftp\n",
        encoding="utf-8",
    )
    apart = (PYTHON, "-IS", str(PROGRAMS / "apart.py"), "/var/log")  # where it notes failed logins
    argv = (*apart, "/usr/sbin/sshd", "-D", "-e", "-f", f"{folder}/sshd_config")
    return [Daemon("sshd", argv, (("tcp", 22),))]


def _resolver(world: World, host: Host, folder: Path) -> list[Daemon]:
    domain = world.scenario.domain
    records, pointers = "", ""
    for other in world.hosts:
        if not other.inside:
            continue
        names = [f"{other.name}.{domain}", *(f"{s}.{domain}" for s in other.sites)]
        if "web" in other.services and not other.sites:
            names += [f"www.{domain}", f"intranet.{domain}"]
        records += "".join(f' local-data: "{n}. 300 IN A {other.address}"\n' for n in names)
        pointers += f' local-data-ptr: "{other.address} 300 {names[0]}"\n'
        if "mail" in other.services:
            records += f' local-data: "{domain}. 300 IN MX 10 {other.name}.{domain}."\n'
    root = world.offering("names")[0].address
    (folder / "unbound.conf").write_text(
        f"""server:
 interface: 0.0.0.0
 access-control: 0.0.0.0/0 allow
 do-ip6: no
 username: ""
 chroot: ""
 directory: "{folder}"
 pidfile: "{folder}/unbound.pid"
 module-config: "iterator"
 qname-minimisation: no
 use-syslog: no
 logfile: ""
 num-threads: 1
 cache-max-ttl: 120
 infra-host-ttl: 60
 do-not-query-localhost: no
 local-zone: "{domain}." static
{records}{pointers}
stub-zone:
 name: "."
 stub-addr: {root}
remote-control:
 control-enable: no
""",
        encoding="utf-8",
    )
    return [
        Daemon("unbound", ("unbound", "-d", "-p", "-c", f"{folder}/unbound.conf"), (("udp", 53), ("tcp", 53)))
    ]


def _names(world: World, host: Host, folder: Path) -> list[Daemon]:
    rng = random.Random(f"{world.scenario.kin}/zone")
    start = ". IN SOA ns.net.example. admin.net.example. 1 3600 600 86400 30"
    lines = [
        f"$TTL {world.lasting(120)}",
        start,
        ". IN NS ns.net.example.",
        f"ns.net.example. IN A {host.address}",
    ]
    for other in world.hosts:
        if other.inside:
            continue
        for name in dict.fromkeys((*other.sites, f"{other.name}.net.example")):
            lines.append(f"{name}. {world.lasting(rng.choice((20, 60, 120, 300)))} IN A {other.address}")
            lines.append(f"{name.split('.', 1)[1]}. IN MX 10 {name}.")
            lines.append(f'{name.split(".", 1)[1]}. IN TXT "v=spf1 a mx -all"')
        if other.prefix:
            prefixes = world.prefixes()
            for name in sorted(world.far):
                server, address = far.place(name, prefixes)
                if prefixes[server] == other.prefix:
                    lines.append(f"{name}. {world.lasting(rng.choice((20, 60, 120, 300)))} IN A {address}")
        reverse = ".".join(reversed(other.address.split(".")))
        lines.append(f"{reverse}.in-addr.arpa. IN PTR {world.name_of(other)}.")
        if "tunnel-end" in other.services:
            lines += [
                f"{tunnel_domain(world)}. IN NS ns1.{tunnel_domain(world)}.",
                f"ns1.{tunnel_domain(world)}. IN A {other.address}",
            ]
    (folder / "root.zone").write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    (folder / "named.conf").write_text(
        f"""options {{ directory "{folder}"; recursion no; listen-on {{ any; }}; listen-on-v6 {{ none; }};
 pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key"; dnssec-validation no; notify no; }};
controls {{ }};
zone "." {{ type primary; file "{folder}/root.zone"; check-names ignore; }};
""",
        encoding="utf-8",
    )
    return [Daemon("named", ("named", "-f", "-n", "1", "-c", f"{folder}/named.conf"), (("udp", 53),))]


def tunnel_domain(world: World) -> str:
    """The zone that the DNS tunnel's far end answers for."""
    word = random.Random(f"{world.scenario.kin}/tunnel").choice(("static", "cdn", "assets", "img", "t1"))
    return f"{word}.fastsync.example"


def _mail(world: World, host: Host, folder: Path) -> list[Daemon]:
    name, tls = world.name_of(host), world.run.state / "tls"
    box = folder / "box"
    smtp = (PYTHON, "-m", "aiosmtpd", "-n", "-c", "aiosmtpd.handlers.Mailbox", str(box))
    command("mkdir", "-p", f"{box}/new", f"{box}/cur", f"{box}/tmp", f"{folder}/run", f"{folder}/state")
    command("chown", "-R", "mail:mail", str(box))
    users = "".join(f"{a.name}:{{PLAIN}}{world.password(a.name)}\n" for a in world.actors)
    (folder / "users").write_text(users, encoding="utf-8")
    (folder / "dovecot.conf").write_text(
        f"""base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap
listen = *
ssl = yes
ssl_cert = <{tls}/{name}.pem
ssl_key = <{tls}/{name}.key
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = maildir:{box}
auth_failure_delay = 1 s
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={folder}
}}
service imap-login {{
  client_limit = 200
  process_min_avail = 2
}}
""",
        encoding="utf-8",
    )
    secure = ("--tlscert", f"{tls}/{name}.pem", "--tlskey", f"{tls}/{name}.key", "--no-requiretls")
    submission = (*smtp[:4], "-l", "0.0.0.0:587", *secure, *smtp[4:])
    return [
        Daemon("smtp", (*smtp[:4], "-l", "0.0.0.0:25", *smtp[4:]), (("tcp", 25),)),
        Daemon("submission", submission, (("tcp", 587),)),
        Daemon("dovecot", ("dovecot", "-F", "-c", f"{folder}/dovecot.conf"), (("tcp", 143), ("tcp", 993))),
    ]


def _database(world: World, host: Host, folder: Path) -> list[Daemon]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise LabError("missing programs: postgres (Debian package postgresql)")
    data, tools = folder / "data", found[-1].parent
    data.mkdir()
    command("chown", "postgres:postgres", str(data), str(folder))
    as_postgres = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")
    command(
        *as_postgres, str(tools / "initdb"), "-D", str(data), "-N", "-A", "trust", "--no-locale", "-E", "UTF8"
    )
    with (data / "pg_hba.conf").open("w", encoding="utf-8") as hba:
        hba.write("local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\n")
    settings = words(
        "-c listen_addresses=* -c fsync=off -c shared_buffers=16MB -c ssl=off -c log_connections=on"
    )
    argv = (
        str(tools / "postgres"),
        "-D",
        str(data),
        "-k",
        str(folder),
        *settings,
        "-c",
        "max_connections=300",
    )
    return [Daemon("postgres", argv, (("tcp", 5432),), user="postgres")]


def _after(world: World, host: Host, daemon: Daemon) -> None:
    """What can only be set up once the server runs."""
    if daemon.what == "smbd":
        conf = str(world.run.state / "srv" / host.name / "smb.conf")
        for actor in world.actors:
            word = world.password(actor.name)
            command(
                "ip",
                "netns",
                "exec",
                host.netns,
                "smbpasswd",
                "-c",
                conf,
                "-a",
                "-s",
                actor.name,
                feed=f"{word}\n{word}\n",
            )
    if daemon.what != "postgres":
        return
    sql = "create table orders(id serial primary key, who text, amount int, note text);" + (
        "insert into orders(who,amount,note) "
        "select 'c'||g%50, g*7%1000, repeat('x',g%40) from generate_series(1,2000) g;"
    )
    sql += f"create role app login password '{world.password('app')}';"
    sql += "".join(f"grant all on all {kind} in schema public to app;" for kind in ("tables", "sequences"))
    folder = str(world.run.state / "srv" / host.name)
    command("ip", "netns", "exec", host.netns, "psql", "-q", "-h", folder, "-U", "postgres", "-c", sql)


def _cache(world: World, host: Host, folder: Path) -> list[Daemon]:
    argv = ("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", str(folder))
    return [Daemon("redis", argv, (("tcp", 6379),))]


def _broker(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "mosquitto.conf").write_text(
        "listener 1883 0.0.0.0\nallow_anonymous true\nuser root\n", encoding="utf-8"
    )
    return [Daemon("mosquitto", ("mosquitto", "-c", f"{folder}/mosquitto.conf"), (("tcp", 1883),))]


def _time(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "chrony.conf").write_text(
        f"local stratum 8\nallow all\ncmdport 0\nbindcmdaddress /\npidfile {folder}/chronyd.pid\n",
        encoding="utf-8",
    )
    return [
        Daemon(
            "chronyd", ("chronyd", "-d", "-x", "-u", "root", "-f", f"{folder}/chrony.conf"), (("udp", 123),)
        )
    ]


def _git(world: World, host: Host, folder: Path) -> list[Daemon]:
    seed = folder / "seed"
    git = ("git", "-c", "user.name=lab", "-c", f"user.email=lab@{world.scenario.domain}", "-C", str(seed))
    command("git", "init", "-q", "-b", "main", str(seed))
    rng = random.Random(f"{world.scenario.kin}/git")
    for number in range(12):
        (seed / f"file{number}.txt").write_bytes(_text(rng, 2))
    command(*git, "add", ".")
    command(*git, "commit", "-q", "-m", "start")
    for number in range(3):
        command("git", "clone", "-q", "--bare", str(seed), str(folder / f"project{number}.git"))
    command("chmod", "-R", "a+rwX", str(folder))
    fixed = words("git -c safe.directory=* daemon --reuseaddr --export-all --enable=receive-pack")
    argv = (*fixed, f"--base-path={folder}", str(folder))
    return [Daemon("git", argv, (("tcp", 9418),), user="www-data")]


def _rsync(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "backup").mkdir()
    (folder / "rsyncd.conf").write_text(
        f"use chroot = no\nuid = root\ngid = root\n[backup]\npath = {folder}/backup\nread only = no\n"
        f"[mirror]\npath = {world.run.state}/files\n",
        encoding="utf-8",
    )
    return [
        Daemon(
            "rsync", ("rsync", "--daemon", "--no-detach", f"--config={folder}/rsyncd.conf"), (("tcp", 873),)
        )
    ]


def _snmp(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "snmpd.conf").write_text("rocommunity public\nsysLocation lab\n", encoding="utf-8")
    argv = (
        "snmpd",
        "-f",
        "-Lf",
        "/dev/null",
        "-C",
        "-c",
        f"{folder}/snmpd.conf",
        "-p",
        f"{folder}/snmpd.pid",
        "udp:161",
    )
    return [Daemon("snmpd", argv, (("udp", 161),))]


def _tunnel_end(world: World, host: Host, folder: Path) -> list[Daemon]:
    argv = ("iodined", "-f", "-c", "-P", "quiet-river", "10.199.0.1/27", tunnel_domain(world))
    return [Daemon("iodined", argv, (("udp", 53),))]


def _api(world: World, host: Host, folder: Path) -> list[Daemon]:
    """Reached through this host's web server."""
    argv = (PYTHON, str(PROGRAMS / "backend.py"), "8081", "8082", str(world.run.state / "www"))
    return [Daemon("api", argv, (("tcp", 8081), ("tcp", 8082)))]


def _share(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "public").mkdir(mode=0o777)
    (folder / "public").chmod(0o777)
    kinds = (
        "lock directory",
        "private dir",
        "state directory",
        "cache directory",
        "pid directory",
        "ncalrpc dir",
    )
    places = "".join(f" {kind} = {folder}/smb\n" for kind in kinds)
    (folder / "smb").mkdir()
    (folder / "smb.conf").write_text(
        f"[global]\n workgroup = OFFICE\n server role = standalone server\n disable netbios = yes\n smb ports = 445\n"
        f" log file = {folder}/smb.log\n load printers = no\n disable spoolss = yes\n{places}"
        f"[public]\n path = {folder}/public\n read only = no\n force user = root\n"
        f"[files]\n path = {world.run.state}/files\n read only = yes\n force user = root\n",
        encoding="utf-8",
    )
    return [Daemon("smbd", ("smbd", "-F", "--no-process-group", "-s", f"{folder}/smb.conf"), (("tcp", 445),))]


def _directory(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "ldap").mkdir()
    base = ",".join(f"dc={part}" for part in world.scenario.domain.split("."))
    (folder / "slapd.conf").write_text(
        f"include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n"
        f"include /etc/ldap/schema/inetorgperson.schema\nmoduleload back_mdb\npidfile {folder}/slapd.pid\n"
        f'database mdb\nmaxsize 10485760\nsuffix "{base}"\nrootdn "cn=admin,{base}"\nrootpw admin\n'
        f"directory {folder}/ldap\n",
        encoding="utf-8",
    )
    entries = [
        f"dn: {base}\nobjectClass: dcObject\nobjectClass: organization\no: office\n"
        f"dc: {world.scenario.domain.split('.')[0]}\n"
    ]
    for actor in world.actors:
        entries.append(
            f"dn: uid={actor.name},{base}\nobjectClass: inetOrgPerson\ncn: {actor.name}\nsn: {actor.name}\n"
            f"uid: {actor.name}\nmail: {actor.name}@{world.scenario.domain}\n"
            f"userPassword: {world.password(actor.name)}\n"
        )
    (folder / "start.ldif").write_text("\n".join(entries), encoding="utf-8")
    command("slapadd", "-q", "-f", f"{folder}/slapd.conf", "-l", f"{folder}/start.ldif")
    return [
        Daemon(
            "slapd",
            ("slapd", "-h", "ldap://0.0.0.0:389", "-f", f"{folder}/slapd.conf", "-d", "0"),
            (("tcp", 389),),
        )
    ]


def _syslog(world: World, host: Host, folder: Path) -> list[Daemon]:
    (folder / "rsyslog.conf").write_text(
        f'global(workDirectory="{folder}")\nmodule(load="imudp")\ninput(type="imudp" port="514")\n'
        f'module(load="imtcp")\ninput(type="imtcp" port="514")\n*.* action(type="omfile" file="{folder}/all.log")\n',
        encoding="utf-8",
    )
    argv = ("rsyslogd", "-n", "-f", f"{folder}/rsyslog.conf", "-i", f"{folder}/rsyslogd.pid")
    return [Daemon("rsyslogd", argv, (("udp", 514), ("tcp", 514)))]


def _modbus(world: World, host: Host, folder: Path) -> list[Daemon]:
    return [Daemon("plc", (PYTHON, str(PROGRAMS / "plc.py")), (("tcp", 502),))]


def _stream(world: World, host: Host, folder: Path) -> list[Daemon]:
    """A film of half an hour in pieces of two seconds, as plain files of a web server of its own."""
    (folder / "film").mkdir()
    rng = random.Random(f"{world.scenario.kin}/film")
    for number in range(20):
        (folder / "film" / f"piece{number}.ts").write_bytes(
            rng.randbytes(int(world.scenario.page_kb * 1024 * rng.uniform(3, 6)))
        )
    (folder / "film.conf").write_text(
        f"user www-data; worker_processes 1; daemon off; pid {folder}/film.pid; error_log {folder}/film-error.log;\n"
        f"events {{ }}\nhttp {{ access_log {folder}/film.log; client_body_temp_path {folder}/b2;\n"
        f" proxy_temp_path {folder}/p2; fastcgi_temp_path {folder}/f2;\n"
        f" uwsgi_temp_path {folder}/u2; scgi_temp_path {folder}/s2;\n"
        f" server {{ listen 8554; root {folder}/film; }} }}\n",
        encoding="utf-8",
    )
    return [
        Daemon(
            "film", ("nginx", "-e", f"{folder}/film-error.log", "-c", f"{folder}/film.conf"), (("tcp", 8554),)
        )
    ]


def _print(world: World, host: Host, folder: Path) -> list[Daemon]:
    """A cheap printer: now and then a job hangs, and its connection with it, half closed."""
    job = folder / "job"
    job.write_text(
        "#!/bin/sh\ncat >/dev/null\ncase $(date +%N) in *[05]??????) sleep 600;; esac\n", encoding="utf-8"
    )
    job.chmod(0o755)
    return [Daemon("print", ("ncat", "-l", "-k", "-m", "100", "-e", str(job), "9100"), (("tcp", 9100),))]


def realm(world: World) -> str:
    """The Kerberos realm is the domain, as everywhere."""
    return world.scenario.domain.upper()


def kerberos_settings(world: World, *, tcp: bool = False) -> str:
    """The path of the krb5.conf that the site's clients read; some ask by TCP at once."""
    return str(world.run.state / ("krb5-tcp.conf" if tcp else "krb5.conf"))


def principals(world: World) -> list[str]:
    """The services that people want tickets for."""
    kinds = {
        "share": "cifs",
        "web": "HTTP",
        "ssh": "host",
        "nfs": "nfs",
        "directory": "ldap",
        "database": "postgres",
    }
    return [
        f"{kinds[service]}/{world.name_of(host)}"
        for host in world.hosts
        if host.inside
        for service in host.services
        if service in kinds
    ]


def _kerberos(world: World, host: Host, folder: Path) -> list[Daemon]:
    name, settings = realm(world), kerberos_settings(world)
    for tcp, more in ((False, ""), (True, " udp_preference_limit = 1\n")):
        Path(kerberos_settings(world, tcp=tcp)).write_text(
            f"[libdefaults]\n default_realm = {name}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n"
            f" dns_canonicalize_hostname = false\n rdns = false\n{more}"
            f"[realms]\n {name} = {{\n  kdc = {world.name_of(host)}\n }}\n",
            encoding="utf-8",
        )
    (folder / "kdc.conf").write_text(
        f"[kdcdefaults]\n kdc_listen = 88\n kdc_tcp_listen = 88\n[realms]\n {name} = {{\n"
        f"  database_name = {folder}/principal\n  key_stash_file = {folder}/stash\n"
        f"  supported_enctypes = aes256-cts:normal aes128-cts:normal\n }}\n[logging]\n kdc = FILE:{folder}/kdc.log\n",
        encoding="utf-8",
    )
    env = ("env", f"KRB5_CONFIG={settings}", f"KRB5_KDC_PROFILE={folder}/kdc.conf")
    command(*env, "kdb5_util", "create", "-s", "-r", name, "-P", "laboratory", feed="")
    lines = [f"addprinc +requires_preauth -pw {world.password(a.name)} {a.name}" for a in world.actors]
    lines += [f"addprinc -randkey {service}" for service in principals(world)]
    command(*env, "kadmin.local", "-r", name, feed="\n".join(lines) + "\n")
    argv = (*env, "krb5kdc", "-n", "-r", name, "-P", f"{folder}/kdc.pid")
    return [Daemon("krb5kdc", argv, (("udp", 88), ("tcp", 88)))]


def _nfs(world: World, host: Host, folder: Path) -> list[Daemon]:
    """NFS version 4 by a server in user space: the kernel's own would serve the whole machine."""
    (folder / "export").mkdir()
    for size in (1, 4, 16):
        shutil.copy(world.run.state / "files" / f"file-{size}k", folder / "export")
    (folder / "export").chmod(0o777)
    (folder / "recovery").mkdir()
    (folder / "ganesha.conf").write_text(
        f"NFS_CORE_PARAM {{ Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}\n"
        f'NFSV4 {{ Grace_Period = 5; Lease_Lifetime = 10; RecoveryRoot = "{folder}/recovery"; Minor_Versions = 0; }}\n'
        f'EXPORT {{ Export_Id = 1; Path = "{folder}/export"; Pseudo = "/work"; Access_Type = RW; SecType = "sys";\n'
        f" Squash = No_root_squash; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}\n",
        encoding="utf-8",
    )
    argv = ("ganesha.nfsd", "-F", "-L", f"{folder}/ganesha.log", "-f", f"{folder}/ganesha.conf")
    return [Daemon("ganesha", (*argv, "-p", f"{folder}/ganesha.pid"), (("tcp", 2049),))]


def _addresses(world: World, host: Host, folder: Path) -> list[Daemon]:
    """DHCP: every host gets the address that it has."""
    gateway = ipaddress.ip_network(world.scenario.network).network_address + 1
    resolver = world.offering("resolver")[0].address
    return [Daemon("dnsmasq", dhcp_server(world, str(gateway), resolver, folder), (("udp", 67),))]


def dhcp_server(world: World, gateway: str, resolver: str, folder: Path) -> tuple[str, ...]:
    """dnsmasq as a DHCP server only; `folder` keeps its leases."""
    net = ipaddress.ip_network(world.scenario.network)
    fixed = words(
        "dnsmasq -k -C /dev/null --port=0 --interface=eth0 --bind-interfaces --no-ping --no-resolv --no-hosts"
    )
    known = (f"--dhcp-host={h.mac},{h.address},{h.name}" for h in world.hosts if h.inside)
    return (
        *fixed, "--user=root", "--group=", "--dhcp-authoritative", "--log-dhcp", "--log-facility=-",
        f"--dhcp-range={net.network_address},static,{net.netmask},2m",
        f"--dhcp-option=3,{gateway}", f"--dhcp-option=6,{resolver}", f"--pid-file={folder}/dnsmasq.pid",
        f"--dhcp-leasefile={folder}/leases", *known,
    )  # fmt: skip


_SERVICES: dict[str, Callable[[World, Host, Path], Sequence[Daemon]]] = {
    "web": _web, "ssh": _ssh, "resolver": _resolver, "names": _names, "mail": _mail, "database": _database,
    "cache": _cache, "broker": _broker, "time": _time, "git": _git, "rsync": _rsync, "snmp": _snmp,
    "tunnel-end": _tunnel_end, "api": _api, "share": _share, "directory": _directory, "syslog": _syslog,
    "modbus": _modbus, "stream": _stream, "print": _print, "kerberos": _kerberos, "nfs": _nfs,
    "addresses": _addresses,
}  # fmt: skip
