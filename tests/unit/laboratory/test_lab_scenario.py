"""The laboratory's scenarios and stories, without root: what a file may say and what a seed decides."""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.lab import far, net, scenario, story
from benchmarks.lab.__main__ import main
from benchmarks.lab.net import Run
from benchmarks.lab.world import Actor, Step, World

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OFFICE = ["record", "--scenario", "office", "--seconds", "60", "--out"]
SMALL: dict[str, Any] = {
    "name": "small",
    "about": "two desks",
    "inside": [
        {"name": "dns", "services": ["resolver", "ssh"]},
        {"name": "web", "services": ["web"]},
        {"name": "desk", "count": 2, "role": "clerk"},
    ],
    "outside": [
        {"name": "ns", "services": ["names"]},
        {"name": "host", "services": ["web"], "sites": ["www.a.example", "www.b.example", "x.c.example"]},
    ],
    "roles": {"clerk": {"browse": 200, "look-up": 100, "lost-server": 50}},
    "attacks": [{"kind": "beacon-tls", "host": "desk"}, {"kind": "port-scan", "host": "anyone"}],
}


def told(found: scenario.Scenario, seed: int, seconds: float = 300.0) -> dict[Actor, list[Step]]:
    run = Run("test", Path("/nonexistent"))
    hosts = net.lay_out(found, run, story.order_of_addresses(seed))
    return story.steps(World(found, run, hosts, story.cast(found, hosts, seed)), seed, seconds)


def flat(steps: dict[Actor, list[Step]]) -> list[tuple[str, float, tuple[str, ...]]]:
    return [
        (actor.host, step.at, (*step.argv, *strings(step.task or {})))
        for actor, found in steps.items()
        for step in found
    ]


