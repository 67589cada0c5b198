"""Decisions: the budget sets the threshold, a scan is one incident, and what is allowed or repeated stays quiet."""

import pytest

from cmdana_plugin.config import ConfigError, Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.incidents import AllowList, Decider, threshold
from cmdana_plugin.decision.notice import ANOMALOUS_CONNECTION, ANOMALOUS_HOST, KNOWN_ATTACK, Notice
from cmdana_plugin.decision.verdict import Verdict
from cmdana_plugin.detector.scores import p_value_of


def verdict(
    p: float, word: str = "anomalous", port: int = 80, orig: str = "10.0.0.5", resp: str = "10.0.0.9"
) -> Verdict:
    return Verdict(
        ts=100.0, uid=f"C{port}", orig_h=orig, orig_p=40000, resp_h=resp, resp_p=port, proto="tcp", service=None,
        community_id="1:x", stage="final", score=0.9, p_value=p, threshold=0.5, verdict=word, packet_reliance=0.2,
        connection_reliance=0.5, log_reliance=0.1, state_reliance=0.2, modalities=("packet", "connection"),
        reasons=("expected 1 port, saw 40",), model="m",
    )  # fmt: skip


def notes(found: list[Notice]) -> list[str]:
    return [n.note for n in found]


def test_the_threshold_is_the_share_of_connections_that_the_budget_allows() -> None:
    t = threshold(Budget(alerts_per_day=20.0, connections_per_day=20_000))
    assert p_value_of(t) == pytest.approx(1e-3)
    assert threshold(Budget(alerts_per_day=1.0, connections_per_day=20_000)) > t


def test_one_odd_connection_is_one_notice_with_its_reasons() -> None:
    (notice,) = Decider(Budget(), Incident()).receive(verdict(1e-4), now=200.0)
    assert notice.note == ANOMALOUS_CONNECTION
    assert notice.verdict == verdict(1e-4)
    assert (notice.ts, notice.identifier) == (100.0, "10.0.0.5|10.0.0.9|80/tcp")


def test_a_scan_of_a_thousand_ports_is_a_handful_of_notices_and_not_a_thousand() -> None:
    decider = Decider(Budget(), Incident())
    raised = [
        n
        for port in range(1, 1001)
        for n in decider.receive(
            verdict(1e-3, port=port), 200.0 + port / 100, "site" if port % 3 else "attack"
        )
    ]
    assert len(raised) <= 12
    assert notes(raised).count(ANOMALOUS_HOST) >= 2  # it opens, and is noticed again as it grows
    first = next(n for n in raised if n.note == ANOMALOUS_HOST)
    assert first.incident is not None
    assert (first.incident.role, first.incident.host, first.incident.peers) == ("originator", "10.0.0.5", 1)
    latest = [n.incident for n in raised if n.incident][-1]
    assert latest.odd == 500
    assert latest.services == ("1/tcp", "2/tcp", "3/tcp")
    assert latest.service_count == 256  # or more
    assert latest.evidence > first.incident.evidence > Incident().evidence
    assert latest.components == ("site", "attack")


def test_a_flood_from_many_sources_is_an_incident_of_the_responder() -> None:
    decider = Decider(Budget(), Incident())
    raised = [
        n
        for i in range(500)
        for n in decider.receive(verdict(1e-3, orig=f"198.51.{i // 250}.{i % 250}"), now=200.0 + i / 100)
    ]
    about = [n.incident for n in raised if n.incident]
    assert about[0].role == "responder"
    assert about[0].host == "10.0.0.9"
    assert len(raised) <= 12


def test_ordinary_connections_never_add_up_to_an_incident() -> None:
    decider = Decider(Budget(), Incident())
    ps = [(i % 97 + 0.5) / 97 for i in range(5000)]  # uniform, as benign p-values are
    assert [
        n for i, p in enumerate(ps) for n in decider.receive(verdict(p, word="benign"), now=200.0 + i)
    ] == []


def test_an_incident_is_over_after_the_quiet_time_and_the_next_one_is_noticed_again() -> None:
    decider = Decider(Budget(), Incident(quiet=600.0))
    first = [n for i in range(20) for n in decider.receive(verdict(1e-4, port=i + 1), now=1000.0 + i)]
    again = [n for i in range(20) for n in decider.receive(verdict(1e-4, port=i + 101), now=9000.0 + i)]
    assert notes(first).count(ANOMALOUS_HOST) >= 1
    assert notes(again).count(ANOMALOUS_HOST) >= 1


def test_the_same_notice_is_not_repeated_within_suppress_for_and_is_counted() -> None:
    decider = Decider(Budget(suppress_for=60.0), Incident(evidence=1000.0))
    assert len(decider.receive(verdict(1e-4), now=0.0)) == 1
    assert decider.receive(verdict(1e-4), now=59.0) == []
    assert decider.suppressed == 1
    assert len(decider.receive(verdict(1e-4), now=60.0)) == 1


def test_an_early_notice_is_not_raised_again_at_the_end_of_the_connection() -> None:
    decider = Decider(Budget(), Incident())
    assert len(decider.receive(verdict(1e-4)._replace(stage="early"), now=10.0)) == 1
    assert decider.receive(verdict(1e-4), now=20.0) == []


def test_a_known_attack_is_named() -> None:
    (notice,) = Decider(Budget(), Incident()).receive(verdict(1e-4, word="ssh-bruteforce"), now=0.0)
    assert notice.note == KNOWN_ATTACK
    assert notice.verdict is not None
    assert notice.verdict.verdict == "ssh-bruteforce"


@pytest.mark.parametrize(
    ("entry", "allowed"),
    [
        ("10.0.0.5", True),
        ("10.0.0.0/24", True),
        ("10.1.0.0/16", False),
        ("2001:db8::/32", False),
        ("10.0.0.5 -> 10.0.0.9", True),
        ("10.0.0.9 -> 10.0.0.5", False),
        ("10.0.0.5 -> 10.0.0.9:80/tcp", True),
        ("10.0.0.5 -> 10.0.0.9:81/tcp", False),
        ("10.0.0.5 -> 10.0.0.9:80/udp", False),
    ],
)
def test_the_allow_list_covers_what_it_says(entry: str, allowed: bool) -> None:
    decider = Decider(Budget(allow=(entry,)), Incident())
    assert (decider.receive(verdict(1e-4), now=0.0) == []) is allowed
    assert decider.allowed == int(allowed)


@pytest.mark.parametrize("entry", ["", "my laptop", "10.0.0.5 -> ", "10.0.0.5 -> 10.0.0.9:x/tcp"])
def test_an_entry_of_another_form_stops_at_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="allow: found"):
        AllowList([entry])


def test_the_table_of_hosts_stays_within_its_bound_and_counts_what_it_forgets() -> None:
    decider = Decider(Budget(), Incident(max_hosts=10))
    for i in range(100):
        decider.receive(verdict(1e-4, orig=f"198.51.100.{i}", resp=f"203.0.113.{i}"), now=float(i))
    assert decider.forgotten > 0
    assert sum(map(len, decider._hosts.values())) <= 10


def test_what_brings_no_evidence_to_hosts_without_any_leaves_no_trace() -> None:
    decider = Decider(Budget(), Incident())
    decider.receive(verdict(0.5), now=1.0)
    assert not any(decider._hosts.values())
    decider.receive(verdict(1e-4), now=2.0)
    assert all(decider._hosts.values())
    for later in range(3, 100):
        decider.receive(verdict(0.5), now=float(later))
    assert not any(decider._hosts.values())
