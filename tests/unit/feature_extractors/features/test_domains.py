"""Registered domains, and how much stands left of them; whatever a name holds, it has a domain or none, in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList
from test_outcomes import windows_of

from feature_extractors.features import domains
from feature_extractors.features.by_stream import by_stream
from feature_extractors.features.domains import Domains, domains_of, registered

SECRET = "mzxw6ytboi2gk3tunb2g633nfz3gc4ronrxxe2lsm5xxg5dd"  # 48 letters in base 32


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("example.com", "example.com"),
        ("www.Example.COM.", "example.com"),
        ("a.b.bbc.co.uk", "bbc.co.uk"),
        ("printer", ""),
        ("com", ""),
        ("co.uk", ""),
        ("", ""),
        (".", ""),
        ("user.github.io", "user.github.io"),  # everybody may register below it
        ("dc1.firm.local", "firm.local"),  # no such suffix: the last two labels
        ("www.café.fr", "xn--caf-dma.fr"),
        ("www.xn--caf-dma.fr", "xn--caf-dma.fr"),
        ("shop.食狮.公司.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("192.0.2.7", ""),
        ("192.0.2.7:8080", ""),
        ("[2001:db8::1]:80", ""),
        ("2001:db8::1", ""),
        ("shop.example.com:8080", "example.com"),
        ("7.2.0.192.in-addr.arpa", "in-addr.arpa"),
        ("in-addr.arpa", "in-addr.arpa"),
        ("8.b.d.0.1.0.0.2.ip6.arpa", "ip6.arpa"),
        ("notin-addr.arpa", "notin-addr.arpa"),
        ("a..example.com", ""),
        ("\ud800x.example.com", "example.com"),
        ("x" * 300 + ".example.com", "example.com"),
        ("a." * 3000 + "example.com", "example.com"),
        ("x" * 5000, ""),
    ],
)
def test_the_registered_domain_of_a_name(name: str, domain: str) -> None:
    assert registered(name)[0] == domain


def test_what_the_name_of_an_address_says_is_nothing() -> None:
    assert registered("7.2.0.192.in-addr.arpa")[1] == 0


def of(*connections: list[tuple[str, Mapping[str, Any]]]) -> Domains:
    windows = windows_of(*connections)
    return domains_of(by_stream(windows.logs), windows.log_start)


def test_information_stands_left_of_the_domain_in_dns_queries_alone() -> None:
    hidden = f"{SECRET}.evil.example"
    found = of(
        [("dns", {"query": hidden})],
        [("dns", {"query": "www.evil.example"})],
        [("ssl", {"server_name": hidden})],
        [("http", {"host": hidden})],
        [],
        [("dns", {"rcode_name": "FORMERR"})],
    )
    assert found.domain == ["evil.example"] * 4 + ["", ""]
    assert 170 < found.bits[0] < 5 * len(SECRET)
    assert found.bits[1:].tolist() == [0] * 5


def test_different_names_say_more_and_the_same_one_again_does_not() -> None:
    one, other = {"query": f"{SECRET}.evil.example"}, {"query": f"{SECRET[::-1]}.evil.example"}
    loud = {"query": f"{SECRET.upper()}.evil.example"}
    found = of(
        [("dns", one)], [("dns", one)] * 16, [("dns", one), ("dns", loud)], [("dns", one), ("dns", other)]
    )
    assert found.bits[1] == found.bits[2] == found.bits[0]
    assert found.bits[3] == pytest.approx(2 * found.bits[0])


def test_of_several_domains_it_is_the_one_that_says_most_else_the_first_of_dns_tls_and_http() -> None:
    found = of(
        [("dns", {"query": "a.example"}), ("dns", {"query": f"{SECRET}.evil.example"})],
        [("dns", {"query": "b.example"}), ("dns", {"query": "a.example"})],
        [("http", {"host": "web.example"}), ("ssl", {"server_name": "tls.example"})],
        [("http", {"host": "192.0.2.1"}), ("http", {"host": "www.web.example"})],
    )
    assert found.domain == ["evil.example", "b.example", "tls.example", "web.example"]
    assert found.bits[1:].tolist() == [0, 0, 0]


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=300)
    | st.text("ab.\0\ud800é:[]1", max_size=300)
    | st.lists(st.text(max_size=8)).map(".".join)
    | st.integers()
    | st.none()
    | st.lists(st.text())
)
def test_whatever_a_name_holds_it_has_a_domain_or_none_within_bounds(name: Any) -> None:
    found = of([("dns", {"query": name}), ("ssl", {"server_name": name})], [("http", {"host": name})])
    for domain, bits in zip(found.domain, found.bits.tolist(), strict=True):
        assert len(domain) <= 253
        assert not domain or "." in domain
        assert np.isfinite(bits)
        assert 0 <= bits <= 253 * 8


def test_what_is_remembered_of_names_is_bounded() -> None:
    for i in range(20_000):
        registered(f"{'x' * 4000}{i}.example")
    kept = domains._registered.cache_info()
    assert kept.currsize <= kept.maxsize == 16_384  # type: ignore[operator]


def test_every_rule_of_the_list_is_kept_as_its_own_library_does() -> None:
    library = PublicSuffixList()
    rules, _ = domains._rules()
    assert len(rules) > 10_000
    for rule in rules:
        name = rule.lstrip("!").replace("*", "q")
        for told in (
            name,
            f"a.{name}",
            f"b.a.{name}",
            f"c.b.a.{name}",
            name.partition(".")[2] or name,
            f".{name}",
        ):
            assert domains._below_suffix(told) == library.privatesuffix(told), told
