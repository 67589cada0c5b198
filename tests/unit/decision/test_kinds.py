"""What an incident is called: the thing itself, with counts, times, what is usual, and names made harmless."""

from collections.abc import Sequence

import pytest
from incident_rows import asked, connection

from cmdana_plugin.decision.facts import Facts
from cmdana_plugin.decision.kinds import KINDS, Named, Setting, named, quoted, size, span
from cmdana_plugin.decision.seen import Seen

SSH = ("SSH login", "SSH logins", "refused")
NAME = ("name", "names", "not found")
PAGE = ("web page", "web pages", "not found")
SHARE = ("SMB share", "SMB shares", "not found")
ORIGINATOR, RESPONDER = Setting("originator"), Setting("responder")


def said(seen: Sequence[Seen], setting: Setting = ORIGINATOR, most: int = 3) -> Named:
    facts = Facts()
    for s in seen:
        facts.add(s)
    return named(facts, setting, most)


def tries(n: int, gap: float, ports: int = 1, hosts: int = 1, sources: int = 1) -> list[Seen]:
    return [
        connection(
            i * gap,
            1e-3,
            port=1 + i % ports,
            resp=f"10.0.1.{i % hosts}",
            orig=f"10.0.2.{i % sources}",
            tried=True,
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("seen", "setting", "kind", "headline", "technique"),
    [
        (
            [asked(i / 3, 1e-3, SSH, refused=6, port=22, service="ssh") for i in range(211)],
            Setting("originator", {"refused": 2.0}),
            "password guessing",
            "tries passwords: 1,266 SSH logins refused by 10.0.0.9 in 70 s, usual is 2 a day",
            "T1110",
        ),
        (
            [
                asked(i, 1e-3, SSH, refused=1, port=22, service="ssh", orig=f"10.0.3.{i % 9}")
                for i in range(30)
            ],
            RESPONDER,
            "password guessing",
            "has passwords tried: 30 SSH logins refused from 9 hosts in 29 s",
            "T1110",
        ),
        (
            [asked(i, 1e-3, NAME, refused=1, port=53, service="dns", resp="10.0.0.53") for i in range(1209)],
            Setting("originator", {"refused": 0.0}),
            "names that do not exist",
            "asks for 1,209 names that do not exist in 20 min, usual is none",
            "T1568.002",
        ),
        (tries(1400, 0.003, 1400, 3), ORIGINATOR, "scan", "scans: 1,400 ports of 3 hosts in 4.2 s", "T1046"),
        (tries(254, 1.0, 1, 254), ORIGINATOR, "scan", "scans: 1/tcp of 254 hosts in 4.2 min", "T1046"),
        (
            tries(300, 0.01, sources=40),
            RESPONDER,
            "flood",
            "is flooded at 1/tcp: 300 connections, 100 a second from 40 hosts",
            "T1498",
        ),
        (
            tries(300, 0.01),
            ORIGINATOR,
            "flood",
            "floods 1/tcp of 10.0.1.0: 300 connections, 100 a second",
            "T1498",
        ),
        (
            [asked(i, 1e-3, PAGE, refused=2, service="http") for i in range(40)],
            ORIGINATOR,
            "probing",
            "probes: 80 web pages not found by 10.0.0.9 in 39 s",
            "T1595.003",
        ),
        (
            [
                connection(60.0 * i, 1e-3, port=53, service="dns", domain="t.example", bits=6400.0)
                for i in range(11)
            ],
            ORIGINATOR,
            "tunnel",
            "tunnels through t.example: 8.8 kB of names in 10 min",
            "T1071.004",
        ),
        (
            [connection(i, 1e-3, port=22, service="ssh", resp=f"10.0.1.{i}") for i in range(4)],
            ORIGINATOR,
            "lateral movement",
            "moves: SSH to 4 hosts in 3 s",
            "T1021.004",
        ),
        (
            [
                connection(61.0 * i, 1e-2, port=443, service="ssl", resp="203.0.113.7", sent=300, got=200)
                for i in range(178)
            ],
            Setting("originator", alone=True),
            "beacon",
            "calls home every 61 s (±0 %) to 203.0.113.7 for 3 h, nobody else does",
            "T1071.001",
        ),
        (
            [connection(0.0, 1e-9, port=443, service="ssl", resp="198.51.100.4", sent=4_200_000_000)],
            Setting("originator", {"sent": 30e6}),
            "exfiltration",
            "sends 4.2 GB to 198.51.100.4 in an instant, usual is 30 MB a day",
            "T1048",
        ),
        (
            [connection(10.0 * i, 1e-4, port=443, service="ssl", sent=1_050_000, got=1600) for i in range(3)],
            Setting("responder", {"sent": 30e6}),
            "exfiltration",
            "receives 3.1 MB from 10.0.0.5 in 20 s",
            "T1048",
        ),
        (
            [asked(i, 1e-3, SHARE, refused=1, port=445, service="smb") for i in range(20)],
            ORIGINATOR,
            "refused",
            "asks in vain: 20 SMB shares not found by 10.0.0.9 in 19 s",
            "",
        ),
        (
            [connection(i, 1e-4, word="web-rce", sent=10, got=10) for i in range(3)],
            ORIGINATOR,
            "known attack",
            "does what resembles an attack known as web-rce: 3 connections in 2 s",
            "",
        ),
        (
            [connection(1.0, 1e-4), connection(9.0, 1e-4, port=443, service="ssl")],
            ORIGINATOR,
            "unusual",
            "opens 2 unusual connections to 10.0.0.9 (80/tcp, ssl) in 8 s",
            "",
        ),
    ],
)
def test_each_kind_is_named_by_what_is_seen(
    seen: list[Seen], setting: Setting, kind: str, headline: str, technique: str
) -> None:
    found = said(seen, setting)
    assert (found.kind, found.headline, found.technique) == (kind, headline, technique)
    assert found.kind in KINDS
    assert found.why


def test_logins_that_succeed_as_often_as_they_fail_are_no_guessing() -> None:
    mixed = [asked(i, 1e-3, SSH, refused=1, accepted=2, port=22, service="ssh") for i in range(30)]
    assert said(mixed).kind != "password guessing"


def test_usual_is_not_said_where_it_is_not_known_or_is_more() -> None:
    seen = [asked(i, 1e-3, SSH, refused=1, port=22, service="ssh") for i in range(30)]
    assert "usual" not in said(seen).headline
    assert "usual" not in said(seen, Setting("originator", {"refused": 5000.0})).headline


def test_ordinary_use_beside_it_does_not_name_an_incident() -> None:
    guessing = [asked(i, 1e-5, SSH, refused=1, port=22, service="ssh") for i in range(20)]
    browsing = [
        connection(i, 0.09, port=443, service="ssl", resp=f"192.0.2.{i}", sent=50, got=80) for i in range(40)
    ]
    assert said([*guessing, *browsing]).kind == "password guessing"


def test_news_without_a_name_leaves_an_incident_its_name() -> None:
    facts = Facts()
    for s in [
        *tries(40, 0.1, ports=40),
        *(connection(9.0 + i, 1e-3, service="ssl", port=443) for i in range(3)),
    ]:
        facts.add(s)
    found = named(facts, ORIGINATOR, 3, "ssl")
    assert found.kind == "scan"
    assert found.headline == "scans: 40 ports of 10.0.1.0 in 3.9 s; also: unusual ssl"
    assert named(facts, ORIGINATOR, 3).headline == "scans: 40 ports of 10.0.1.0 in 3.9 s"


def test_reasons_have_units_and_quote_names_harmlessly() -> None:
    name = "<b>\x1b[31m" + "a" * 200 + ".example"
    seen = [connection(60.0 * i, 1e-3, port=53, service="dns", domain=name, bits=64000.0) for i in range(11)]
    found = said(seen, most=5)
    assert "\x1b" not in found.headline + "".join(found.why)
    assert "…" in found.headline
    assert any(w.startswith("88 kB of names below ") for w in found.why)
    assert any(w == "unlike any traffic seen in training in 11 of 11 connections" for w in found.why)


def test_facts_stay_within_their_bounds() -> None:
    facts = Facts()
    for i in range(20_000):
        facts.add(
            connection(
                float(i), 1e-3, port=i % 65536, service=f"s{i % 99}", resp=f"10.{i % 250}.{i // 250 % 250}.1",
                domain=f"d{i}.example", bits=8.0,
            )
        )  # fmt: skip
    assert facts.connections == 20_000
    assert len(facts.strands) <= 32
    assert all(
        len(s.targets) <= 4096 and len(s.ports) <= 4096 and len(s.domains) <= 64 for s in facts.ordered()
    )
    assert len(facts.strongest) <= 25


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "an instant"), (0.25, "250 ms"), (4.2, "4.2 s"), (70.0, "70 s"), (600.0, "10 min"), (10_800.0, "3 h"),
     (400_000.0, "4.6 days")],
)  # fmt: skip
def test_a_time_is_said_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_an_amount_is_said_in_the_unit_that_fits() -> None:
    assert [size(n) for n in (12, 8_800, 4_200_000, 3e10, 2e12)] == [
        "12 B",
        "8.8 kB",
        "4.2 MB",
        "30 GB",
        "2 TB",
    ]


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert quoted("a" * 50 + "." + "b" * 50, 20) == "a" * 10 + "…" + "b" * 9


