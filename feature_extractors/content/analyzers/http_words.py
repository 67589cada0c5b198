"""The words of HTTP's heads: which headers are read, URIs without their escapes, users."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from feature_extractors.content.analyzers.base import text

_ESCAPE: Final = re.compile(rb"%(%*)(u[0-9a-fA-F]{4}|[0-9a-fA-F]{2})?")
PROXY_HEADERS: Final = frozenset((
    b"FORWARDED", b"X-FORWARDED-FOR", b"X-FORWARDED-FROM", b"CLIENT-IP", b"VIA", b"XROXY-CONNECTION",
    b"PROXY-CONNECTION",
))  # fmt: skip

_READ: Final = PROXY_HEADERS | {
    b"CONTENT-LENGTH", b"TRANSFER-ENCODING", b"CONTENT-ENCODING", b"CONTENT-TYPE", b"CONTENT-DISPOSITION",
    b"CONTENT-RANGE", b"HOST", b"USER-AGENT", b"REFERER", b"ORIGIN", b"AUTHORIZATION", b"PROXY-AUTHORIZATION",
    b"CONNECTION", b"UPGRADE",
}  # fmt: skip


# Names of headers as they are written, in capitals; "" for those that nobody reads. Clients and servers write few.
WRITTEN: Final[dict[bytes, bytes]] = {}
_MAX_WRITTEN: Final = 1024
_MAX_WRITTEN_BYTES: Final = 40  # of a name that is remembered


def read_as(written: bytes) -> bytes:
    """The name of a header that is read, in capitals; "" of any other."""
    name = written.upper()
    if name not in _READ:
        name = name.strip()
    read = name if name in _READ else b""
    if len(WRITTEN) < _MAX_WRITTEN and len(written) <= _MAX_WRITTEN_BYTES:
        WRITTEN[written] = read
    return read


def unescape(uri: bytes) -> bytes:
    """The URI with its percent escapes undone, odd ones as Zeek's unescape_URI undoes them. Linear in its length."""
    if uri.find(b"%") < 0:  # `in` raises and forgets an exception first
        return uri

    def one(match: re.Match[bytes]) -> bytes:
        escape = match.group(2)
        if escape is None:
            return b"%"
        if escape[:1] == b"u":
            raw = bytes.fromhex(escape[1:].decode("ascii"))
            return raw[1:] if raw[0] == 0 else raw
        return bytes.fromhex(escape.decode("ascii"))

    return _ESCAPE.sub(one, uri)


def username(value: bytes) -> str:
    try:
        decoded = base64.b64decode(value[6:].strip(), validate=False)
    except (binascii.Error, ValueError):
        decoded = b""
    user, colon, _ = decoded.partition(b":")
    return text(user) if colon else f"<problem-decoding> ({text(value)})"
