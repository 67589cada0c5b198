"""A client that stays: one process makes many real requests, each at its time, and logs every connection it opens.

A program's start costs many times what a connection costs; a browser, a mail client or an agent does not start anew
for each either. Standard library only, so that Debian's python3 runs it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import imaplib
import json
import random
import selectors
import smtplib
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

AT_ONCE = 6  # things that one person does at the same time
LATE = 20.0  # seconds after which a thing is no longer done, and logged so
LIMIT = 30.0  # seconds of silence that a connection is given
QTYPES = {"A": 1, "NS": 2, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}
Task = dict[str, Any]


class Person:
    """Does tasks; everything it opens goes through `connect`, which writes the log."""

    def __init__(self, start: float, kept: float = 30.0) -> None:
        self.start, self.kept = start, kept  # `kept`: seconds for which a name's address is remembered
        self.lock = threading.Lock()
        self.names: dict[str, tuple[float, str]] = {}
        self.contexts: dict[tuple[str, str], ssl.SSLContext] = {}
        self.forgotten: list[socket.socket] = []  # never closed while this program runs

    def say(self, **fields: Any) -> None:
        with self.lock:
            print(json.dumps(fields), flush=True)

    def do(self, task: Task) -> None:
        began = time.time()
        try:
            result = DO[task["do"]](self, task)
        except (OSError, http.client.HTTPException, imaplib.IMAP4.error, smtplib.SMTPException) as error:
            result = f"{type(error).__name__}: {error}"[:120]
        times = {"began": round(began, 3), "ended": round(time.time(), 3)}
        self.say(**times, what=task["what"], **task.get("of", {}), to=_places(task), result=result)

    def address(self, name: str) -> str:
        """Asked of the site's resolver by the C library, remembered for a while."""
        known = self.names.get(name)
        if known is None or time.time() - known[0] > self.kept:
            found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
            known = self.names[name] = (time.time(), str(found[0][4][0]))
        return known[1]

    def connect(self, task: Task, host: str, port: int, wait: float = LIMIT) -> socket.socket:
        began, known = time.time(), self.names.get(host)
        address = self.address(host)
        asked = {} if self.names.get(host) is known else {"asked": round(began, 3), "name": host}
        return self.opened(task, socket.create_connection((address, port), timeout=wait), **asked)

    def opened(self, task: Task, made: socket.socket, **more: Any) -> socket.socket:
        proto = "tcp" if made.type == socket.SOCK_STREAM else "udp"
        self.say(
            opened=round(time.time(), 3), what=task["what"],
            proto=proto, orig=made.getsockname(), resp=made.getpeername(), **task.get("of", {}), **more,
        )  # fmt: skip
        return made

    def tls(self, task: Task) -> ssl.SSLContext:
        key = task["ca"], task.get("tls", "")
        if key not in self.contexts:
            context = ssl.create_default_context(cafile=task["ca"])
            context.set_alpn_protocols(["http/1.1"])
            if task.get("tls") == "1.2":
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            self.contexts[key] = context
        return self.contexts[key]


def _places(task: Task) -> list[str]:
    """Names and addresses that a task goes to or asks for."""
    found = [str(urlsplit(request["url"]).hostname) for request in task.get("requests", ())]
    found += [name for name, _ in task.get("names", ())]
    return sorted({*found, *([task["host"]] if "host" in task else [])})


def web(person: Person, task: Task) -> str:
    """Requests one after the other, a connection per server kept while the server keeps it, unless `apart`."""
    open_to: dict[tuple[str, str], http.client.HTTPConnection] = {}
    statuses = []
    for request in task["requests"]:
        time.sleep(request.get("pause", 0.0))
        parts = urlsplit(request["url"])
        key = (parts.scheme, parts.netloc)
        for attempt in range(2):
            connection = open_to.pop(key, None)
            fresh = connection is None
            if connection is None:
                connection = _http(person, task, parts.scheme, parts.hostname or "", parts.port)
            try:
                statuses.append(_ask(connection, request, parts, task))
            except (http.client.HTTPException, OSError):
                connection.close()
                if fresh or attempt:
                    raise
                continue  # the server had closed what we kept
            break
        if connection.sock is not None:
            open_to[key] = connection
    for connection in open_to.values():
        connection.close()
    return " ".join(map(str, statuses))