@pytest.mark.parametrize(("volume", "is_named"), [(1.2, False), (3.0, True)])
def test_a_small_copy_is_named_where_it_is_rare_here(volume: float, is_named: bool) -> None:
    copy = connection(0.0, 1e-2, service="ssh", port=22, sent=60_000)
    found = said([copy._replace(volume=volume)], Setting("originator", {"sent": 1e6}))
    assert (found.kind == "exfiltration") is is_named
    assert any("sends as much in one connection" in why for why in found.why) is is_named


def test_how_long_it_takes_is_told_of_packets_and_not_of_when_rows_are_made() -> None:
    late = [s._replace(end=s.end + 5.3) for s in tries(40, 0.1, ports=40)]
    assert said(late).headline == "scans: 40 ports of 10.0.1.0 in 3.9 s"
    (copy,) = [connection(0.0, 1e-6, port=443, sent=4_200_000_000)]
    assert "in 3 min" in said([copy._replace(end=300.0, duration=180.0)]).headline


def test_names_of_a_tunnel_take_as_long_as_they_are_asked_for() -> None:
    stray = connection(0.0, 1e-2, port=53, service="dns", domain="news.example")
    asks = [
        connection(9000.0 + i, 1e-3, port=53, service="dns", domain="t.example", bits=900.0)
        for i in range(60)
    ]
    assert said([stray, *asks]).headline == "tunnels through t.example: 6.8 kB of names in 59 s"


def test_a_stray_connection_is_no_part_of_what_an_incident_is_about() -> None:
    facts = Facts()
    for s in [
        connection(0.0, 1e-2, port=53, service="dns"),
        *(s._replace(end=9e3) for s in tries(40, 0.1, ports=40)),
    ]:
        facts.add(s)
    assert [strand.name for strand in facts.main()] == ["tries"]
    assert {strand.name for strand in facts.ordered()} == {"tries", "dns"}
