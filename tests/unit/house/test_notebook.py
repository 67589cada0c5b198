"""What `import cmdana_plugin` offers a notebook: the worked example of docs/researcher.md, run as it stands there."""

from __future__ import annotations

import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import ROOT
from test_docs_commands import BUSY_MINUTES, FRAMES, cut

import cmdana_plugin
from cmdana_plugin import notebook
from cmdana_plugin.detector import checkpoint
from feature_extractors import CaptureError, CmdanaError, Counts, Windows, concat, take

OFFERED = ("calibrate", "encode", "extract", "fit", "judge", "load_detector", "read", "read_log", "table")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the busy minutes under the names of the page."""
    place = tmp_path_factory.mktemp("notebook")
    cut(BUSY_MINUTES / "busy-minutes.pcap.gz", place / "incident.pcap", FRAMES)
    for name in ("yesterday.pcap", "today.pcap"):
        (place / name).symlink_to(place / "incident.pcap")
    return place


@pytest.fixture(scope="module")
def windows(folder: Path) -> Windows:
    return concat(list(cmdana_plugin.extract(cmdana_plugin.read(folder / "incident.pcap"))))


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an example of the section in the folder; answers the names that it has made."""
    section = (
        (ROOT / "docs" / "researcher.md").read_text().partition("## As a library")[2].partition("\n## ")[0]
    )
    examples = re.findall(r"```python\n(.*?)```", section, re.S)

    def run(which: int) -> dict[str, Any]:
        names: dict[str, Any] = {}
        monkeypatch.chdir(folder)
        exec(examples[which], names)  # as a cell of a notebook is
        return names

    return run


def test_the_package_offers_these_steps_and_nothing_else() -> None:
    assert dir(cmdana_plugin) == list(OFFERED)
    assert [getattr(cmdana_plugin, name) for name in OFFERED] == [getattr(notebook, name) for name in OFFERED]


@pytest.mark.parametrize("name", OFFERED)
def test_every_step_is_typed_and_says_what_it_raises(name: str) -> None:
    step = getattr(cmdana_plugin, name)
    signature = inspect.signature(step)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty] == []
    assert "Raises `C" in " ".join((step.__doc__ or "").split())


@pytest.mark.parametrize(
    "line", ["import cmdana_plugin", "from cmdana_plugin import read, extract, judge, fit"]
)
def test_to_import_the_package_does_not_load_torch(line: str) -> None:
    code = f"{line}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_capture_becomes_notices_as_the_page_shows(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(0)
    said = capsys.readouterr().out
    assert sum(map(len, names["blocks"])) > 500
    assert len(names["judged"].verdicts) == len(names["windows"])
    assert "CMDANA::Anomalous_Host" in said  # the scan


def test_a_network_s_own_normal_is_learned_as_the_page_shows(run: Any) -> None:
    names = run(1)
    p = names["scores"].p_value
    assert len(p) == len(names["windows"])
    assert (p > 0).all()
    assert (p <= 1).all()
    assert np.allclose(names["scores"].reliance.sum(axis=1), 1.0)
    checkpoint.save(names["model"], Path("site.safetensors"))
    blocks = cmdana_plugin.extract(cmdana_plugin.read("incident.pcap"))
    *_, last = cmdana_plugin.judge(blocks, cmdana_plugin.load_detector("site.safetensors"))
    assert np.allclose(last.verdicts.p_value, p)


def test_the_verdicts_are_those_of_replay(windows: Windows, folder: Path, tmp_path: Path) -> None:
    from cmdana_plugin.cli.judging import load_judge
    from cmdana_plugin.config import Config

    judged = next(cmdana_plugin.judge([windows]))
    (replayed,) = load_judge(Config()).judged([cmdana_plugin.encode(windows)])
    assert judged.verdicts.verdict.counted() == replayed.verdicts.verdict.counted()
    assert np.allclose(judged.verdicts.score, replayed.verdicts.score)


def test_what_is_passed_over_is_counted(folder: Path) -> None:
    (folder / "cut.pcap").write_bytes((folder / "incident.pcap").read_bytes()[:-5])
    reader, counts = cmdana_plugin.read(folder / "cut.pcap"), Counts()
    frames = list(reader)
    assert reader.counts.by_reason == {"capture_truncated": 1}
    frames[0].link[:3] = 147  # a link type that nobody knows
    assert sum(map(len, cmdana_plugin.extract(frames, counts=counts))) > 500
    assert counts.by_reason["unknown_link_type"] == 3


def test_a_capture_of_an_unknown_link_type_alone_is_refused(folder: Path) -> None:
    frames = list(itertools.islice(cmdana_plugin.read(folder / "incident.pcap"), 1))
    frames[0].link[:] = 147
    with pytest.raises(CaptureError, match="147"):
        list(cmdana_plugin.extract(frames))


def test_what_is_no_capture_and_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no traffic")
    for step in (cmdana_plugin.read, cmdana_plugin.load_detector):
        with pytest.raises(CmdanaError, match="notes"):
            step(tmp_path / "notes")


def test_too_little_to_learn_from_is_refused(windows: Windows) -> None:
    with pytest.raises(CmdanaError, match="found no windows"):
        cmdana_plugin.fit([])
    with pytest.raises(CmdanaError, match="at least 64"):
        cmdana_plugin.fit([take(windows, np.arange(20))])
    with pytest.raises(CmdanaError, match=r"label: found 3, expected one for each of 20"):
        cmdana_plugin.fit([take(windows, np.arange(20))], np.zeros(3, np.int8))
