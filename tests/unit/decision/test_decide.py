"""Decisions: what is rare for a host's hour is an incident, one notice however it grows; normal hours are none."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from incident_rows import asked, connection, rows

from cmdana_plugin.cli.judging import judge_of, load_detector_of
from cmdana_plugin.config import Config, ConfigError, Incident
from cmdana_plugin.config import Verdict as Budget
from cmdana_plugin.decision.allow import AllowList
from cmdana_plugin.decision.incidents import REVISED, Decided, Decider, threshold
from cmdana_plugin.decision.notice import ANOMALOUS_CONNECTION, ANOMALOUS_HOST, KNOWN_ATTACK, Notice
from cmdana_plugin.decision.seen import Seen
from cmdana_plugin.detector.scores import p_value_of
from cmdana_plugin.detector.site_history import learned_here

HOUR = 3600.0


def decided(decider: Decider, seen: Iterable[Seen], size: int = 100) -> list[Decided]:
    some = sorted(seen, key=lambda s: s.end)
    return [decider.receive(rows(some[i : i + size])) for i in range(0, len(some), size)]


def notices(decider: Decider, seen: Iterable[Seen], size: int = 100) -> list[Notice]:
    return [n for d in decided(decider, seen, size) for row in sorted(d.notices) for n in d.notices[row]]


def scan(ports: Sequence[int], begin: float = 0.0, orig: str = "10.0.0.5", p: float = 1e-4) -> list[Seen]:
    return [connection(begin + i / 100, p, port=port, orig=orig, tried=True) for i, port in enumerate(ports)]


def office(hours: int, hosts: int = 40, seed: int = 1) -> list[Seen]:
    """Hosts whose p-values are uniform, as benign ones are."""
    rng = np.random.default_rng(seed)
    n = hours * hosts * 30
    return [
        connection(float(ts), float(p), orig=f"10.1.0.{host}", resp=f"192.0.2.{peer}", port=443)
        for ts, p, host, peer in zip(
            np.sort(rng.random(n)) * hours * HOUR, rng.random(n), rng.integers(0, hosts, n),
            rng.integers(0, 50, n), strict=True,
        )
    ]  # fmt: skip


def test_the_threshold_is_the_share_of_connections_that_the_budget_allows() -> None:
    t = threshold(Budget(alerts_per_day=20.0, connections_per_day=20_000))
    assert p_value_of(t) == pytest.approx(1e-3)
    assert threshold(Budget(alerts_per_day=1.0, connections_per_day=20_000)) > t


def test_what_a_host_does_beside_is_told_in_its_open_incident() -> None:
    """A beacon that was told, a scan by the same host minutes later: the notice begins with the scan."""
    decider = Decider(Budget(), Incident())
    beacon = [connection(60.0 * k, 1e-4, port=443, service="ssl", domain="c2.example") for k in range(20)]
    first = notices(decider, beacon)
    assert {n.incident.news for n in first if n.incident is not None} == {False}
    later = notices(decider, scan(range(1, 60), 1200.0, orig=beacon[0].verdict.orig_h))
    assert {n.identifier for n in later} == {first[0].identifier}
    told = [n.incident for n in later if n.incident is not None and n.incident.news]
    assert told
    assert not set(told[0].uids) & {s.verdict.uid for s in beacon}
    assert told[-1].kind == "scan"
    assert told[-1].headline.startswith("scans: ")
    assert told[-1].headline.endswith("; also: beacon")


def test_a_scan_of_a_thousand_ports_is_one_incident_that_is_told_a_few_times() -> None:
    decider = Decider(Budget(), Incident())
    raised = notices(decider, scan(range(1, 1001)))
    assert 2 <= len(raised) <= 5
    assert len({n.identifier for n in raised}) == 1
    last = raised[-1].incident
    assert last is not None
    assert (last.kind, last.technique, last.role, last.host) == ("scan", "T1046", "originator", "10.0.0.5")
    (known,) = decider.incidents()
    assert known.headline.startswith("scans: 1,000 ports of 10.0.0.9 in ")
    assert (known.connections, known.peers, known.targets) == (1000, 1, ("10.0.0.9",))
    assert (known.first_seen, known.last_seen) == (0.0, pytest.approx(9.99))


def test_a_scan_of_one_host_that_goes_on_to_many_is_told_again() -> None:
    decider = Decider(Budget(), Incident())
    notices(decider, scan(range(1, 301)))
    sweep = [connection(900.0 + i, 1e-4, resp=f"10.0.1.{i}", port=22, tried=True) for i in range(1, 39)]
    (again,) = notices(decider, sweep)
    assert again.incident is not None
    assert again.incident.headline.startswith("scans: ")
    assert 10 <= again.incident.peers < len(sweep)  # as soon as it reaches ten times as many


def test_no_single_odd_connection_is_needed() -> None:
    mild = [
        connection(float(i), 0.01, orig="10.0.0.5", resp="10.0.0.7", port=22, service="ssh")
        for i in range(60)
    ]
    raised = notices(Decider(Budget(), Incident()), mild)
    assert raised
    assert raised[0].note == ANOMALOUS_HOST


def test_one_connection_odd_enough_is_an_incident_of_one_connection() -> None:
    (notice,) = notices(Decider(Budget(), Incident()), [connection(5.0, 1e-9)])
    assert notice.note == ANOMALOUS_CONNECTION
    assert notice.incident is not None
    assert notice.incident.connections == 1
    assert notice.incident.headline == "opens 1 unusual connection to 10.0.0.9 (80/tcp)"
    assert notices(Decider(Budget(), Incident()), [connection(5.0, 1e-3)]) == []


def test_normal_hours_bring_no_more_incidents_than_the_budget_says() -> None:
    decider = Decider(Budget(alerts_per_day=10.0), Incident())
    found = {n.identifier for n in notices(decider, office(24), 4096)}
    assert len(found) <= 10.0 + 3 * math.sqrt(10.0)


def test_a_larger_site_has_a_higher_limit_and_no_more_incidents() -> None:
    small, large = (Decider(Budget(alerts_per_day=5.0), Incident()) for _ in range(2))
    few = {n.identifier for n in notices(small, office(6, 40), 4096)}
    many = {n.identifier for n in notices(large, office(6, 250), 4096)}
    assert large.evidence.limit > small.evidence.limit
    assert max(len(few), len(many)) <= 5.0 + 3 * math.sqrt(5.0)


def test_where_every_host_is_odd_the_site_itself_says_what_is_usual() -> None:
    """A model that does not fit: p-values ten times too small, at the same rate in every hour and of every host."""
    decider = Decider(Budget(alerts_per_day=10.0), Incident())
    misfit = [s._replace(evidence=s.evidence * 2) for s in office(24)]
    found = decided(decider, misfit, 4096)
    ids = [{n.identifier for some in d.notices.values() for n in some} for d in found]
    half = len(ids) // 2
    assert len(set().union(*ids[half:])) <= 10.0
    late = 24 * HOUR
    assert notices(decider, scan(range(1, 400), late, p=1e-9)), "an attack is one still"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_however_the_stream_is_cut_the_incidents_are_the_same(size: int) -> None:
    stream = [*office(3), *scan(range(1, 300), 1.5 * HOUR), *scan(range(1, 60), 2.5 * HOUR, "10.1.0.3", 1e-3)]
    expected = notices(Decider(Budget(), Incident()), stream)
    assert expected
    assert notices(Decider(Budget(), Incident()), stream, size) == expected


def test_a_flood_from_many_sources_is_an_incident_of_the_responder() -> None:
    flood = [
        connection(200.0 + i / 100, 1e-3, orig=f"198.51.{i // 250}.{i % 250}", tried=True) for i in range(500)
    ]
    decider = Decider(Budget(), Incident())
    raised = notices(decider, flood)
    assert {n.incident.host for n in raised if n.incident} == {"10.0.0.9"}
    (known,) = decider.incidents()
    assert (known.role, known.kind, known.technique) == ("responder", "flood", "T1498")
    assert known.headline.startswith("is flooded at 80/tcp: ")
    assert known.headline.endswith(" hosts")


def test_what_came_before_is_told_anew_when_an_incident_opens() -> None:
    quiet = [connection(float(i), 0.05, port=22, service="ssh") for i in range(3)]
    burst = [connection(100.0 + i, 1e-5, port=22, service="ssh") for i in range(6)]
    (out,) = decided(Decider(Budget(), Incident()), [*quiet, *burst])
    assert out.revised
    assert {v.stage for _, v in out.revised} == {REVISED}
    assert {v.incident for _, v in out.revised} == set(out.incident.values())
    assert {v.uid for _, v in out.revised}.isdisjoint(
        {s.verdict.uid for k, s in enumerate([*quiet, *burst]) if k in out.incident}
    )
    assert len(out.revised) + len(out.incident) == 9
    assert all(v.verdict == "anomalous" and v.reasons for _, v in out.revised)


def test_an_incident_is_over_after_the_quiet_time_and_goes_on_unsaid_where_it_comes_back_soon() -> None:
    decider = Decider(Budget(suppress_for=3600.0), Incident(quiet=600.0))
    first = notices(decider, scan(range(1, 30), 0.0))
    again = notices(decider, scan(range(101, 130), 2000.0))
    assert {n.identifier for n in again} <= {n.identifier for n in first}
    assert decider.suppressed == 1
    late = notices(decider, scan(range(201, 230), 40_000.0))
    assert late
    assert late[0].identifier != first[0].identifier


def test_a_known_attack_is_named_by_the_note() -> None:
    stream = [connection(float(i), 1e-5, word="ssh-bruteforce") for i in range(5)]
    raised = notices(Decider(Budget(), Incident()), stream)
    assert raised[-1].note == KNOWN_ATTACK
    assert raised[-1].incident is not None
    assert "known as ssh-bruteforce" in raised[-1].incident.headline


def test_hosts_that_do_the_same_thing_are_one_incident() -> None:
    """A roll-out: a new server that every host of the site talks to at once."""
    stream = [
        connection(
            1000.0 + host + 60.0 * k, 1e-4, orig=f"10.0.1.{host}", resp="203.0.113.7", port=443, domain="update.example"
        )
        for host in range(30)
        for k in range(4)
    ]  # fmt: skip
    decider = Decider(Budget(), Incident())
    assert len(notices(decider, stream)) == 1
    (known,) = decider.incidents()
    assert known.host_count == 30
    assert len(known.hosts) == 8


def test_in_an_hour_in_which_everybody_is_odder_only_who_is_odder_than_they_is_an_incident() -> None:
    """A surge: every host of the site does more of everything, each with partners of its own."""
    calm = office(3)
    surge = [
        connection(
            3 * HOUR + 40.0 * k + host / 10, 0.001, orig=f"10.1.0.{host}", resp=f"192.0.2.{host}", port=443
        )
        for host in range(40)
        for k in range(30)
    ]
    decider = Decider(Budget(alerts_per_day=3.0), Incident())
    told = {n.identifier for n in notices(decider, [*calm, *surge])}
    alone = Decider(Budget(alerts_per_day=3.0), Incident())
    assert notices(alone, [*calm, *[s for s in surge if s.verdict.orig_h == "10.1.0.7"]]), (
        "one that does so alone"
    )
    assert len(told) <= 3
    attack = scan(range(1, 300), 3 * HOUR + 3000.0, "10.1.0.9", 1e-10)
    found = Decider(Budget(alerts_per_day=3.0), Incident())
    notices(found, [*calm, *surge, *attack])
    assert "scan" in {i.kind for i in found.incidents()}


def test_hosts_with_an_incident_are_no_crowd_that_hides_another() -> None:
    """At an hour's beginning most of those that have been seen are the ones whose incidents go on."""
    decider = Decider(Budget(alerts_per_day=3.0), Incident())
    calm = office(3)
    known = [
        connection(
            2 * HOUR + 20.0 * k, 1e-8, orig=f"10.1.0.{host}", resp=f"203.0.113.{host}", port=8000 + host
        )
        for host in range(12)
        for k in range(181)
    ]
    told = {n.identifier for n in notices(decider, [*calm, *known])}
    assert len(told) == 12
    new = [
        connection(3 * HOUR + 20.0 + k, 1e-4, orig="10.1.0.30", resp="203.0.113.99", port=443)
        for k in range(40)
    ]
    assert len({n.identifier for n in notices(decider, new)} - told) == 1


