"""IP addresses from their bytes, written as Zeek writes them."""

from __future__ import annotations

from socket import AF_INET6, inet_ntoa, inet_ntop


def address(raw: bytes) -> str:
    """4 or 16 bytes as an address; an IPv6 address that maps IPv4 as IPv4."""
    if len(raw) == 4:
        return inet_ntoa(raw)
    if raw[:12] == b"\0" * 10 + b"\xff\xff":
        return inet_ntoa(raw[12:])
    return inet_ntop(AF_INET6, raw)
