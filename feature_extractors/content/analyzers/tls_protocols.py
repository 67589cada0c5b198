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
