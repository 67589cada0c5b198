"""What kind of file begins with these bytes: the MIME types that traffic shows most, named as Zeek's files.log does."""

from __future__ import annotations

import re
from typing import Final

SNIFF: Final = 4096  # bytes that are looked at (default_file_bof_buffer_size)
SNIFF_QUICKLY: Final = 1024  # bytes that are enough to tell nearly always

_STARTS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"MZ", "application/x-dosexec"),
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"FWS", "application/x-shockwave-flash"),
    (b"CWS", "application/x-shockwave-flash"),
    (b"ZWS", "application/x-shockwave-flash"),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword"),
    (b"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!", "application/x-rar"),
    (b"\xca\xfe\xba\xbe", "application/x-java-applet"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"wOFF", "application/font-woff"),
    (b"{\\rtf", "text/rtf"),
    (b"\x00\x00\x02\x00", "image/x-cursor"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"MM\x00*", "image/tiff"),
    (b"II*\x00", "image/tiff"),
    (b"PK\x07\x08PK\x03\x04", "application/zip"),
    (b"xar!", "application/x-xar"),
    (b"\xed\xab\xee\xdb", "application/x-rpm"),
    (b"!<arch>\ndebian", "application/x-debian-package"),
    (b"!<arch>", "application/x-archive"),
    (b"\x04\x22M\x18", "application/x-lz4"),
    (b"LZIP", "application/x-lzip"),
    (b"\x60\xea", "application/x-arj"),
    (b"\x1f\x9d", "application/x-compress"),
    (b"\x5d\x00\x00", "application/x-lzma"),
    (b"\xce\xfa\xed\xfe", "application/x-mach-o-executable"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-o-executable"),
    (b"Cr24", "application/chrome-ext"),
    (b"bplist", "application/bplist"),
    (b"MDMP", "application/x-windows-minidump"),
    (b"PReg", "application/vnd.ms-pol"),
    (b"regf", "application/vnd.ms-regf"),
    (b"REGEDIT4", "application/vnd.ms-reg"),
    (b"ITSF", "application/mshelp"),
    (
        b"L\x00\x00\x00\x01\x14\x02\x00\x00\x00\x00\x00\xc0\x00\x00\x00\x00\x00\x00F",
        "application/x-ms-shortcut",
    ),
    (b"\xa1\xb2\xc3\xd4", "application/vnd.tcpdump.pcap"),
    (b"\xd4\xc3\xb2\xa1", "application/vnd.tcpdump.pcap"),
    (b"-----BEGIN CERTIFICATE-----", "application/x-pem"),
    (b"-----BEGIN PGP MESSAGE-", "application/pgp"),
    (b"-----BEGIN PGP SIGNATURE-", "application/pgp-signature"),
    (b"BEGIN:VCALENDAR", "text/calendar"),
    (b"BEGIN:VCARD", "text/x-vcard"),
    (b"d8:announce", "application/x-bittorrent"),
    (b"From:", "message/rfc822"),
    (b"Path:", "message/news"),
    (b"Xref:", "message/news"),
    (b"Article", "message/news"),
    (b"dnl ", "text/x-m4"),
)
_BY_FIRST: Final = {byte: tuple(s for s in _STARTS if s[0][0] == byte) for byte in {s[0][0] for s in _STARTS}}
_ELF: Final = {1: "application/x-object", 2: "application/x-executable", 3: "application/x-sharedlib",
               4: "application/x-coredump"}  # fmt: skip
