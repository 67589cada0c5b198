"""The connections that never raise a notice, by the operator's word."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cmdana_plugin.config import ConfigError


class AllowList:
    """Connections that never raise a notice: an address or network on either side, or `A -> B[:port/proto]`.

    Raises `ConfigError` for an entry of another form.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._either: list[_Network] = []
        self._pairs: list[tuple[_Network, _Network, int | None, str | None]] = []
        for entry in entries:
            try:
                self._add(entry)
            except ValueError:
                raise ConfigError(
                    f"[verdict] allow: found {entry!r}; expected an address, a network, "
                    "or 'originator -> responder' with ':port/proto' after it if wanted"
                ) from None

    def _add(self, entry: str) -> None:
        if "->" not in entry:
            self._either.append(ipaddress.ip_network(entry.strip(), strict=False))
            return
        orig, resp = (side.strip() for side in entry.split("->"))
        port = proto = None
        if "/" in resp and resp.rsplit("/", 1)[1] in ("tcp", "udp", "icmp"):
            resp, proto = resp.rsplit("/", 1)
            resp, text = resp.rsplit(":", 1)
            port = int(text)
        sides = [ipaddress.ip_network(s.strip("[]"), strict=False) for s in (orig, resp)]
        self._pairs.append((sides[0], sides[1], port, proto))

    def __bool__(self) -> bool:
        return bool(self._either or self._pairs)

    def __contains__(self, connection: tuple[str, str, int, str]) -> bool:
        """Of originator, responder, its port and the protocol."""
        orig_h, resp_h, resp_p, transport = connection
        orig, resp = ipaddress.ip_address(orig_h), ipaddress.ip_address(resp_h)
        if any(_within(a, n) for n in self._either for a in (orig, resp)):
            return True
        return any(
            _within(orig, o) and _within(resp, r) and port in (None, resp_p) and proto in (None, transport)
            for o, r, port, proto in self._pairs
        )


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _within(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: _Network) -> bool:
    return address.version == network.version and address in network
