"""What the shards of a site know is put together into what one detector of all of it would know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_windows import office
from numpy.typing import NDArray
from small_model import small_checkpoint
from typer.testing import CliRunner

from cmdana_plugin import statefile
from cmdana_plugin.behaviour import behaviour_of, with_behaviour
from cmdana_plugin.cli.app import app
from cmdana_plugin.cli.judging import load_with_origin
from cmdana_plugin.config import Behaviour, Config, Model
from cmdana_plugin.decision.judge import Judge
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector import shipped_checkpoint
from cmdana_plugin.endpoint.shards import Shares
from cmdana_plugin.replay.merging import merged
from cmdana_plugin.statefile import State, StateError, of_text
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

SHARDS = 3
N = 1600
SHARES = Shares(SHARDS, bytes(32))
HISTORY = "detector.inner.inner."
STREAMS = "detector.inner.streams."


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    behaviour = behaviour_of(shipped_checkpoint())
    assert behaviour is not None
    checkpoints.save(with_behaviour(small_checkpoint(), behaviour), path)
    model = Model(path=str(path), threads=1, state_key=str(path.with_name("key")), max_hosts=4096)
    return Config(model=model, behaviour=Behaviour(max_hosts=256))


def blocks(site: Encoded) -> list[Encoded]:
    return [take_encoded(site, np.arange(i, min(i + 100, len(site)))) for i in range(0, len(site), 100)]


@pytest.fixture(scope="module")
def known(config: Config) -> tuple[State, list[State], Encoded]:
    """What one detector knows of a site, what each of its shards knows, and what comes next there."""
    windows = encoded(office(N, scan=60), load_schema())
    site, then = (take_encoded(windows, np.arange(*span)) for span in ((0, N), (N, N + 60)))
    whole, about = load_with_origin(config)
    shards: list[Judge] = []
    for number in range(1, SHARDS + 1):
        judge, _ = load_with_origin(config)
        judge.share(lambda resp, number=number: SHARES.of_all(resp) == number)
        shards.append(judge)
    nothing = take_encoded(site, np.zeros(0, np.int64))
    for block in blocks(site):
        whole.conclude(block, whole.detector.receive(block))
        owner, told = SHARES.of_all(block.connections.orig_h), []
        for number, judge in enumerate(shards, 1):
            part = take_encoded(block, np.flatnonzero(owner == number))
            told += judge.conclude(part, judge.detector.receive(part)).elsewhere
        for number, judge in enumerate(shards, 1):
            judge.overheard(nothing, [s for s in told if SHARES.of(s.verdict.resp_h) == number])
    about = {**about, "network_time": f"{site.connections.end.max():.3f}"}
    return State(about, whole.state()), [State(about, judge.state()) for judge in shards], then


def rows(arrays: Mapping[str, NDArray[Any]], table: str, column: str) -> dict[int, Any]:
    values = arrays[f"{table}.{column}"]
    return dict(zip(arrays[f"{table}.keys"].tolist(), values.tolist(), strict=False))


def test_counts_of_originators_pairs_and_names_are_those_of_one_detector(
    known: tuple[State, list[State], Encoded],
) -> None:
    whole, shards, _ = known
    got, left = merged(shards)
    assert left == ["drift and what was adapted are those of the latest state"]
    for table in ("pairs", "marks", "services"):
        assert rows(got.arrays, HISTORY + table, "values") == rows(whole.arrays, HISTORY + table, "values")
    ours, theirs = (rows(s.arrays, f"{HISTORY}hosts", "values") for s in (got, whole))
    assert ours.keys() == theirs.keys()
    assert [ours[k][:16] for k in ours] == [theirs[k][:16] for k in ours]  # as originators
    assert [ours[k][28] for k in ours] == [theirs[k][28] for k in ours]  # how often they answered
    for table in ("pairs", "hosts"):
        seen = [rows(s.arrays, STREAMS + table, "seen") for s in (got, whole)]
        assert {k: n for k, (n, _) in seen[0].items()} == {k: n for k, (n, _) in seen[1].items()}


def test_a_service_s_histogram_is_the_sum_of_the_shards(known: tuple[State, list[State], Encoded]) -> None:
    whole, shards, _ = known
    got, _ = merged(shards)

    def total(state: State) -> dict[str, float]:
        names = of_text(state.arrays, "detector.names")
        at = state.arrays["detector.services.at"].tolist()
        return dict(
            zip([names[i] for i in at], state.arrays["detector.services.total"][:, 0].tolist(), strict=True)
        )

    assert total(got) == pytest.approx(total(whole), rel=0.02)  # by what was known then, odd ones count less


def test_evidence_and_incidents_of_all_shards_are_there(known: tuple[State, list[State], Encoded]) -> None:
    whole, shards, _ = known
    got, _ = merged(shards)
    ours, theirs = (rows(s.arrays, "decider.evidence.hosts", "role") for s in (got, whole))
    assert {k for k, role in theirs.items() if role == 0} == {k for k, role in ours.items() if role == 0}
    hours = of_text(got.arrays, "decider.evidence.numbers")["hours"]
    assert hours == of_text(whole.arrays, "decider.evidence.numbers")["hours"]
    cases = [of_text(s.arrays, "decider.incidents")["cases"] for s in shards]
    assert len(of_text(got.arrays, "decider.incidents")["cases"]) == sum(map(len, cases)) > 0
    for key in ("settled", "now", "days", "today"):
        counts = [s.arrays[f"decider.habits.{key}"].sum(axis=0) for s in (got, whole)]
        assert counts[0] == pytest.approx(counts[1])


def test_a_detector_goes_on_from_it_as_the_one_that_saw_everything(
    config: Config, known: tuple[State, list[State], Encoded], tmp_path: Path
) -> None:
    whole, shards, then = known
    for i, state in enumerate(shards):
        statefile.write(tmp_path / f"shard-{i}.safetensors", state)
    done = CliRunner().invoke(
        app, ["state", "merge", *map(str, sorted(tmp_path.glob("shard-*"))), "--out", str(tmp_path / "state")]
    )
    assert done.exit_code == 0, done.output
    found = []
    for state in (whole, statefile.read(tmp_path / "state")):
        judge, _ = load_with_origin(config)
        judge.restore(state.arrays)
        found.append(-np.log10(judge.detector.receive(then).p_value))
    assert np.median(np.abs(found[0] - found[1])) < 0.1
    assert np.corrcoef(found[0], found[1])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "another"}, "another key"),
        ({"schema": "another"}, "other fields"),
        ({"network": "another"}, "of two models"),
    ],
)
def test_states_that_do_not_belong_together_are_refused(
    known: tuple[State, list[State], Encoded], change: dict[str, str], words: str
) -> None:
    _, (one, other, _), _ = known
    with pytest.raises(StateError, match=words):
        merged([one, State({**other.about, **change}, other.arrays)])


def test_one_state_is_nothing_to_merge(known: tuple[State, list[State], Encoded], tmp_path: Path) -> None:
    statefile.write(tmp_path / "one.safetensors", known[1][0])
    done = CliRunner().invoke(
        app, ["state", "merge", str(tmp_path / "one.safetensors"), "--out", str(tmp_path / "x")]
    )
    assert "found one state; expected several" in str(done.exception)
    done = CliRunner().invoke(app, ["state", "show", str(tmp_path), str(tmp_path)])
    assert "show: found 2 states; expected one" in str(done.exception)
