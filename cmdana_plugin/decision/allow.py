"""The connections that never raise a notice, by the operator's word, for ever or until a day."""

from __future__ import annotations

import bisect
import ipaddress
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final, NamedTuple

from cmdana_plugin.config import ConfigError

ANY: Final = "any"  # host at one end of an entry
_UNTIL: Final = " until "


class AllowList:
    """Connections that never raise a notice: an address or network on either side, or `A -> B[:port/proto]`.

    A or B may be `any`. ` until YYYY-MM-DD` at the end of an entry says the last day (UTC, of the traffic) on which it
    holds. Raises `ConfigError` for an entry of another form.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._either: list[tuple[_Network, float]] = []
        self._pairs: list[_Pair] = []
        for entry in entries:
            try:
                self._add(entry)
            except ValueError:
                raise ConfigError(
                    f"[verdict] allow: found {entry!r}; expected an address, a network, or "
                    "'originator -> responder' with ':port/proto' after it if wanted, and ' until YYYY-MM-DD' behind it"
                ) from None
        ends = {end for _, end in self._either} | {pair.end for pair in self._pairs}
        self._ends = sorted(ends - {math.inf})

    def _add(self, entry: str) -> None:
        entry, until, day = entry.strip().partition(_UNTIL)
        end = _after(day.strip()) if until else math.inf
        if "->" not in entry:
            self._either.append((_network(entry.strip()), end))
            return
        orig, resp = (side.strip() for side in entry.split("->"))
        port = proto = None
        if "/" in resp and resp.rsplit("/", 1)[1] in ("tcp", "udp", "icmp"):
            resp, proto = resp.rsplit("/", 1)
            resp, text = resp.rsplit(":", 1)
            port = int(text)
        sides = [None if s == ANY else _network(s.strip("[]")) for s in (orig, resp)]
        if sides == [None, None]:
            raise ValueError(entry)
        self._pairs.append(_Pair(sides[0], sides[1], port, proto, end))

    def __bool__(self) -> bool:
        return bool(self._either or self._pairs)

    def era(self, now: float) -> int:
        """How many of the last days are over at `now` (seconds since the epoch): within one era nothing changes."""
        return bisect.bisect_right(self._ends, now)

    def allows(self, connection: tuple[str, str, int, str], now: float) -> bool:
        """Whether a connection (originator, responder, its port and the protocol) is allowed at `now`."""
        orig_h, resp_h, resp_p, transport = connection
        orig, resp = ipaddress.ip_address(orig_h), ipaddress.ip_address(resp_h)
        if any(now < end and _within(a, n) for n, end in self._either for a in (orig, resp)):
            return True
        return any(
            now < pair.end
            and _within(orig, pair.orig)
            and _within(resp, pair.resp)
            and pair.port in (None, resp_p)
            and pair.proto in (None, transport)
            for pair in self._pairs
        )


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Pair(NamedTuple):
    orig: _Network | None  # None: any
    resp: _Network | None
    port: int | None
    proto: str | None
    end: float


def _network(text: str) -> _Network:
    if "%" in text:
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=False)


def _after(day: str) -> float:
    """The first moment after a day, in seconds since the epoch."""
    after = date.fromisoformat(day) + timedelta(days=1)
    return datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp()


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: _Network | None) -> bool:
    return network is None or (address.version == network.version and address in network)