@pytest.mark.parametrize("at_home", [True, False])
def test_an_hour_in_which_half_of_the_hosts_do_something_odd_hides_nobody_at_home(at_home: bool) -> None:
    """Where another network was learned, it may be that the model does not fit."""
    odd = [
        connection(3 * HOUR + 60.0 * k + host, 5e-3, orig=f"10.1.0.{host}", resp=f"198.18.0.{host}", port=443)
        for host in range(24)
        for k in range(12)
    ]
    new = [
        connection(3 * HOUR + 1800.0 + k, 0.01, orig="10.1.0.30", resp="203.0.113.99", port=443)
        for k in range(40)
    ]
    decider = Decider(Budget(), Incident(), at_home=at_home)
    notices(decider, [*office(4), *odd, *new])
    assert ("10.1.0.30" in [i.host for i in decider.incidents()]) is at_home


def test_a_model_is_at_home_where_it_learned_and_the_shipped_one_nowhere() -> None:
    assert learned_here(("density", "packets"))
    loaded = load_detector_of(Config())
    assert not loaded.at_home
    few = [judge_of(loaded._replace(at_home=home), Config()).decider.evidence._few for home in (True, False)]
    assert few[0] < few[1]


def attempts(begin: float, every: float, n: int = 40) -> list[Seen]:
    return [connection(begin + every * k, 0.02, port=8080, tried=True) for k in range(n)]


