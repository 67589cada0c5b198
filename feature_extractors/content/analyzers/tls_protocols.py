"""The extension of a hello that names the protocols spoken inside TLS (RFC 7301)."""

from __future__ import annotations

from feature_extractors.content.analyzers.base import Reader


def protocols_of(extension: Reader) -> list[bytes]:
    """Their names, as far as they are whole."""
    inside = extension.sub(min(extension.u16(), extension.left))
    out = []
    while inside.left >= 1:
        n = inside.u8()
        if n > inside.left:
            break
        out.append(inside.take(n))
    return out


def protocol_first(kinds: bytes) -> bool:
    """Whether of extensions, by their kinds, that of the protocol inside comes before that of the key's group."""
    for i in range(0, len(kinds) - 1, 2):
        kind = (kinds[i] << 8) | kinds[i + 1]
        if kind in (16, 40, 51):
            return kind == 16
    return True
