"""Listens to connection tracking in every host at once and writes who opened which connection, one line each.

One process with a socket per namespace, whose buffers are large: the `conntrack` tool enlarges only the buffer of
another socket than the one that events come by, and loses a third of a scan.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

NEW_CONNECTIONS = 1  # NFNLGRP_CONNTRACK_NEW
BUFFER = 64 << 20  # bytes, of each socket
NETFILTER = 12  # NETLINK_NETFILTER
NEWNET = 0x40000000  # CLONE_NEWNET
_TUPLE, _MARK = 1, 8  # CTA_TUPLE_ORIG, CTA_MARK
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


def listen(namespace: str) -> socket.socket:
    """A socket on which this namespace tells of new connections; this thread comes back to where it was."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as here, open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        try:
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
            made.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
            made.bind((0, 1 << (NEW_CONNECTIONS - 1)))
            made.setblocking(False)
        finally:
            libc.setns(here.fileno(), NEWNET)
    return made


def events(data: bytes) -> Iterator[str]:
    """`proto src sport dst dport mark` of each event in one datagram; ICMP has type and code for ports."""
    at = 0
    while at + 20 <= len(data):
        size = struct.unpack_from("=I", data, at)[0]
        if size < 20:
            return
        found = dict(_attributes(data[at + 20 : at + size]))
        at += (size + 3) & ~3
        tuple_ = dict(_attributes(found.get(_TUPLE, b"")))
        ends, proto = dict(_attributes(tuple_.get(1, b""))), dict(_attributes(tuple_.get(2, b"")))
        name = _PROTOCOLS.get(proto.get(1, b"\0")[0])
        if name is None or 1 not in ends:
            continue
        if name == "icmp":
            kind, code = proto[5][0], proto[6][0]
            ports = (kind, {8: 0, 13: 14}.get(kind, code))
        else:
            ports = (struct.unpack("!H", proto[2][:2])[0], struct.unpack("!H", proto[3][:2])[0])
        mark = struct.unpack("!I", found[_MARK])[0] if _MARK in found else 0
        yield f"{name} {socket.inet_ntoa(ends[1])} {ports[0]} {socket.inet_ntoa(ends[2])} {ports[1]} {mark}"


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def main(folder: Path, prefix: str, hosts: list[str]) -> None:
    """Write `folder`/HOST.log until asked to stop; a line `lost` says that the kernel could not tell us all."""
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    selector = selectors.DefaultSelector()
    for host in hosts:
        log = (folder / f"{host}.log").open("w", encoding="ascii", buffering=1 << 16)
        selector.register(listen(prefix + host), selectors.EVENT_READ, log)
    (folder / "listening").touch()
    parent = os.getppid()
    while running and os.getppid() == parent:
        ready = selector.select(timeout=0.5)
        for key, _ in ready:
            _drain(key.fileobj, key.data)  # type: ignore[arg-type]  # we registered sockets
        if not ready:
            for key in selector.get_map().values():
                key.data.flush()
    for key in list(selector.get_map().values()):
        _drain(key.fileobj, key.data)  # type: ignore[arg-type]
        key.data.close()


def _drain(source: socket.socket, log: TextIO) -> None:
    while True:
        try:
            data = source.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS
            log.write("lost\n")
            continue
        now = time.time()
        for event in events(data):
            log.write(f"{now:.6f} {event}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
