"""NTP messages as ntp.log has them (src/analyzer/protocol/ntp and scripts/base/protocols/ntp of Zeek 8.2.2)."""

from __future__ import annotations

import struct
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, Fields, ParseError, text
from feature_extractors.content.analyzers.ip import address

_MESSAGE: Final = struct.Struct(">BBbbhhhh4s8I")  # parts of a second are signed, as Zeek reads them
_SECONDS_1900_TO_1970: Final = 2208988800  # seconds from 1900 to 1970


def _time(seconds: int, fraction: int) -> float:
    return seconds - _SECONDS_1900_TO_1970 + fraction / 2**32 if seconds or fraction else 0.0


class Ntp(Analyzer):
    """Client, server, symmetric and broadcast messages; control and private ones confirm the service only."""

    service: ClassVar[str] = "ntp"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if not data:
            return
        mode = data[0] & 7
        fields: Fields = {"version": data[0] >> 3 & 7, "mode": mode}
        if 1 <= mode <= 5:
            if len(data) < 48:
                raise ParseError("message_too_short")
            (_, stratum, poll, precision, delay, delay_fraction, dispersion, dispersion_fraction, reference,
             *times) = _MESSAGE.unpack_from(data)  # fmt: skip
            fields["stratum"] = stratum
            fields["poll"] = 2.0**poll
            fields["precision"] = 2.0**precision
            fields["root_delay"] = delay + delay_fraction / 65536
            fields["root_disp"] = dispersion + dispersion_fraction / 65536
            fields["ref_id"] = text(reference) if stratum < 2 else address(reference)
            for i, name in enumerate(("ref_time", "org_time", "rec_time", "xmt_time")):
                fields[name] = _time(times[2 * i], times[2 * i + 1])
            fields["num_exts"] = _extensions(data)
        elif len(data) < {6: 12, 7: 8}.get(mode, 1) or (
            mode == 6 and len(data) < 12 + (data[10] << 8 | data[11])
        ):
            raise ParseError("message_too_short")
        self.session.confirm(self.service)
        if mode <= 5:
            self.session.log("ntp", ts, fields)


def _extensions(data: bytes) -> int:
    """How many extension fields lie between the header and the authenticator. Raises `ParseError`."""
    count = 0
    pos = 48
    if len(data) - pos <= 24:
        return 0
    while len(data) - pos > 24:
        length = data[pos + 2] << 8 | data[pos + 3]
        if length < 16 or pos + length > len(data):
            raise ParseError("bad_extension")
        pos += length
        count += 1
    return count
