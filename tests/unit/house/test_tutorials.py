"""The tutorials run as they stand on their page, and what they show is what the rest of the house says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import ROOT
from test_docs_commands import BUSY_MINUTES, FRAMES, cut

import cmdana_plugin
from cmdana_plugin.logs.streams import CMDANA, CONN, NOTICE
from feature_extractors import CmdanaError

TUTORIALS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "tutorials.md").read_text(), re.S)
pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page assumes: a capture, and the logs of its replay."""
    from cmdana_plugin.cli import app

    folder = tmp_path_factory.mktemp("tutorials")
    cut(BUSY_MINUTES / "busy-minutes.pcap.gz", folder / "incident.pcap", FRAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["cmdana", "replay", str(folder / "incident.pcap"), "--out", str(folder / "logs")]
        )
        with pytest.raises(SystemExit) as end:
            app.main()
    assert not end.value.code
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(which: int) -> dict[str, Any]:
        names: dict[str, Any] = {}
        monkeypatch.chdir(place)
        exec(TUTORIALS[which], names)  # as a cell of a notebook is
        return names

    return run


def test_an_archive_is_hunted(run: Any) -> None:
    names = run(0)
    assert names["worst"] == "10.20.0.120"  # the one that scans
    assert names["conn"].num_rows > 100
    assert names["verdicts"].column_names == [n for n, _ in CMDANA.fields]


def test_a_detector_of_one_s_own_takes_the_place_of_the_shipped_one(run: Any) -> None:
    names = run(1)
    p = np.array([row["p_value"] for row in names["mine"]])
    assert ((p > 0) & (p <= 1)).all()
    assert {row["model"] for row in names["mine"]} == {"upload 1"}
    body = TUTORIALS[1]
    own = body[body.index("class Upload") : body.index("blocks =")]
    assert len(own.splitlines()) <= 50


def test_reasons_are_read(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(2)
    said = capsys.readouterr().out
    assert "most of it:" in said
    assert "10.20.0.120" in said
    assert names["oddest"]["p_value"] <= 0.01


def test_tables_have_the_columns_of_the_logs_and_become_frames(place: Path, tmp_path: Path) -> None:
    conn = cmdana_plugin.read_log(place / "logs", "conn")
    assert conn.column_names == [n for n, _ in CONN.fields]
    windows = next(cmdana_plugin.extract(cmdana_plugin.read(place / "incident.pcap")))
    made = cmdana_plugin.table(windows)
    assert made.schema == conn.schema
    by_uid = {row["uid"]: row for row in conn.to_pylist()}
    assert [row for row in made.to_pylist()[:50] if row != by_uid[row["uid"]]] == []
    encoded = cmdana_plugin.table(cmdana_plugin.encode(windows))
    assert encoded.num_rows == len(windows)
    assert cmdana_plugin.read_log(place / "logs", "notice").column_names == [n for n, _ in NOTICE.fields]
    pandas = pytest.importorskip("pandas")
    frame = conn.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert str(frame["ts"].dt.tz) == "UTC"


def test_what_is_no_stream_and_no_log_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(CmdanaError, match="nonsense: found no such stream; expected one of"):
        cmdana_plugin.read_log(place / "logs", "nonsense")
    with pytest.raises(CmdanaError, match="does not exist"):
        cmdana_plugin.read_log(tmp_path / "none", "conn")
    shutil.copy(place / "logs" / "conn.log", tmp_path)
    assert cmdana_plugin.read_log(tmp_path, "notice").num_rows == 0
