"""What a person sees of long work where no terminal is, and of a first run."""

import re
from pathlib import Path

import madeup
import pytest
from pages import ROOT

from cmdana_plugin import compile_cache as compiled
from cmdana_plugin.analyst import terminal as show
from cmdana_plugin.cli import options
from cmdana_plugin.replay import Summary
from feature_extractors.compiled import ready


def test_long_work_in_a_log_file_says_where_it_is_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 10.0, 31.0, 32.0, 40.0])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(now))
    with show.steps() as progress:
        for what, share in (
            ("reading", 0.0),
            ("reading", 0.4),
            ("reading", 0.9),
            ("network", 0.0),
            ("network", 0.1),
        ):
            progress(what, share)
    assert capsys.readouterr().err.splitlines() == ["reading", "reading 90%", "network"]


def test_a_first_run_says_that_it_compiles_and_a_later_one_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ready, "there", lambda: False)  # nothing was ever kept there
    options.say_if_it_compiles("training")
    assert "compiling for this processor, once" in capsys.readouterr().err
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "training._latest-557.py311.nbi").write_bytes(b"")
    options.say_if_it_compiles("training")
    assert capsys.readouterr().err == ""
    assert (compiled.kept(), compiled.kept("tracker")) == (1, 0)


def test_what_a_command_is_said_to_compile_is_a_module_that_is_compiled() -> None:
    source = {p.stem: p.read_text() for p in ROOT.glob("cmdana_plugin/**/*.py")}
    source |= {p.stem: p.read_text() for p in ROOT.glob("feature_extractors/**/*.py")}
    named = {name for text in source.values() for name in re.findall(r'say_if_it_compiles\("(\w+)"\)', text)}
    assert named
    assert [name for name in named if not re.search("^@entry", source.get(name, ""), re.M)] == []
    if compiled.kept("tracker"):  # by `cmdana doctor --compile`, which leaves nothing out
        assert [name for name in named if not compiled.kept(name)] == []


def test_hosts_whose_evidence_was_let_go_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for forgotten, said in ((0, False), (899_995, True)):
        made = Summary(["a.pcap"], forgotten=forgotten)
        show.summary(made, tmp_path, None)
        assert ("evidence against 899,995 hosts let go" in " ".join(capsys.readouterr().out.split())) is said
        assert show.summary_object(made, tmp_path, None)["forgotten"] == forgotten


def test_no_incident_comes_with_what_lay_just_below_and_what_cannot_be_seen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = Summary(
        ["a.pcap"], connections=100, first=1.0, last=61.0, answered=1, nearest=[(1.4, "10.0.0.5")], limit=1.6
    )
    made.unseen = list(made._unseen())
    show.summary(made, tmp_path, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "no incident" in said
    assert "just below an incident, which begins at an evidence of 1.6: 10.0.0.5 (1.4)" in said
    assert "what this material cannot show: what takes an hour or more (beacons, slow scans)" in said
    assert "there are logs only" in said
    assert "it holds one direction only" in said
    assert show.summary_object(made, tmp_path, None)["nearest"] == [{"evidence": 1.4, "host": "10.0.0.5"}]


def test_an_incident_is_shown_once_as_it_was_known_at_the_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, later = (madeup.incident(madeup.VERDICT, odd=n) for n in (3, 30))
    end = madeup.incident(madeup.VERDICT, odd=77).incident
    assert end is not None
    made = Summary(["a.pcap"], notices=[first, later], incidents=[end])
    show.summary(made, tmp_path, None)
    said = capsys.readouterr().out
    assert said.count("scans: ") == 1
    assert "scans: 77 ports" in said
    assert "1 incident in 2 notices" in said
    assert "no incident" not in said
