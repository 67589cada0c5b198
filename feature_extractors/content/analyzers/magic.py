"""What kind of file begins with these bytes: the MIME types that traffic shows most, named as Zeek's files.log does."""

from __future__ import annotations

import re
from typing import Final

SNIFF: Final = 1024  # bytes that are enough to tell (Zeek's default_file_bof_buffer_size is 4096)

_STARTS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"MZ", "application/x-dosexec"),
    (b"\x7fELF", "application/x-executable"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"FWS", "application/x-shockwave-flash"),
    (b"CWS", "application/x-shockwave-flash"),
    (b"ZWS", "application/x-shockwave-flash"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword"),
    (b"MSCF", "application/vnd.ms-cab-compressed"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!", "application/x-rar"),
    (b"\xca\xfe\xba\xbe", "application/x-java-applet"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"BM", "image/x-ms-bmp"),
    (b"#!", "text/x-shellscript"),
    (b"wOFF", "application/font-woff"),
    (b"{\\rtf", "text/rtf"),
)
_BY_FIRST: Final = {byte: tuple(s for s in _STARTS if s[0][0] == byte) for byte in {s[0][0] for s in _STARTS}}
_HTML: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?[\s]*(?:<!--.{0,256}?-->\s*)?<(?:!doctype html|html|head|title|body|script|h[1-6]|a href|"
    rb"frameset|iframe|img|style|table|div|meta|link|center|font|form|\?php)",
    re.I | re.S,
)
_XML: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml ", re.I)
_JSON: Final = re.compile(rb"\s*[\[{]\s*(?:\"|\}|\]|[0-9\[{])")
_BATCH: Final = re.compile(rb"@ ?echo off", re.I)
_NOT_TEXT: Final = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")


def mime_type(first: bytes) -> str | None:
    """The kind of a file by its first bytes (at most `SNIFF` are looked at); None where nothing is known of it."""
    first = first[:SNIFF]
    if not first:
        return None
    for start, kind in _BY_FIRST.get(first[0], ()):
        if first.startswith(start):
            if kind == "application/zip" and b"[Content_Types].xml" in first:
                return _office(first)
            return kind
    if first[4:8] == b"ftyp":
        return "video/mp4"
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "image/webp"
    if _HTML.match(first):
        return "text/html"
    if _XML.match(first):
        return "image/svg+xml" if b"<svg" in first else "application/xml"
    if _BATCH.match(first):
        return "text/x-msdos-batch"
    if _JSON.match(first):
        return "text/json"
    if _NOT_TEXT.search(first):
        return None
    return "text/plain"


def _office(first: bytes) -> str:
    for mark, kind in ((b"word/", "wordprocessingml.document"), (b"xl/", "spreadsheetml.sheet"),
                       (b"ppt/", "presentationml.presentation")):  # fmt: skip
        if mark in first:
            return f"application/vnd.openxmlformats-officedocument.{kind}"
    return "application/vnd.openxmlformats-officedocument"