def test_what_comes_in_a_minute_says_more_than_the_same_within_an_hour() -> None:
    slow, fast = Decider(Budget(), Incident()), Decider(Budget(), Incident())
    for decider in (slow, fast):
        notices(decider, office(3))
    assert not notices(slow, attempts(3 * HOUR, 89.0))
    (first, *_) = notices(fast, attempts(3 * HOUR, 0.5))
    assert first.incident is not None
    assert first.incident.host == "10.0.0.5"


def test_a_program_that_wants_a_server_back_is_no_incident() -> None:
    """Attempts at a port where nobody listens count once a minute; ports one after another each for itself."""
    retries = Decider(Budget(), Incident())
    assert not retries.receive(rows(attempts(0.0, 0.5), rejected=True)).notices
    unanswered = Decider(Budget(), Incident())
    assert unanswered.receive(rows(attempts(0.0, 0.5))).notices
    scanner = Decider(Budget(), Incident())
    assert scanner.receive(rows(scan(range(1, 60)), rejected=True)).notices


def test_hops_from_host_to_host_are_one_incident_that_moves() -> None:
    hops = [("10.0.0.5", "10.0.0.6"), ("10.0.0.6", "10.0.0.7"), ("10.0.0.7", "10.0.0.8")]
    stream = [
        connection(60.0 * hop + k, 1e-5, orig=a, resp=b, port=22, service="ssh")
        for hop, (a, b) in enumerate(hops)
        for k in range(4)
    ]
    decider = Decider(Budget(), Incident())
    notices(decider, stream)
    (known,) = decider.incidents()
    assert (known.kind, known.technique) == ("lateral movement", "T1021.004")
    assert known.headline == "moves: SSH from 10.0.0.5 to 10.0.0.6 to 10.0.0.7"
    assert known.host_count == 3


