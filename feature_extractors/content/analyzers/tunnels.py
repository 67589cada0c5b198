"""Tunnels over UDP, told apart by their outer headers: VXLAN, Geneve, GTPv1, Teredo and AYIYA.

Mirrors when src/packet_analysis/protocol/{vxlan,geneve,gtpv1,teredo,ayiya} of Zeek 8.2.2 confirm themselves. What is
inside is the tracker's affair.
"""

from __future__ import annotations

from typing import ClassVar

from feature_extractors.content.analyzers.base import Analyzer, Session


def _is_ip(data: bytes) -> bool:
    """Whether exactly one IP packet lies here: the version, a header that fits, and its length."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        header = (data[0] & 15) * 4
        return 20 <= header <= len(data) == (data[2] << 8 | data[3])
    if len(data) >= 40 and data[0] >> 4 == 6:
        return len(data) - 40 == (data[4] << 8 | data[5])
    return False


class Vxlan(Analyzer):
    """VXLAN (RFC 7348): port 4789 with the I flag."""

    service: ClassVar[str] = "vxlan"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) >= 8 and data[0] & 8:
            self.session.confirm(self.service)
        self.stop()


class Geneve(Analyzer):
    """Geneve (RFC 8926): port 6081 with version 0 and options that fit."""

    service: ClassVar[str] = "geneve"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) >= 8 and data[0] >> 6 == 0 and len(data) >= 8 + (data[0] & 0x3F) * 4:
            self.session.confirm(self.service)
        self.stop()


class Ayiya(Analyzer):
    """Port 5072 with identity and signature that fit."""

    service: ClassVar[str] = "ayiya"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 8:
            return
        size = 8 + (1 << (data[0] >> 4)) + (data[1] >> 4) * 4
        if size <= len(data) and data[2] & 15 in (0, 1, 2):
            self.session.confirm(self.service)
            self.stop()


class _BothSides(Analyzer):
    """A tunnel that is believed once packets were seen inside it in both directions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._seen = [False, False]

    def _saw(self, is_orig: bool) -> None:
        self._seen[is_orig] = True
        if all(self._seen):
            self.session.confirm(self.service)
            self.stop()


class Gtpv1(Analyzer):
    """GTP-U packets on ports 2152 and 2123: one whole IP packet inside is enough."""

    service: ClassVar[str] = "gtpv1"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if len(data) < 8 or data[0] >> 5 != 1 or data[1] != 0xFF:
            return
        pos = 8
        if data[0] & 7:
            pos = 12
            kind = data[11] if len(data) > 11 else 0
            while data[0] & 4 and kind and pos < len(data):
                size = data[pos] * 4
                if not size or pos + size > len(data):
                    return
                kind = data[pos + size - 1]
                pos += size
        if _is_ip(data[pos:]):
            self.session.confirm(self.service)
            self.stop()


class Teredo(_BothSides):
    """Teredo (RFC 4380): IPv6 packets behind authentication and origin indications."""

    service: ClassVar[str] = "teredo"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        pos = 0
        if data[:2] == b"\0\1" and len(data) >= 4:
            pos = 13 + data[2] + data[3]
        if data[pos : pos + 2] == b"\0\0":
            pos += 8
        inner = data[pos:]
        # no next header, whatever follows
        is_bubble = len(inner) >= 40 and inner[6] == 59 and inner[4:6] == b"\0\0"
        if inner[:1] and inner[0] >> 4 == 6 and (is_bubble or _is_ip(inner)):
            self._saw(is_orig)
