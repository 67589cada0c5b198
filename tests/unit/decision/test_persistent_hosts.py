"""Who keeps to what is new is an incident by that alone; and what is new in an open incident is told."""

from typing import Any

import pytest
from incident_rows import connection, rows

from cmdana_plugin.config import Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import Decider, _Case
from cmdana_plugin.decision.notice import Notice
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.decision.stored import made, plain

SLOT = 600.0


def kept(n: int, persistence: float = 3.0, **like: Any) -> list[Seen]:
    """Ordinary connections every ten minutes or so, to what the host has not gone to before."""
    like = {"domain": "new.example", "service": "ssl", "port": 443} | like
    # Now a little earlier, now a little later: there is no beat.
    return [
        connection(SLOT * k + (0.0, 290.0, 40.0)[k % 3], 0.5, **like)._replace(persistence=persistence)
        for k in range(n)
    ]


def notices(decider: Decider, seen: list[Seen], size: int = 100) -> list[Notice]:
    out = []
    for i in range(0, len(seen), size):
        decided = decider.receive(rows(seen[i : i + size]))
        out += [n for row in sorted(decided.notices) for n in decided.notices[row]]
    return out


def test_who_keeps_to_what_is_new_is_one_incident_that_says_so() -> None:
    decider = Decider(Budget(), Incident())
    first, *more = notices(decider, kept(20))
    assert first.incident is not None
    assert first.incident.kind == "persistence"
    assert first.incident.headline.startswith("keeps going back to 10.0.0.9 (new.example), new here today: ")
    assert first.incident.technique == "T1071.001"
    assert any("one in 10,000 is kept to as long as new.example" in why for why in first.incident.why)
    assert {n.identifier for n in more} <= {first.identifier}
    (incident,) = decider.incidents()
    assert incident.connections == 20


def test_without_it_the_same_connections_are_nothing() -> None:
    assert not notices(Decider(Budget(), Incident()), kept(20, persistence=0.0))
    assert not notices(Decider(Budget(), Incident()), kept(20, persistence=1.0)), "not long enough yet"


def test_what_is_allowed_may_be_kept_to() -> None:
    allowed = Budget(allow=("10.0.0.5 -> 10.0.0.9:443/tcp",))
    assert not notices(Decider(allowed, Incident()), kept(20))


def test_it_speaks_against_the_originator_alone() -> None:
    decider = Decider(Budget(), Incident())
    seen = [s for k in range(12) for s in kept(20, orig=f"10.0.1.{k}")]
    told = notices(decider, sorted(seen, key=lambda s: s.end))
    assert {n.incident.role for n in told if n.incident is not None} == {"originator"}


def tries(n: int, begin: float, every: float, resp: str = "10.0.2.{}") -> list[Seen]:
    return [
        connection(begin + every * k, 1e-4, resp=resp.format(k % 250), port=20 + k, tried=True)
        for k in range(n)
    ]


def test_a_burst_in_an_open_scan_is_told() -> None:
    decider = Decider(Budget(), Incident())
    slow = notices(decider, tries(60, 0.0, 30.0))
    assert slow
    at_once = tries(70, 2200.0, 0.02)
    told = notices(decider, at_once)
    assert len(told) == 1, "once, and not at each connection"
    (news,) = told
    assert news.identifier == slow[0].identifier
    assert news.incident is not None
    assert news.incident.news
    assert news.incident.headline.startswith("scans: ")
    assert set(news.incident.uids) <= {s.verdict.uid for s in at_once}


def test_a_scan_that_goes_on_at_its_pace_is_no_burst() -> None:
    decider = Decider(Budget(), Incident())
    notices(decider, tries(60, 0.0, 30.0))
    assert not notices(decider, tries(40, 1800.0, 30.0))


def test_another_host_scanned_as_hard_is_told_though_the_first_was_not_long_ago() -> None:
    decider = Decider(Budget(), Incident())
    first = notices(decider, tries(200, 0.0, 0.1, resp="10.0.2.1"))
    again = notices(decider, tries(200, 1200.0, 0.1, resp="10.0.2.2"))
    assert {n.identifier for n in again} == {first[0].identifier}
    assert any(n.incident is not None and n.incident.news for n in again)
    assert len(again) <= 2


