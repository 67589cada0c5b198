"""Plans in real packets: a capture that is rewritten holds what the plan computed, and the rest as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import Dialogue, Frame, extract, udp
from made_captures import Made, pcap
from made_windows import office
from test_search import Quick

from cmdana_plugin.config import Config
from cmdana_plugin.evaluation.adversary.page import words
from cmdana_plugin.evaluation.adversary.plans import Plan, apply
from cmdana_plugin.evaluation.adversary.replayed import COLUMNS, check, rewritten
from cmdana_plugin.evaluation.adversary.search import Victim, evaluate
from cmdana_plugin.training import Recording
from feature_extractors.observations import take

START = 1_763_769_600.0
TALK = "S h A D a d A D a d A F f A"


def traffic(talk: str = TALK) -> list[Frame]:
    """Two connections of an attacker with a datagram between them, and one that is none of its own."""
    frames = Dialogue(ts=START).play(talk)
    frames += Dialogue(sport=40001, ts=START + 0.1).play(talk)
    frames += Dialogue(sport=50000, dport=80, ts=START + 0.2).play(talk)
    frames += [udp(b"u" * 60, START + 0.3), udp(b"v" * 90, START + 0.31, back=True)]
    return sorted(frames, key=lambda f: f.ts)


def written(folder: Path, talk: str = TALK) -> tuple[Path, Recording]:
    frames = traffic(talk)
    path = folder / "whole.pcap"
    path.write_bytes(pcap([Made(f.data, len(f.data), f.ts, f.link) for f in frames]))
    windows = extract(frames)[0]
    order = np.argsort(windows.connections.end, kind="stable")
    windows = take(windows, order)
    bad = windows.connections.resp_p == 9999
    return path, Recording("whole.pcap", windows, bad.astype(np.int8), ["c2-x" if b else "" for b in bad])


PLANS = [
    Plan(), Plan(pad=2.0), Plan(split=True), Plan(junk=2), Plan(delay=4.0), Plan(pace=10.0), Plan(jitter=1.0),
    Plan(hosts=2), Plan(port=443), Plan(pad=1.5, junk=1, split=True, delay=2.0, pace=2.0, hosts=2, port=8443),
    Plan(mix=1.0),
]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS, ids=Plan.words)
def test_a_replay_has_the_connections_that_the_plan_computed(plan: Plan, tmp_path: Path) -> None:
    capture, before = written(tmp_path)
    after = apply(plan, before, office(60, seed=5))
    same, again = check(capture, before, after, plan, tmp_path, Config())
    assert same == dict.fromkeys(("there", *COLUMNS), 1.0)
    a, b = after.windows.connections, again.windows.connections
    assert len(a) == len(b)
    assert np.allclose(np.sort(a.ts), np.sort(b.ts), atol=1e-3)
    assert (np.diff(b.end) >= 0).all()
    assert int((again.label == 1).sum()) == 3


def test_what_the_plan_cannot_know_is_seen_in_the_replay(tmp_path: Path) -> None:
    """Columns do not tell which packet repeats another."""
    capture, before = written(tmp_path, TALK.replace("D a", "D K a"))
    plan = Plan(pad=2.0)
    same, _ = check(capture, before, apply(plan, before, before.windows), plan, tmp_path, Config())
    assert same["there"] == same["orig_pkts"] == 1.0
    assert same["orig_bytes"] < 0.5


def test_what_is_no_attack_is_written_as_it_was(tmp_path: Path) -> None:
    capture, before = written(tmp_path)
    plan = Plan(pad=2.0, split=True)
    out = tmp_path / "out.pcap"
    assert rewritten(capture, before, apply(plan, before, before.windows), plan, out) == 3
    whole, changed = capture.read_bytes(), out.read_bytes()
    for frame in traffic():
        mine = b"\x00\x50" in frame.data[34:38]  # a port of the other connection
        assert (frame.data in changed) or not mine
        assert frame.data in whole
    assert len(changed) > len(whole)


def test_the_cheapest_plan_that_hides_is_replayed(tmp_path: Path) -> None:
    """Quick is a detector that two connections in half a second are odd to."""
    _, before = written(tmp_path)
    found = evaluate(
        {"quick": Victim(Quick)}, [before], office(60, seed=5), Config(), tries=30, captures=tmp_path
    )
    (row,) = found["detectors"]["quick"]["attacks"]
    assert row["found"][0]
    assert row["cheapest"] is not None
    assert row["replayed"]["same"]["there"] == 1.0
    assert row["replayed"]["found"] is False
    assert "| quick | 1 of 1 | 1.00 |" in words(found)
