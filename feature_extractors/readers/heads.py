"""The first bytes of a capture: whether it is one, told before anything heavy is loaded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from feature_extractors.errors import CaptureError
from feature_extractors.readers.source import (
    STDIN,
    ZSTD_MAGIC,
    DecompressedSource,
    Source,
    is_live,
    open_source,
    read_exactly,
)

if TYPE_CHECKING:
    from feature_extractors.frames import Counts

_MICROSECONDS: Final = 0xA1B2C3D4
NANOSECONDS: Final = 0xA1B23C4D
KUZNETZOV: Final = 0xA1B2CD34  # pcap with 8 more bytes in each record header
PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
PCAP_MAGICS: Final = {
    struct.pack(order + "I", magic): (order, magic)
    for order in "<>"
    for magic in (_MICROSECONDS, NANOSECONDS, KUZNETZOV)
}
EXPECTED: Final = "pcap, pcapng, or either of them in gzip, bzip2 or xz"
_BYTE_ORDER: Final = 0x1A2B3C4D

# Formats that tshark reads for us, by their first bytes.
FOREIGN: Final = (
    b"snoop\0\0\0",
    b"RTSS",  # Network Monitor 1
    b"GMBU",  # Network Monitor 2
    b"TRSNIFF data",  # Sniffer
    b"XCP\0",  # NetXray, Sniffer for Windows
    b"\x05VNF",  # Visual Networks
    b"\x7fver",  # Peek tagged
    b"iptrace ",
    b"\xa1\xe2\xcb\x12",  # Navtel's pcap
    b"\x12\xcb\xe2\xa1",
)


class UnknownFormatError(CaptureError):
    """The file begins as no pcap and no pcapng does; another reader may know it."""


def refuse_early(names: Sequence[str], reader: str) -> None:
    """Raises `CaptureError`, as who opens them would, for the first file that is missing, empty or no capture.

    Nothing is unpacked: what is packed, folders and pipes are left to whoever reads them.
    """
    for name in names:
        path = Path(name)
        if name == STDIN or path.is_dir():
            continue
        if not path.exists():
            raise CaptureError(f"cannot read capture {name}: no such file or directory")
        if reader not in ("auto", "native") or is_live(path):
            continue
        source = open_source(path, cast("Counts", None))
        try:
            if not isinstance(source, DecompressedSource):
                read_header(source, name)
        except UnknownFormatError as error:
            _refuse_unknown(error, reader)
        finally:
            source.close()


def _refuse_unknown(error: UnknownFormatError, reader: str) -> None:
    """Raises the error unless tshark may know more."""
    if reader == "native":
        raise error
    from feature_extractors.readers.pyshark_reader import missing_parts

    if missing := missing_parts():
        raise CaptureError(f"{error}; tshark may know more formats, but {missing}") from error


def is_capture(head: bytes) -> bool:
    """Whether the first (decompressed) bytes are those of a pcap or pcapng."""
    return head[:4] in PCAP_MAGICS or (head[:4] == PCAPNG_MAGIC and section_order(head) is not None)


def section_order(head: bytes) -> str | None:
    """The byte order, as `struct` has it, of the pcapng section header that begins so."""
    magic = head[8:12]
    for order in "<>":
        if magic == struct.pack(order + "I", _BYTE_ORDER):
            return order
    return None


def read_header(source: Source, name: str) -> bytes:
    """The global header of a pcap, or the first 16 bytes of a pcapng. Raises `CaptureError` where it is neither."""
    magic = read_exactly(source, 4)
    if magic == PCAPNG_MAGIC:
        head = magic + read_exactly(source, 12)
        if len(head) < 16:
            raise CaptureError(
                f"{name} ends within its pcapng header: found {len(head)} bytes, expected 28 or more"
            )
        order = section_order(head)
        if order is None:
            raise CaptureError(
                f"{name} is no pcapng: found byte-order magic {head[8:12].hex()}, expected 1a2b3c4d"
            )
        major, minor = struct.unpack_from(order + "HH", head, 12)
        if major != 1:
            raise CaptureError(f"{name} is a pcapng of version {major}.{minor}, expected 1.x")
        return head
    if magic == ZSTD_MAGIC:
        raise CaptureError(
            f"{name} is compressed with zstd, expected {EXPECTED}; try: zstd -dc FILE | cmdana replay -"
        )
    if magic not in PCAP_MAGICS:
        found = f"first bytes {magic.hex()}" if magic else "nothing in it"
        hint = "; a Zeek log? `cmdana hunt` judges those" if magic == b"#sep" or magic[:1] == b"{" else ""
        raise UnknownFormatError(
            f"{name} is no capture that we know: found {found}, expected {EXPECTED}{hint}"
        )
    head = magic + read_exactly(source, 20)
    if len(head) < 24:
        raise CaptureError(f"{name} ends within its pcap header: found {len(head)} bytes, expected 24")
    major, minor = struct.unpack_from(PCAP_MAGICS[magic][0] + "HH", head, 4)
    if (major, minor) != (543, 0) and (major != 2 or minor > 4):
        raise CaptureError(f"{name} is a pcap of version {major}.{minor}, expected 2.0 to 2.4")
    return head