def strings(value: object) -> list[str]:
    """All texts within a task of an actor's own client."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for part in value.values() for text in strings(part)]
        case list() | tuple():
            return [text for part in value for text in strings(part)]
    return []


@pytest.mark.parametrize("name", scenario.known())
def test_every_scenario_that_ships_can_be_played(name: str) -> None:
    found = scenario.load(name)
    steps = told(found, 1, 600)
    assert sum(map(len, steps.values())) > 300
    assert all(steps[actor] for actor in steps if actor.family), "an attack without a single program"


def test_at_least_eight_scenarios_ship_and_some_are_kept_for_tests() -> None:
    kept = [scenario.load(name).keep_for for name in scenario.known()]
    assert len(kept) >= 9
    assert kept.count("test") >= 3


def test_the_same_seed_tells_the_same_story_and_another_seed_another() -> None:
    small = scenario.Scenario.model_validate(SMALL)
    assert flat(told(small, 1)) == flat(told(small, 1))
    assert flat(told(small, 1)) != flat(told(small, 2))


def test_steps_come_in_time_order_and_none_starts_after_the_end() -> None:
    for found in told(scenario.load("office"), 3, 200).values():
        assert all(one.at <= two.at for one, two in itertools.pairwise(found))
        assert all(0 <= step.at < 200 for step in found)


def test_attackers_hosts_and_hours_are_dealt_by_the_seed() -> None:
    small = scenario.Scenario.model_validate(SMALL)
    places = {tuple(actor.host for actor in told(small, seed) if actor.family) for seed in range(12)}
    starts = {found[0].at for seed in range(4) for actor, found in told(small, seed).items() if actor.family}
    assert len(places) > 1
    assert len(starts) == 8


def test_every_program_only_ever_speaks_to_names_and_addresses_of_the_laboratory() -> None:
    import re

    for name in scenario.known():
        found = scenario.load(name)
        allowed = (
            ipaddress.ip_network(found.network),
            scenario.OUTSIDE,
            ipaddress.ip_network("10.199.0.0/27"),
        )
        for _, _, argv in flat(told(found, 5, 120)):
            for word in argv:
                for address in re.findall(r"(?<![\d.])\d+\.\d+\.\d+\.\d+(?![\d.])", word.split("Chrome/")[0]):
                    if address.startswith(("1.3.6.1", "255.255.")):  # an SNMP object or a netmask
                        continue
                    assert any(ipaddress.ip_address(address) in net for net in allowed), (name, word)
                for host in re.findall(r"://([^/:]+)", word):
                    if not re.fullmatch(r"[\d.]+", host):
                        assert host.endswith(".example"), (name, word)


def test_a_roll_out_is_more_of_one_habit_only() -> None:
    def count(surges: list[dict[str, Any]]) -> dict[str, int]:
        changed = {**SMALL, "timetable": {"surges": surges}}
        steps = [s for found in told(scenario.Scenario(**changed), 3, 600).values() for s in found]
        return {what: sum(step.what == what for step in steps) for what in ("look-up", "lost-server")}

    before = count([])
    after = count([{"at": 0.2, "lasts": 0.5, "factor": 10.0, "habit": "look-up"}])
    assert after["look-up"] > 3 * before["look-up"]
    assert after["lost-server"] == before["lost-server"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"network": "8.8.8.0/24"}, "not a private IPv4 network"),
        ({"network": "10.0.0.0/29"}, "too small"),
        ({"inside": SMALL["inside"][1:]}, "resolver"),
        ({"outside": [{**group, "uplinks": 2} for group in SMALL["outside"]]}, "only hosts inside"),
        ({"attacks": [{"kind": "beacon-tls", "host": "nobody"}]}, "host nobody does not exist"),
        ({"attacks": [{"kind": "telepathy", "host": "desk"}]}, "telepathy"),
        ({"roles": {}}, "role clerk"),
        ({"link": {"loss": 3}}, "link.loss"),
        ({"seconds": "long"}, "seconds"),
        ({"roles": {"clerk": {"browse": -1}}}, "roles.clerk.browse"),
        ({"roles": {"clerk": {"browse": float("nan")}}}, "roles.clerk.browse"),
        ({"roles": {"clerk": {"browse": 1e12}}}, "roles.clerk.browse"),
        ({"inside": [*SMALL["inside"], {"name": "router"}]}, "cannot be called router"),
        ({"outside": [SMALL["outside"][0], {"name": "h", "sites": ["a; b"]}]}, "outside.1.sites.0"),
        ({"timetable": {"hours": 9, "workday": [18, 7]}}, "from 18 to 7 is no day"),
        (
            {"timetable": {"surges": [{"at": 0, "lasts": 1, "factor": 2, "habit": "dance"}]}},
            "no role has habit dance",
        ),
    ],
)
def test_a_bad_scenario_is_refused_in_one_line(
    change: dict[str, object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **change}), encoding="utf-8")
    monkeypatch.setattr("benchmarks.lab.record.record", lambda *_, **__: pytest.fail("was not refused"))
    assert main(["record", "--scenario", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "not YAML"), ("- 1", "found list"), ("\xff\xfe", "expected")]
)
def test_what_is_no_scenario_is_refused_in_one_line(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="latin-1")
    assert main(["record", "--scenario", str(path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_scenario_that_does_not_exist_is_named_with_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["record", "--scenario", "moonbase", "--out", "/nonexistent"]) == 1
    said = capsys.readouterr().err
    assert "moonbase" in said
    assert "office" in said


@pytest.mark.parametrize(
    ("option", "value"), [("--seconds", "nan"), ("--seconds", "2"), ("--name", "../capture")]
)
def test_an_option_out_of_range_is_refused_in_one_line(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--scenario", "demo", option, value, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"lab: {option}: found ")
    assert not (tmp_path / "out").exists()


def test_without_root_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["record", "--scenario", "demo", "--out", str(tmp_path / "out")]) == 1
    assert "run it as root" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_project_that_others_may_not_enter_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The people of the laboratory are other users: none of their programs would start."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    programs = tmp_path / "project/lab/programs"
    programs.mkdir(parents=True)
    for folder in (programs, *programs.parents):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tmp_path):
            folder.chmod(0o755)
    (tmp_path / "project").chmod(0o700)
    monkeypatch.setattr("benchmarks.lab.net.__file__", str(programs.parent / "net.py"))
    assert main(["record", "--scenario", "demo", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"lab: {tmp_path / 'project'}: closed to other users")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["clean"], ["record", "--scenario", "demo", "--out", "/nonexistent/out"]]
)
def test_without_root_and_with_a_bare_path_one_clear_line(arguments: list[str]) -> None:
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in ROOT.parents):
        pytest.skip("nobody but root may read this checkout")
    code = (
        "import os, sys; from benchmarks.lab.__main__ import main; "
        "os.geteuid() or (os.setgid(65534), os.setuid(65534)); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        (sys.executable, "-c", code, *arguments),
        cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "lab: the laboratory makes network namespaces: run it as root\n"


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        ("tcpdump", "recorder"),
        ("unbound", "server"),
        ("nmap", "attack"),
        ("dig", "habit"),
        ("psql", "both"),
    ],
)
def test_a_missing_tool_is_named(
    lacking: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(net, "closed_folder", lambda: None)  # wherever the project lies
    monkeypatch.setattr(
        "shutil.which", lambda tool, path=None: None if tool == lacking else f"/usr/bin/{tool}"
    )
    assert main([*OFFICE, str(tmp_path / "out")]) == 1, why
    said = capsys.readouterr().err
    assert f"missing programs: {lacking} (" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_module_of_debians_python_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(net, "closed_folder", lambda: None)
    monkeypatch.setattr("shutil.which", lambda tool, path=None: tool)
    monkeypatch.setattr("benchmarks.lab.services.MODULES", {"mail": "json", "api": "no_such_module"})
    assert main([*OFFICE, str(tmp_path / "out")]) == 1
    assert "missing modules of /usr/bin/python3: no_such_module (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "require", lambda tools: None)  # what a recording needs, need not be here
    monkeypatch.setattr("benchmarks.lab.services.require", lambda world, steps: None)
    (tmp_path / "kept").touch()
    assert main(["record", "--scenario", "demo", "--out", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err


def test_a_recording_lives_while_its_process_does_and_not_when_its_number_came_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "STATE", tmp_path)
    (tmp_path / "a1").mkdir()
    assert not net.alive("a1")  # begun, but nothing is written yet
    (tmp_path / "a1" / "pid").write_text(str(os.getpid()))
    (tmp_path / "a1" / "born").write_text(net.born(os.getpid()))
    assert net.living() == ["a1"]
    (tmp_path / "a1" / "born").write_text("1")
    assert net.living() == []


@pytest.mark.parametrize("has_netem", [True, False])
def test_links_are_late_where_the_kernel_can_and_on_time_elsewhere(
    has_netem: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, ...]] = []

    def command(*argv: str, **_: object) -> str:
        if "netem" in argv and not has_netem:
            raise scenario.LabError("Error: Specified qdisc kind is unknown.")
        ran.append(argv)
        return ""

    monkeypatch.setattr(net, "command", command)
    monkeypatch.setattr(net, "STATE", tmp_path / "state")
    monkeypatch.setattr(net, "ETC_NETNS", tmp_path / "etc")
    link = {"rate_mbit": 8, "delay_ms": 8, "jitter_ms": 2}
    found = scenario.Scenario.model_validate({**SMALL, "link": link})
    run = Run("test", tmp_path)
    hosts = net.lay_out(found, run, story.order_of_addresses(1))
    made = net.build(run, found, hosts, [1], [], {})
    queues = [argv[4:] for argv in ran if argv[:4] == ("tc", "-n", run.netns("desk1"), "qdisc")]
    shape = ("tbf", "rate", "8.0mbit", "burst", "32kb", "limit", "256kb")
    if has_netem:
        assert made == found.link
        late = ("root", "handle", "1:", "netem", "delay", "8.0ms", "2.0ms", "limit", "10000")
        assert queues == [("add", "dev", "eth0", *late), ("add", "dev", "eth0", "parent", "1:1", *shape)]
    else:
        assert (made.delay_ms, made.jitter_ms, made.rate_mbit) == (0, 0, 8)
        assert queues == [("add", "dev", "eth0", "root", *shape)]


def test_only_the_few_known_hosts_look_at_what_is_open_where() -> None:
    for name in scenario.known():
        found = scenario.load(name)
        looking = {
            actor.host
            for actor, steps in told(found, 2, 900).items()
            if not actor.family and any(step.what == "inventory" for step in steps)
        }
        assert looking <= set(found.scanners)
        assert len(found.scanners) <= 2
        assert not any("inventory" in role for role in found.roles.values())


def test_intruders_go_mostly_where_nobody_went_before_and_sometimes_where_everybody_does() -> None:
    new, old = 0, 0
    for seed in range(5):
        by_class: dict[bool, set[str]] = {True: set(), False: set()}
        for actor, steps in told(scenario.load("office"), seed, 300).items():
            if not actor.family or actor.family in ("beacon-tls", "beacon-http", "exfiltration-slow"):
                texts = (text for step in steps for text in (*step.argv, *strings(step.task or {})))
                by_class[bool(actor.family)] |= set(far.named_in(texts))
        new += len(by_class[True] - by_class[False])
        old += len(by_class[True] & by_class[False])
    assert new > 3 * old
    assert new > 8


def test_a_sites_days_agree_about_where_a_name_is_and_most_people_meet_new_ones() -> None:
    prefixes = [far.prefix(number) for number in range(4)]
    dice = [random.Random(day) for day in range(2)]
    days = [{far.site(one) for _ in range(400)} for one in dice]
    assert 0.2 < len(days[1] - days[0]) / len(days[1]) < 0.95
    for name in days[0]:
        server, address = far.place(name, prefixes)
        assert ipaddress.ip_address(address) in ipaddress.ip_network(prefixes[server])
        assert far.is_far(name)
    shared = sum(far.is_shared(name, prefixes) for name in days[0]) / len(days[0])
    assert shared == pytest.approx(far.SHARED, abs=0.1)
    assert not far.is_far("qxzlkjhg.acornalder.example")  # a beacon's label, and a mistyped name
    assert not far.is_far("www.anrocadler.example")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("surge-nine", "nine"), ("roll-out", "roll-out"), ("new-poller", "new-poller"),
        ("failing-backup", "failing-backup"), ("expired-certificate", "expired-certificate"),
    ],
)  # fmt: skip
def test_a_surge_happens_on_the_offices_own_hosts_and_is_nobodys_attack(name: str, kind: str) -> None:
    office, found = scenario.load("office"), scenario.load(name)
    assert found.kin == "office"
    assert found.attacks == ()
    laid = [
        {
            h.name: (h.address, h.sites)
            for h in net.lay_out(one, Run("t", Path("/x")), story.order_of_addresses(7))
        }
        for one in (office, found)
    ]
    assert laid[0].items() <= laid[1].items()
    people = [
        {actor.host: actor.name for actor in told(one, 7, 900) if not actor.family} for one in (office, found)
    ]
    assert people[0].items() <= people[1].items()
    (event,) = found.events
    steps = [step for actor, all_ in told(found, 7, 900).items() for step in all_ if step.event]
    assert {step.event for step in steps} == {kind}
    assert len(steps) > 50
    assert all(event.at * 900 <= step.at for step in steps)
    assert all(step.occasion for step in steps)


def test_a_patient_intruder_keeps_the_pace_of_a_day() -> None:
    """Beacons sleep 10 s to 1 h of the day, slow scans knock every 10 s to 10 min."""
    for seed in range(2):
        for actor, steps in told(scenario.load("office"), seed, 900).items():
            if actor.family in ("scan-slow", "beacon-http"):
                at = [step.at * 48.0 for step in steps if step.task is None or step.task["do"] != "forget"]
                pause = (at[-1] - at[0]) / (len(at) - 1)
                assert 9.0 < pause < (700.0 if actor.family == "scan-slow" else 3700.0)
                assert len({step.occasion for step in steps}) == len(steps)