def test_a_scan_that_reaches_tenfold_is_what_its_notice_begins_with() -> None:
    decider = Decider(Budget(), Incident())
    sending = [
        connection(60.0 * k, 1e-6, service="ssl", port=443, sent=5_000_000, domain="drop.example")
        for k in range(60)
    ]
    notices(decider, sending)
    told = notices(decider, tries(150, 4000.0, 0.1))
    assert told
    assert told[0].incident is not None
    assert told[0].incident.headline.startswith("scans: ")


def asks(n: int, begin: float, orig: str) -> list[Seen]:
    """Odd look-ups of a host."""
    return [connection(begin + k, 1e-4, orig=orig, service="dns", port=53) for k in range(n)]


def test_a_scan_by_a_host_that_joined_the_incident_of_others_is_told() -> None:
    decider = Decider(Budget(), Incident())
    hosts = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"]
    told = [notices(decider, asks(12, 100.0 * k, host)) for k, host in enumerate(hosts)]
    assert {n.identifier for some in told for n in some} == {told[0][0].identifier}, "they do the same"
    scan = [
        connection(500.0 + 0.1 * k, 1e-3, orig=hosts[-1], resp=f"10.0.2.{k}", port=22, tried=True)
        for k in range(80)
    ]
    news = notices(decider, scan)
    assert len(news) == 1, "once, and not at each connection"
    assert news[0].identifier == told[0][0].identifier
    assert news[0].incident is not None
    assert set(news[0].incident.uids) <= {s.verdict.uid for s in scan}


def test_what_a_notice_did_not_speak_of_is_told_later() -> None:
    decider = Decider(Budget(), Incident())
    assert notices(decider, asks(12, 0.0, "10.0.0.5"))
    uploads = [connection(100.0 + k, 1e-6, service="ssl", port=443, domain="drop.example") for k in range(2)]
    mails = [connection(at, 1e-6, service="smtp", port=25, resp="10.0.0.25") for at in (99.0, 110.0)]
    told = [n.incident for n in notices(decider, [mails[0], *uploads, mails[1]]) if n.incident is not None]
    assert [set(i.uids) for i in told if i.news] == [
        {s.verdict.uid for s in some} for some in (uploads, mails)
    ]


@pytest.mark.parametrize(("service", "hop"), [("ssh", True), (None, False)])
def test_a_host_that_was_only_scanned_is_no_hop(service: str | None, hop: bool) -> None:
    decider = Decider(Budget(), Incident())
    to = [
        connection(0.1 * k, 1e-5, resp=f"10.0.2.{k}", port=22, service=service, sent=100 * bool(service))
        for k in range(30)
    ]
    assert notices(decider, to)
    (reached,) = {n.identifier for n in notices(decider, asks(12, 300.0, "10.0.2.7"))} or {""}
    first, *more = decider.incidents()
    assert (not more and reached in ("", first.id)) is hop


def test_a_state_of_before_persistence_is_read() -> None:
    seen = kept(1)[0]
    older = plain(seen)
    assert made(Seen, older[: Seen._fields.index("persistence")]) == seen._replace(persistence=0.0)
    with pytest.raises(ValueError, match="Seen"):
        made(Seen, older[:4])
    decider = Decider(Budget(), Incident())
    notices(decider, kept(20))
    (case,) = {case.id: case for case in decider._cases.values()}.values()
    values = plain(case)
    values.pop("paces")
    assert made(_Case, values).paces == {}
    values.pop("opened")
    with pytest.raises(ValueError, match="opened"):
        made(_Case, values)


def test_an_early_verdict_about_something_else_goes_on_with_an_incident_that_is_over() -> None:
    """It is not counted in the incident, so that there is no strand of what it is about."""
    decider = Decider(Budget(), Incident())
    (first, *_) = notices(decider, tries(60, 0.0, 0.1))
    early = connection(4000.0, 1e-12, service="ssl", port=443)
    early = early._replace(verdict=early.verdict._replace(stage="early"))
    assert {n.identifier for n in notices(decider, [early])} <= {first.identifier}
    assert decider.suppressed == 1