_BITMAP: Final = re.compile(rb"BM.{12}[\x0c\x28\x40\x6c\x7c\x80]\x00", re.S)
_AR: Final = re.compile(rb"<ar(?:ch)?>")
_OCSP_REQUEST: Final = re.compile(rb".{11,19}\x06\x05\x2b\x0e\x03\x02\x1a", re.S)
_OCSP_RESPONSE: Final = re.compile(rb".{11,19}\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01", re.S)
_JAR: Final = re.compile(rb"PK\x03\x04.{1,200}\x14\x00..META-INF/MANIFEST\.MF", re.S)
_BATCH: Final = re.compile(rb"@ *(?:(echo) +off|rem)", re.I)
_SCRIPT: Final = re.compile(
    rb"#![^\n]{1,15}bin/(?:env\s+)?(?:((?:ba|tc|c|z|fa|ae|k)?sh)|(perl|ruby|python|php)|[gn]?(awk)|(?:wish|(tcl))|(lua)|"
    rb"(node))"
)
_SCRIPTS: Final = (
    "text/x-shellscript", "", "text/x-awk", "text/x-tcl", "text/x-lua", "application/javascript",
)  # fmt: skip
_JAVASCRIPT: Final = re.compile(
    rb"[\r\n\t ]*(?:<script[\t ]+(?:type|language)=['\"]?(?:text/)?javascript|<script>[\r\n\t ]*(?:var|function) )",
    re.I,
)
_JAVASCRIPT_PLAIN: Final = re.compile(
    rb"[\r\n\t ]*(?:for \(;;\);|document\.write(?:ln)? ?\()|\(function\(\)[ \t\n]*\{"
)
_BLANKS: Final = re.compile(rb"[\r\n\t ]*")
_WHOLE_PAGE: Final = re.compile(rb"<(?:!doctype +html|html|meta +http-equiv)", re.I)
_PAGE: Final = re.compile(rb"<(?:head|title|body)", re.I)
_FEED: Final = re.compile(
    rb"<(?:rss[^>]*xmlns:atom|feed[^>]*xmlns=[\"']?http://www\.w3\.org/2005/Atom)", re.I
)
_TAGS: Final = (
    (re.compile(rb"<rss", re.I), "text/rss"),
    (re.compile(rb"<soap(?:-env)?:envelope", re.I), "application/soap+xml"),
    (re.compile(rb"<(?:!doctype +)?cross-domain-policy", re.I), "text/x-cross-domain-policy"),
    (re.compile(rb"<methodresponse>", re.I), "application/xml-rpc"),
)
_INI: Final = re.compile(rb"[\0\r\n\t ]*\[[^\r\n]+\][\t \0]*[\r\n]")
_XML: Final = re.compile(rb"\0?<\0?\?\0?x\0?m\0?l\0? \0?")
_JSON: Final = re.compile(
    rb"[\r\n\t ]*(?:\{[\r\n\t ]*(?:\"[^\"]+\"|[a-zA-Z][a-zA-Z0-9\\_]*)[\r\n\t ]*:[\r\n\t ]*(?:[\"\[{0-9]|true|false)|"
    rb"\[[\r\n\t ]*(?:(?:\"[^\"]+\"|[0-9]+(?:\.[0-9]+)?|true|false)[\r\n\t ]*,|[{\[])|(?:\[\]|\{\})[\r\n\t ]*\Z)"
)
_TEXT: Final = re.compile(rb"(?:\xef\xbb\xbf|(?:\0\0)?\xfe\xff|\xff\xfe(?:\0\0)?)?[\t-\r -~]{10}")
_DIFF: Final = re.compile(rb"--- [^\n]*\n\+\+\+ [^\n]*\n@@")


def mime_type(first: bytes) -> str | None:
    """The kind of a file by its first bytes (at most `SNIFF` are looked at); None where nothing is known of it.

    Of several kinds the one whose signature Zeek holds to be stronger (base/frameworks/files/magic). Linear in its
    input.
    """
    first = first[:SNIFF]
    if not first:
        return None
    for start, kind in _BY_FIRST.get(first[0], ()):
        if first.startswith(start):
            if first.startswith(b"PK"):
                return _archive(first)
            return kind
    return _other(first) or _text(first)