def test_an_early_verdict_opens_an_incident_that_its_final_one_belongs_to() -> None:
    decider = Decider(Budget(), Incident())
    before = [connection(1.0, 0.05)]
    early = connection(10.0, 1e-9, port=81)
    early = early._replace(verdict=early.verdict._replace(stage="early"))
    final = connection(50.0, 1e-9, port=81)
    assert len(notices(decider, [*before, early, final], 1)) == 1


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
        ("10.0.0.5 -> any:80/tcp", True),
        ("10.0.0.6 -> any:80/tcp", False),
        ("any -> 10.0.0.9:80/tcp", True),
        ("10.0.0.5 -> any", True),
        ("10.0.0.5 until 1970-01-01", True),
        ("10.0.0.5 until 1969-12-31", False),
        ("10.0.0.5 -> 10.0.0.9:80/tcp until 2026-12-31", True),
    ],
)
def test_the_allow_list_covers_what_it_says(entry: str, allowed: bool) -> None:
    decider = Decider(Budget(allow=(entry,)), Incident())
    assert (notices(decider, [connection(0.0, 1e-9)]) == []) is allowed
    assert decider.allowed == int(allowed)


def test_what_is_allowed_until_a_day_is_noticed_on_the_next() -> None:
    allow = AllowList(["10.0.0.5 -> 10.0.0.9 until 1970-01-02", "10.0.0.6"])
    pair = ("10.0.0.5", "10.0.0.9", 80, "tcp")
    assert allow.allows(pair, 2 * 86400.0 - 1.0)
    assert not allow.allows(pair, 2 * 86400.0)
    assert [allow.era(t) for t in (0.0, 2 * 86400.0 - 1.0, 2 * 86400.0)] == [0, 0, 1]
    decider = Decider(Budget(allow=("10.0.0.5 until 1970-01-01",)), Incident())
    assert notices(decider, [connection(0.0, 1e-9), connection(86300.0, 1e-9)]) == []
    assert notices(decider, [connection(2 * 86400.0, 1e-9)]) != []


