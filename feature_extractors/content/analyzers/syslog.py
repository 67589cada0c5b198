"""Syslog over UDP, as syslog.log has it; the service is never confirmed, as in Zeek 8.2.2 without Spicy."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from feature_extractors.content.analyzers.base import Analyzer, text

_PRIORITY: Final = re.compile(rb"<([0-9]{1,9})>")
_FACILITIES: Final = (
    "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP", "NTP",
    "AUDIT", "ALERT", "CLOCK", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
)  # fmt: skip
_SEVERITIES: Final = ("EMERG", "ALERT", "CRIT", "ERR", "WARNING", "NOTICE", "INFO", "DEBUG")


class Syslog(Analyzer):
    """Syslog (RFC 3164): one entry per datagram."""

    service: ClassVar[str] = "syslog"

    def data(self, is_orig: bool, ts: float, data: bytes) -> None:
        if not data:
            return
        facility = severity = "UNSPECIFIED"
        priority = _PRIORITY.match(data)
        if priority:
            n = int(priority[1])
            code = (n & 0x3F8) >> 3
            facility = _FACILITIES[code] if code < len(_FACILITIES) else f"?-{code}"
            severity = _SEVERITIES[n & 7]
            data = data[priority.end() :]
        elif data[:1] == b"<":
            return
        proto = "udp" if self.session.ip_proto == 17 else "tcp"
        self.session.log("syslog", ts, {
            "proto": proto, "facility": facility, "severity": severity, "message": text(data, 1024),
        })  # fmt: skip
