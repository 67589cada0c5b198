"""Our Community IDs are those of the reference implementation, but for the one case in which Zeek's are not."""

from __future__ import annotations

from ipaddress import ip_address

import communityid
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from feature_extractors.community_id import community_id_v1


def packed(address: str) -> np.ndarray:
    raw = ip_address(address).packed
    return np.frombuffer(raw if len(raw) == 16 else bytes(10) + b"\xff\xff" + raw, np.uint8)


def ours(src: str, dst: str, sport: int, dport: int, proto: int, seed: int = 0) -> str:
    (found,) = community_id_v1(
        packed(src)[None], packed(dst)[None], np.array([sport], np.uint16), np.array([dport], np.uint16),
        np.array([proto], np.uint8), seed,
    )  # fmt: skip
    return found.decode()


def reference(src: str, dst: str, sport: int, dport: int, proto: int, seed: int = 0) -> str:
    make = {6: communityid.FlowTuple.make_tcp, 17: communityid.FlowTuple.make_udp, 1: communityid.FlowTuple.make_icmp,
            58: communityid.FlowTuple.make_icmp6, 132: communityid.FlowTuple.make_sctp}  # fmt: skip
    flow = (
        make[proto](src, dst, sport, dport)
        if proto in make
        else communityid.FlowTuple.make_ip(src, dst, proto)
    )
    return communityid.CommunityID(seed=seed).calc(flow)


@pytest.mark.parametrize(
    "flow",
    [
        ("128.232.110.120", "66.35.250.204", 34855, 80, 6),
        ("66.35.250.204", "128.232.110.120", 80, 34855, 6),
        ("192.168.1.52", "8.8.8.8", 54585, 53, 17),
        ("192.168.0.89", "192.168.0.1", 8, 0, 1),
        ("192.168.0.1", "192.168.0.89", 0, 8, 1),
        ("192.168.0.1", "192.168.0.89", 3, 1, 1),
        ("192.168.0.1", "192.168.0.89", 11, 0, 1),
        ("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 136, 58),
        ("fe80::1", "ff02::16", 143, 0, 58),
        ("192.168.170.8", "192.168.170.56", 7, 80, 132),
        ("10.1.24.4", "10.1.12.1", 0, 0, 47),
    ],
)
def test_known_flows_agree_with_the_reference(flow: tuple[str, str, int, int, int]) -> None:
    assert ours(*flow) == reference(*flow)
    assert ours(*flow, seed=1) == reference(*flow, seed=1)


addresses = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(
    addresses.filter(lambda pair: pair[0] != pair[1]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.sampled_from([6, 17]),
)
def test_any_flow_agrees_and_direction_does_not_matter(pair, sport: int, dport: int, proto: int) -> None:  # type: ignore[no-untyped-def]
    a, b = map(str, pair)
    assume(not any(getattr(address, "ipv4_mapped", None) for address in pair))  # IPv4 to us
    assert ours(a, b, sport, dport, proto) == reference(a, b, sport, dport, proto)
    assert ours(a, b, sport, dport, proto) == ours(b, a, dport, sport, proto)


def test_a_host_talking_to_itself_has_zeeks_id() -> None:
    # From a conn.log of Zeek 8.2.2: 127.0.0.1:46102 > 127.0.0.1:80.
    assert ours("127.0.0.1", "127.0.0.1", 46102, 80, 6) == "1:uRDJDbXQQuJjIONwSG9wPS5DOKc="
    assert ours("127.0.0.1", "127.0.0.1", 80, 46102, 6) == "1:uRDJDbXQQuJjIONwSG9wPS5DOKc="