@pytest.mark.parametrize(
    "entry",
    ["", "my laptop", "10.0.0.5 -> ", "10.0.0.5 -> 10.0.0.9:x/tcp", "any -> any", "10.0.0.5 until soon"],
)
def test_an_entry_of_another_form_stops_at_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="allow: found"):
        AllowList([entry])


def test_the_table_of_hosts_stays_within_its_bound_and_counts_what_it_forgets() -> None:
    decider = Decider(Budget(), Incident(max_hosts=10))
    decided(
        decider,
        [connection(float(i), 0.01, orig=f"198.51.100.{i}", resp=f"203.0.113.{i}") for i in range(100)],
    )
    assert decider.forgotten > 0
    assert len(decider.evidence) <= 10


def test_a_flood_of_spoofed_sources_does_not_drive_out_a_host_with_more_against_it() -> None:
    decider = Decider(Budget(), Incident(max_hosts=64))
    slow = [connection(60.0 * i, 1e-3, orig="10.0.0.77", resp="203.0.113.5", port=443) for i in range(2)]
    flood = [
        connection(200.0 + i / 1000, 0.02, orig=f"100.{i % 200}.{i // 200}.1", resp="10.0.0.10", tried=True)
        for i in range(4000)
    ]
    rest = [
        connection(600.0 + 60.0 * i, 1e-3, orig="10.0.0.77", resp="203.0.113.5", port=443) for i in range(8)
    ]
    found = notices(decider, [*slow, *flood, *rest])
    assert "10.0.0.77" in {n.incident.host for n in found if n.incident}


def test_what_brings_no_evidence_takes_no_place() -> None:
    decider = Decider(Budget(), Incident())
    decided(decider, [connection(float(i), 0.5, orig=f"10.0.1.{i}") for i in range(50)])
    assert len(decider.evidence) == 0


def test_what_lay_just_below_an_alarm_is_known() -> None:
    decider = Decider(Budget(alerts_per_day=0.01), Incident())
    assert notices(decider, [connection(float(i), 0.01) for i in range(5)]) == []
    ((evidence, host),) = decider.nearest()
    assert host == "10.0.0.5"
    assert 0.5 < evidence < decider.evidence.limit


def test_what_is_usual_of_a_host_is_what_it_did_in_the_hours_before() -> None:
    day = [
        asked(600.0 * i, 0.5, ("SSH login", "SSH logins", "refused"), refused=1, port=22, service="ssh")
        for i in range(24)
    ]
    guessing = [
        asked(5 * HOUR + i, 1e-4, ("SSH login", "SSH logins", "refused"), refused=6, port=22, service="ssh")
        for i in range(21)
    ]
    decider = Decider(Budget(), Incident())
    notices(decider, [*day, *guessing])
    (known,) = decider.incidents()
    assert (known.kind, known.technique, known.refused) == ("password guessing", "T1110", 126)
    assert known.headline == "tries passwords: 126 SSH logins refused by 10.0.0.9 in 20 s, usual is 115 a day"


def test_only_the_oddest_of_a_responder_s_hour_are_told_to_who_watches_it() -> None:
    """All that can count against it: of an hour the thirty oddest."""
    decider, rng = Decider(Budget(), Incident()), np.random.default_rng(3)
    decider.ours = lambda resp: np.zeros(len(resp), np.bool_)
    seen = [
        connection(10.0 + i, 10.0 ** -float(e), orig=f"10.1.0.{i % 200}", resp="192.0.2.1")
        for i, e in enumerate(rng.uniform(1.0, 2.0, 1000))
    ]
    told = [s for d in decided(decider, seen) for s in d.elsewhere]
    assert len(told) < 200
    assert set(sorted(seen, key=lambda s: -s.evidence)[:30]) <= set(told)
    later = [s._replace(end=s.end + HOUR) for s in seen[:20]]
    assert [s for d in decided(decider, later) for s in d.elsewhere] == later
