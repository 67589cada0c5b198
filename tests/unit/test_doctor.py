"""`cmdana doctor`: each thing looked at is ok, missing or wrong, with what to do about it."""

import importlib.metadata
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from small_model import small_checkpoint

from cmdana_plugin import doctor
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.doctor import Finding, examine, finding_object


def findings(toml: Path | None = None, model: Path | None = None) -> Mapping[str, Finding]:
    return {f.what: f for f in examine(toml, model)}


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the PATH, and another as working directory."""
    for name in ("here", "programs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    return tmp_path / "programs"


def settings(folder: Path, toml: str) -> Path:
    path = folder / "plugin.toml"
    path.write_text(toml)
    return path


def test_without_zeek_and_tshark_nothing_required_is_missing(bare: Path) -> None:
    found = findings()
    assert found["Python"].state == found["torch"].state == found["Zeek scripts"].state == "ok"
    assert found["configuration"].found == "none, so the defaults"
    for what in ("Zeek", "tshark", "running Zeek"):
        assert found[what].state == "missing"
        assert found[what].advice
    assert [f.what for f in found.values() if f.fails and f.what != "model"] == []


def test_what_the_configuration_asks_for_is_required(bare: Path) -> None:
    toml = settings(bare, '[capture]\nengine = "zeek"\nreader = "pyshark"\n[model]\ndevice = "cuda"\n')
    found = findings(toml)
    assert found["Zeek"].fails
    assert found["tshark"].fails
    assert found["pyshark"].state == "ok"
    import torch

    assert found["torch"].fails is not torch.cuda.is_available()


def test_a_mistake_in_the_configuration_is_wrong_and_the_rest_is_still_examined(bare: Path) -> None:
    found = findings(settings(bare, "[verdict]\nalert_per_day = 1.0\n"))
    assert found["configuration"].fails
    assert "did you mean 'alerts_per_day'?" in found["configuration"].found
    assert found["Python"].state == "ok"


@pytest.mark.parametrize(
    ("script", "state", "words"),
    [
        ("echo zeek version 8.2.2", "ok", "zeek version 8.2.2"),
        ("echo zeek version 10.0.0", "ok", "zeek version 10.0.0"),
        ("echo zeek version 7.0.1", "wrong", "zeek version 7.0.1"),
        ("echo bro version 2.6", "wrong", "bro version 2.6"),
        ("exit 3", "wrong", "''"),
    ],
)
def test_zeeks_version_is_read(bare: Path, script: str, state: str, words: str) -> None:
    program(bare, "zeek", script)
    zeek = findings()["Zeek"]
    assert zeek.state == state
    assert words in zeek.found


def test_scripts_that_zeek_cannot_load_are_wrong_with_zeeks_own_words(bare: Path) -> None:
    program(
        bare,
        "zeek",
        'case "$1" in --version) echo zeek version 8.2.2;; *) echo "error: no such thing" >&2; exit 1;; esac',
    )
    loads = findings()["Zeek loads the scripts"]
    assert loads.fails
    assert loads.found == "error: no such thing"


@pytest.mark.parametrize(
    ("toml", "state", "words"),
    [
        ("[endpoint]\nurl = 'ws://127.0.0.1:{closed}/v1/messages/json'", "missing", "nobody listens there"),
        ("[endpoint]\nurl = 'http://127.0.0.1/'", "wrong", "expected ws://"),
        ("[endpoint]\ntransport = 'broker'\nbroker_port = {closed}", "missing", "refused"),
        ("[endpoint]\ntransport = 'broker'\nbroker_port = {open}", "ok", "listens at 127.0.0.1"),
    ],
)
def test_a_running_zeek_is_looked_for_where_the_configuration_says(
    bare: Path, toml: str, state: str, words: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_server(("127.0.0.1", 0)) as closed,
    ):
        ports = {"open": listening.getsockname()[1], "closed": closed.getsockname()[1]}
        closed.close()
        running = findings(settings(bare, toml.format(**ports)))["running Zeek"]
    assert running.state == state
    assert words in running.found


def test_a_model_that_cannot_be_loaded_is_wrong(bare: Path) -> None:
    nothing = bare / "model.safetensors"
    nothing.write_bytes(b"no model")
    model = findings(model=nothing)["model"]
    assert model.fails
    assert str(nothing) in model.found


def test_the_model_judges_a_built_in_capture_and_its_scores_are_compared(bare: Path) -> None:
    found = findings()
    assert "as packed" in found["model"].found
    assert found["model's scores"].state == "ok"
    told = small_checkpoint()
    model = bare / "m.safetensors"
    checkpoints.save(told, model)
    scores = findings(model=model)["model's scores"]
    assert scores.state == "missing"
    assert not scores.fails
    checkpoints.save(checkpoints.renamed(told, reference="[0.5]"), model)
    scores = findings(model=model)["model's scores"]
    assert scores.fails
    assert "expected 1 as where it was made" in scores.found


def test_a_python_too_old_or_too_new_is_wrong(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    assert doctor._python().fails


def test_a_finding_fails_when_broken_or_when_missing_and_required() -> None:
    for state, required, fails in [
        ("ok", True, False),
        ("missing", False, False),
        ("missing", True, True),
        ("wrong", False, True),
    ]:
        finding = Finding("x", state, "", required=required)  # type: ignore[arg-type]
        assert finding.fails is fails
        assert finding_object(finding)["fails"] is fails


def test_a_program_of_the_working_folder_is_not_run(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = bare.parent / "here"
    for name in (".x", "zeek", "tshark"):
        program(here, name, f"touch {here}/ran")
    settings(here, '[zeek]\npath = "./.x"\n')
    monkeypatch.setenv("PATH", f"{here}:.::{bare}")
    found = findings()
    assert found["Zeek"].state == found["tshark"].state == "missing"
    assert not (here / "ran").exists()
    assert "not taken from there: [zeek] path" in found["configuration"].found


def test_what_confines_extraction_is_said(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings()["sandbox"].found.endswith("resource limits")
    monkeypatch.setattr(doctor.confine, "probe", doctor.confine.Confinement)
    lacking = doctor._sandbox()
    assert (lacking.state, lacking.fails) == ("missing", False)
    assert lacking.found == "extraction and tshark have only: resource limits"
    assert lacking.advice


def test_a_cache_that_is_not_used_is_said(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.caches, "refused", lambda: "its cache is not /x, since everybody can write /x, but /y"
    )
    finding = findings()["numba"]
    assert finding.state == "missing"
    assert "everybody can write /x" in finding.found
    assert finding.advice


def test_the_shared_secret_is_looked_at(bare: Path) -> None:
    path = bare / "secret"
    toml = settings(bare, f'[endpoint]\nsecret_file = "{path}"\n')
    assert (findings(toml)["shared secret"].state, findings(toml)["shared secret"].fails) == (
        "missing",
        False,
    )
    path.write_text("ab" * 32)
    path.chmod(0o644)
    assert findings(toml)["shared secret"].fails
    path.chmod(0o600)
    assert findings(toml)["shared secret"].state == "ok"
    said = findings(settings(bare, '[endpoint]\nauthentication = "none"\n'))["shared secret"]
    assert "whoever reaches the port is believed" in said.found


def test_pyshark_is_asked_for_only_where_the_configuration_wants_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "pyshark":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without)
    lacking = findings()["pyshark"]
    assert (lacking.state, lacking.fails) == ("missing", False)
    assert "pip install 'cmdana[pyshark]'" in lacking.advice
    assert findings(settings(bare, '[capture]\nreader = "pyshark"\n'))["pyshark"].fails
