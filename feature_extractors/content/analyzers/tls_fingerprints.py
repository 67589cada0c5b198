"""Fingerprints of TLS clients and servers, by what their hellos list: JA3, JA3S and JA4.

JA3 and JA3S: Althouse, Atkinson, Atkins 2017 (BSD-3-Clause). JA4: FoxIO's for TLS clients, the part under BSD-3-Clause.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, ParamSpec

MAX_REMEMBERED: Final = 1024  # bytes of a hello's lists; the digests of longer ones are made anew

P = ParamSpec("P")


def _is_grease(code: int) -> bool:
    return code & 0x0F0F == 0x0A0A and code >> 8 == code & 0xFF


def _numbers(raw: bytes) -> list[int]:
    return [raw[i] << 8 | raw[i + 1] for i in range(0, len(raw) - 1, 2)]


def _remembered(function: Callable[P, str]) -> Callable[P, str]:
    """The same, remembered for the last 1,024 hellos: a network has few clients, and each says the same every time."""
    cached = lru_cache(1024)(function)

    @wraps(function)
    def remembering(*args: P.args, **kwargs: P.kwargs) -> str:
        if sum([len(arg) for arg in args if isinstance(arg, bytes)]) > MAX_REMEMBERED:
            return function(*args, **kwargs)
        return cached(*args, **kwargs)  # type: ignore[arg-type]  # numbers and bytes, all of them hashable

    return remembering


@_remembered
def ja3(version: int, suites: bytes, extensions: bytes, groups: bytes, formats: bytes) -> str:
    """The JA3 digest of a client hello, from the numbers that it lists without GREASE (Salesforce, 2017)."""
    lists = (_numbers(suites), _numbers(extensions), _numbers(groups), list(formats))
    said = [str(version), *("-".join([str(n) for n in numbers if not _is_grease(n)]) for numbers in lists)]
    return hashlib.md5(",".join(said).encode(), usedforsecurity=False).hexdigest()


@_remembered
def ja4_of_hello(
    datagrams: bool,
    version: int,
    versions: bytes,
    has_name: bool,
    suites: bytes,
    extensions: bytes,
    signatures: bytes,
    protocol: bytes,
) -> str:
    highest = max((v for v in _numbers(versions) if not _is_grease(v)), default=version)
    return ja4(
        "d" if datagrams else "t", highest, has_name, _numbers(suites), _numbers(extensions), _numbers(signatures),
        [protocol],
    )  # fmt: skip


@_remembered
def ja3s(version: int, cipher: int, extensions: bytes) -> str:
    said = f"{version},{cipher},{'-'.join(map(str, _numbers(extensions)))}"
    return hashlib.md5(said.encode(), usedforsecurity=False).hexdigest()


def ja4(
    transport: str,
    version: int,
    has_name: bool,
    suites: list[int],
    extensions: list[int],
    signatures: list[int],
    protocols: list[bytes],
) -> str:
    """FoxIO's JA4 of a TLS client (github.com/FoxIO-LLC/ja4, technical details of JA4; BSD-3-Clause)."""
    names = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2",
             0xFEFF: "d1", 0xFEFD: "d2", 0xFEFC: "d3"}  # fmt: skip
    suites = [n for n in suites if not _is_grease(n)]
    extensions = [n for n in extensions if not _is_grease(n)]
    first = protocols[0] if protocols else b""
    if not first:
        alpn = "00"
    elif first[:1].isalnum() and first[-1:].isalnum():
        alpn = chr(first[0]) + chr(first[-1])
    else:
        alpn = first.hex()[0] + first.hex()[-1]
    head = (
        f"{'q' if transport == 'q' else transport}{names.get(version, '00')}{'d' if has_name else 'i'}"
        f"{min(len(suites), 99):02d}{min(len(extensions), 99):02d}{alpn}"
    )
    ciphers = ",".join(f"{n:04x}" for n in sorted(suites))
    others = ",".join(f"{n:04x}" for n in sorted(n for n in extensions if n not in (0, 16)))
    if signatures:
        others += "_" + ",".join(f"{n:04x}" for n in signatures)
    return f"{head}_{_short(ciphers)}_{_short(others)}"


def _short(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()[:12] if said else "0" * 12
