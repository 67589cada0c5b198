"""A model that was taught the further logs: what it is worth on them, and that nobody gives it other windows."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import made_archive
import numpy as np
import pytest
from made_windows import block_of, office
from pages import ROOT
from small_model import small_checkpoint
from typer.testing import CliRunner

from cmdana_plugin.cli import app as cli
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.detector import load_detector, schema_digest, shipped_checkpoint
from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.training.calibrate import recalibrate
from cmdana_plugin.training.fit import train
from cmdana_plugin.training.material import Suspects
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Recording, gather
from cmdana_plugin.training.rehearsals.canaries import trial_of
from feature_extractors.errors import CmdanaError, SchemaError
from feature_extractors.features import encoded, load_schema
from feature_extractors.observations import LogEntry, Windows

SCHEMA = load_schema()
assert SCHEMA.further is not None
FURTHER = SCHEMA.further
QUICK = Recipe(epochs=4, width=16, behaviour=False, further_logs=True)
USUAL = {
    "scope": "base", "base_object": "cn=anna,dc=firm,dc=example", "result_count": 1, "result": "success",
    "filter": "(uid=anna)", "attributes": ["mail", "cn"],
}  # fmt: skip
ODD = {
    "scope": "tree", "base_object": "dc=firm,dc=example", "result_count": 4000, "result": "size limit exceeded",
    "filter": "(&(objectClass=user)(servicePrincipalName=*)(!(samAccountName=krbtgt)))",
    "attributes": ["servicePrincipalName", "memberOf", "adminCount", "pwdLastSet", "lastLogon"],
}  # fmt: skip


def directory(n: int, seed: int, odd: int = -1) -> Windows:
    """An office whose web requests are searches of its directory; that of row `odd` is another kind of search."""
    windows = office(n, seed=seed)
    logs = [
        LogEntry("ldap_search", e.ts, "", dict(ODD if i == odd else USUAL)) if e.stream == "http" else e
        for i, e in enumerate(windows.logs)
    ]
    return replace(windows, logs=logs)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    return train([Recording("a", directory(900, 1)), Recording("b", directory(900, 2))], recipe=QUICK)


def test_an_odd_search_is_odd_to_it_and_the_reason_names_its_field(
    trained: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "site.safetensors"
    checkpoints.save(trained, path)
    row = 2 + 3 * 60  # every third is a search
    scores = []
    for odd in (-1, row):
        detector = load_detector(path, threads=1, salt=0, hosts=512)
        block = encoded(directory(300, 3, odd), FURTHER)
        scores.append(detector.receive(block))
        if odd == row:
            said = detector.explain(block, scores[1], np.array([row]))[0]
    usual, seen = scores
    assert seen.p_value[row] < usual.p_value[row] / 4, (usual.p_value[row], seen.p_value[row], said)
    assert np.array_equal(seen.score[:row], usual.score[:row])
    assert any("ldap_search" in reason for reason in said), said


def test_its_file_tells_the_schema_and_it_takes_no_other_windows(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "site.safetensors"
    checkpoints.save(trained, path)
    assert schema_digest(path) == FURTHER.digest
    detector = load_detector(path, threads=1, salt=0, hosts=512)
    assert detector.schema_digest == FURTHER.digest
    with pytest.raises(SchemaError, match="windows encoded by schema"):
        detector.receive(block_of(directory(10, 4)))
    again = recalibrate(checkpoints.load(path, SCHEMA), [Recording("c", directory(200, 5))])
    assert again.about["schema_digest"] == FURTHER.digest


def test_captures_and_archives_are_read_for_it(tmp_path: Path) -> None:
    """By the commands, which read while the model is loaded; and with the shipped model as ever."""
    model, capture, archive = tmp_path / "m.safetensors", tmp_path / "short.pcap", tmp_path / "archive"
    checkpoints.save(small_checkpoint(schema=FURTHER), model)
    with gzip.open(ROOT / "tests/traces/busy-minutes/busy-minutes.pcap.gz") as whole:
        capture.write_bytes(whole.read(60_000))
    archive.mkdir()
    made_archive.archive(archive)
    for k, words in enumerate(([], ["--model", str(model)])):
        for command, source in (("replay", capture), ("hunt", archive)):
            out = tmp_path / f"{command}{k}"
            done = CliRunner().invoke(cli.app, [command, str(source), "--out", str(out), "--json", *words])
            assert done.exit_code == 0, done.output
            assert "\tC" in (out / "cmdana.log").read_text()


def test_a_day_is_rehearsed_in_the_same_terms() -> None:
    own = encoded(directory(300, 7), FURTHER)
    trial = trial_of(own, np.random.default_rng(1), 3)
    assert trial.windows.features.log_summary.shape == (len(trial.windows), len(FURTHER.summary))


def test_a_file_that_is_no_model_tells_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert schema_digest(None) == schema_digest(path) == schema_digest(tmp_path) == ""
    for content in (
        b"",
        b"1234567",
        b"\xff" * 64,
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x40\0\0\0\0\0\0\0" + b"[" * 64,
    ):
        path.write_bytes(content)
        assert schema_digest(path) == ""


def test_it_cannot_begin_with_a_model_that_was_not_taught_them() -> None:
    with pytest.raises(CmdanaError, match="--further-logs: found a model to start from"):
        train([Recording("a", directory(100, 1))], recipe=QUICK, init=shipped_checkpoint())


def test_the_shipped_models_trees_look_at_what_they_know() -> None:
    windows = directory(200, 6)
    suspects = Suspects()
    suspects.receive(windows, np.ones(len(windows), np.bool_))
    suspects.resembling(gather([Recording("a", windows)], FURTHER))
    assert not suspects.attacks