def _other(first: bytes) -> str | None:
    """What takes more than one look at the beginning, and is no text."""
    if first.startswith(b"\x7fELF") and len(first) > 17:
        return _ELF.get(first[16] if first[5] == 1 else first[17])
    if first[4:8] == b"ftyp":
        return "image/jp2" if first[8:11] == b"jp2" else "video/mp4"
    if first.startswith(b"RIFF"):
        if first[8:12] == b"WEBP":
            return "image/webp"
        return {b"WAVE": "audio/x-wav", b"AVI ": "video/x-msvideo"}.get(first[8:12])
    if first[4:10] == b"!BDN" or first.startswith(b"!BDN"):
        return "application/vnd.ms-outlook"
    if first[0] == 0x30:
        if _OCSP_RESPONSE.match(first):
            return "application/ocsp-response"
        if _OCSP_REQUEST.match(first):
            return "application/ocsp-request"
    if _BITMAP.match(first):
        return "image/x-ms-bmp"
    return "application/x-archive" if _AR.match(first) else None


def _text(first: bytes) -> str | None:
    """What kind of text it is, the strongest signature first."""
    if first.startswith(b"#!") and (script := _SCRIPT.match(first)) is not None:
        which = script.lastindex or 0
        return f"text/x-{script[2].decode('ascii')}" if which == 2 else _SCRIPTS[which - 1]
    if first.startswith(b"@") and _BATCH.match(first):
        return "text/x-msdos-batch"
    mark = (
        3 if first.startswith(b"\xef\xbb\xbf") else 2 if first.startswith((b"\xff\xfe", b"\xfe\xff")) else 0
    )
    begin = _past_comments(first, mark)
    tag = begin
    if first.startswith(b"<?xml ", begin) and (end := first.find(b"?>", begin)) >= 0:
        tag = _past_comments(first, end + 2)
    if first.startswith(b"<", tag):
        if _WHOLE_PAGE.match(first, tag):
            return "text/html"
        if _FEED.match(first, tag):
            return "text/atom"
        if _JAVASCRIPT.match(first):
            return "application/javascript"
        for pattern, kind in _TAGS:
            if pattern.match(first, tag):
                return kind
    if _JAVASCRIPT_PLAIN.match(first):
        return "application/javascript"
    newline = first.find(b"\n")
    if first.find(b"<?php", 0, newline if newline >= 0 else len(first)) >= 0:
        return "text/x-php"
    if tag > begin and b"<svg" in first:
        return "image/svg+xml"
    if _PAGE.match(first, tag) or _INI.match(first, mark):
        return "text/html" if first.startswith(b"<", tag) else "text/ini"
    if _XML.match(first, begin):
        return "application/xml"
    if _JSON.match(first, mark):
        return "text/json"
    if _DIFF.search(first):
        return "text/x-diff"
    return "text/plain" if _TEXT.match(first) else None


def _past_comments(first: bytes, pos: int) -> int:
    """Where what is neither blank nor an HTML comment begins."""
    while True:
        blanks = _BLANKS.match(first, pos)
        pos = blanks.end() if blanks is not None else pos
        if not first.startswith(b"<!--", pos) or (end := first.find(b"-->", pos)) < 0:
            return pos
        pos = end + 3


def _archive(first: bytes) -> str:
    if _JAR.match(first):
        return "application/java-archive"
    if first[30:].startswith((b"[Content_Types].xml", b"_rels/.rels", b"word/", b"xl/", b"ppt/")):
        return _office(first)
    if first.startswith(b"PK\x03\x04\x14\x00\x06\x00"):
        return "application/vnd.openxmlformats-officedocument"
    return "application/zip"


def _office(first: bytes) -> str:
    for mark, kind in ((b"word/", "wordprocessingml.document"), (b"xl/", "spreadsheetml.sheet"),
                       (b"ppt/", "presentationml.presentation")):  # fmt: skip
        if mark in first:
            return f"application/vnd.openxmlformats-officedocument.{kind}"
    if first.startswith(b"PK\x03\x04\x14\x00\x06\x00"):
        return "application/vnd.openxmlformats-officedocument"
    return "application/zip"