def _http(person: Person, task: Task, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(host, timeout=LIMIT)
    made = person.connect(task, host, port or (443 if scheme == "https" else 80))
    if scheme == "https":
        made = person.tls(task).wrap_socket(made, server_hostname=host)
    connection.sock = made
    return connection


def _ask(connection: http.client.HTTPConnection, request: Task, parts: Any, task: Task) -> int:
    headers = {"User-Agent": task["agent"], "Accept": "*/*", **request.get("headers", {})}
    if task.get("apart"):
        headers["Connection"] = "close"
    if "auth" in task:
        headers["Authorization"] = "Basic " + base64.b64encode(task["auth"].encode()).decode()
    body: bytes | None = None
    if "file" in request:
        with open(request["file"], "rb") as file:
            body = file.read()
    elif "body" in request:
        body = request["body"].encode()
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.auto_open = 0
    connection.request(request.get("method", "GET"), target, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def dns(person: Person, task: Task) -> str:
    """Questions to the resolver, each from a port of its own, asked twice if nothing comes."""
    codes = []
    for name, kind in task["names"]:
        question = _question(name, kind)
        if task.get("tcp"):
            with person.connect(task, task["server"], 53) as made:
                made.sendall(struct.pack("!H", len(question)) + question)
                codes.append(made.recv(4096)[5] & 15)
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.settimeout(2.0)
            made.connect((task["server"], 53))
            person.opened(task, made)
            for _ in range(2):
                made.send(question)
                with suppress(TimeoutError):
                    codes.append(made.recv(4096)[3] & 15)
                    break
    return " ".join(map(str, codes))


def _question(name: str, kind: str) -> bytes:
    header = struct.pack("!HHHHHH", random.getrandbits(16), 0x0120, 1, 0, 0, 1)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.strip(".").split("."))
    return (
        header
        + labels
        + struct.pack("!BHH", 0, QTYPES[kind], 1)
        + b"\0"
        + struct.pack("!HHIH", 41, 1232, 0, 0)
    )


def knock(person: Person, task: Task) -> str:
    """Opens a connection and closes it, as monitoring does."""
    person.connect(task, task["host"], task["port"], task.get("wait", 3.0)).close()
    return "open"


def check(person: Person, task: Task) -> str:
    """A load balancer's look at a server: the answer to the SYN is enough, a reset ends it (as haproxy does)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.settimeout(task.get("wait", 3.0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # no ACK of its own before the reset
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.connect((person.address(task["host"]), task["port"]))
        person.opened(task, made)
    return "up"


def pool(person: Person, task: Task) -> str:
    """All connections of a pool at once, as an application opens them that has lost its server."""
    address = person.address(task["host"])
    with contextlib.ExitStack() as held, selectors.DefaultSelector() as waiting:
        outcomes: list[int] = []
        for _ in range(task["count"]):
            made = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            made.setblocking(False)
            if made.connect_ex((address, task["port"])) in (0, errno.EINPROGRESS):
                waiting.register(made, selectors.EVENT_WRITE)
        deadline = time.monotonic() + task.get("wait", 3.0)
        while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                made = key.fileobj  # type: ignore[assignment]  # we registered sockets
                waiting.unregister(made)
                outcomes.append(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
                if not outcomes[-1]:
                    person.opened(task, made)
        return f"{outcomes.count(0)} of {task['count']} open"


def forget(person: Person, task: Task) -> str:
    """Opens a connection, uses it once or not at all, and keeps it for ever, as leaking programs do."""
    made = person.connect(task, task["host"], task["port"])
    person.forgotten.append(made)
    if "path" in task:
        made.sendall(f"GET {task['path']} HTTP/1.1\r\nHost: {task['host']}\r\n\r\n".encode())
        return str(len(made.recv(65_536)))
    return "open"


def syslog(person: Person, task: Task) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((person.address(task["host"]), 514))
        person.opened(task, made)
        for line in task["lines"]:
            made.send(line.encode())
            time.sleep(random.expovariate(2.0))
    return str(len(task["lines"]))


def imap(person: Person, task: Task) -> str:
    """Looks into the mail box, and may stay a while, as mail clients do."""

    class Client(imaplib.IMAP4):
        def _create_socket(self, timeout: float | None = None) -> socket.socket:
            made = person.connect(task, task["host"], 993 if task["secure"] else 143)
            return (
                person.tls(task).wrap_socket(made, server_hostname=task["host"]) if task["secure"] else made
            )

    client = Client(task["host"])
    try:
        client.login(*task["auth"].split(":", 1))
        found = client.select("INBOX", readonly=True)[1]
        for _ in range(task.get("looks", 1)):
            client.search(None, "ALL")
            time.sleep(task.get("pause", 0.0))
        return str(found[0])
    finally:
        with suppress(OSError, imaplib.IMAP4.error):
            client.logout()


def smtp(person: Person, task: Task) -> str:
    class Client(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            return person.connect(task, host, port)

    with Client(task["host"], task["port"], timeout=LIMIT) as client:
        if task["port"] == 587:
            client.starttls(context=person.tls(task))
        client.sendmail(task["sender"], [task["to"]], task["letter"])
    return "sent"


DO: dict[str, Callable[[Person, Task], str]] = {
    "web": web, "dns": dns, "knock": knock, "syslog": syslog, "imap": imap, "smtp": smtp, "check": check,
    "pool": pool, "forget": forget,
}  # fmt: skip


def main(plan: str, start: float, kept: float = 30.0) -> None:
    """`plan`: tasks as JSON lines in time order; `start`: the recording's zero, seconds since 1970."""
    person = Person(start, kept)
    free = threading.Semaphore(AT_ONCE)
    with open(plan, encoding="utf-8") as lines:
        for task in _tasks(lines):
            time.sleep(max(0.0, start + task["at"] - time.time()))
            free.acquire()
            if time.time() - start - task["at"] > LATE:
                free.release()
                person.say(began=time.time(), what=task["what"], **task.get("of", {}), error="skipped: late")
                continue
            threading.Thread(target=_one, args=(person, task, free), daemon=True).start()
    for _ in range(AT_ONCE):
        free.acquire()
    while person.forgotten:  # held until somebody ends this program
        time.sleep(1.0)


def _tasks(lines: Any) -> Iterator[Task]:
    for line in lines:
        yield json.loads(line)


def _one(person: Person, task: Task, free: threading.Semaphore) -> None:
    try:
        person.do(task)
    finally:
        free.release()


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:4]))
