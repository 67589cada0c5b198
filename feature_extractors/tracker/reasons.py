"""Why a frame was passed over: the names in `Counts`, and their places in the tracker's array of counters."""

from __future__ import annotations

from typing import Final

# fmt: off
(
    OK, TRUNCATED_LINK, UNKNOWN_ETHERTYPE, NO_IP_ARP, NO_IP_LLC, UNKNOWN_LINK, TRUNCATED_IP, UNKNOWN_IP_VERSION,
    TRUNCATED_IP_LENGTH, BAD_IP_HEADER, FRAGMENT_INCOMPLETE, FRAGMENT_HELD, FRAGMENT_EVICTED, FRAGMENT_BAD,
    FRAGMENT_EXPIRED, ESP, MOBILITY, NO_NEXT_HEADER, TRUNCATED_TRANSPORT, BAD_TCP_HEADER, TUNNEL_DEPTH, BAD_TUNNEL,
    WLAN_NO_DATA, WLAN_ENCRYPTED, CONNECTION_EVICTED, BLOCKS_FULL, HISTORY_CUT, TUNNEL_WITHOUT_IP,
    WLAN_AGGREGATED,
) = range(29)
# fmt: on

# Names beginning with "_" are the ordinary course of things and are not reported.
REASONS: Final = (
    "_ok", "truncated_link_header", "unknown_ethertype", "_arp", "_llc", "unknown_link_type", "truncated_ip",
    "unknown_ip_version", "truncated_ip_length", "bad_ip_header", "fragment_incompletely_captured", "_fragment_held",
    "fragment_evicted", "fragment_bad", "fragment_expired", "esp", "mobility", "ipv6_no_next_header",
    "truncated_transport_header", "bad_tcp_header", "tunnel_too_deep", "bad_tunnel_header", "wlan_without_data",
    "wlan_encrypted", "connection_evicted", "tcp_blocks_full", "history_cut",
    "tunnel_without_ip",
    "wlan_aggregated_rest",
)  # fmt: skip
