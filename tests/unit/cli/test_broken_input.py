"""Broken input, as an operator's command meets it: a clear line, and what was learned before stays as it was."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import madeup
import pytest

from cmdana_plugin.cli import app as cli
from cmdana_plugin.logs.reader import read_rows
from feature_extractors.readers.dialects import names

Run = Callable[..., tuple[int, str, str]]
CONN = madeup.verdicts(200, attack=False)


@pytest.fixture
def cmdana(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["cmdana", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    madeup.write_logs(tmp_path / "logs", CONN)
    return tmp_path / "logs"


def train(cmdana: Run, *more: str) -> dict[str, object]:
    code, out, err = cmdana(
        "train", "--out", "m.safetensors", "--force", "--epochs", "1", "--json", *more, "logs"
    )
    assert code == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def refused(cmdana: Run, *words: str) -> str:
    """The one line that a command says; a model that is there already is left as it was."""
    model = Path("m.safetensors")
    model.write_bytes(b"learned before")
    code, _, err = cmdana(*words)
    line = [line for line in err.splitlines() if line.startswith("cmdana: ") and "compiling" not in line]
    assert code == 1
    assert len(line) == 1, err
    assert "Traceback" not in err
    assert model.read_bytes() == b"learned before"
    return line[0]


def test_a_log_that_is_being_written_is_learned_from_to_its_last_whole_line(cmdana: Run, logs: Path) -> None:
    text = re.sub("#close.*\n", "", (logs / "conn.log").read_text())
    (logs / "conn.log").write_text(text[: len(text) - 40])
    found = train(cmdana)
    assert found["connections"] == 199
    warnings = found["warnings"]
    assert isinstance(warnings, list)
    assert any("some input was cut off or damaged" in w for w in warnings)


def test_tsv_and_json_side_by_side_are_one_material(cmdana: Run, tmp_path: Path) -> None:
    madeup.write_logs(tmp_path / "logs" / "2025-11-22", CONN[:100])
    madeup.write_logs(tmp_path / "logs" / "2025-11-23", CONN[100:], "json")
    assert train(cmdana)["connections"] == 200


def test_fields_of_a_newer_zeek_and_columns_that_are_missing_are_nobodys_trouble(
    cmdana: Run, logs: Path
) -> None:
    rows = [dict(row) for row in read_rows(logs / "conn.log")]
    for row in rows:
        row |= {"quantum_state": "up", "id.ctx": ["a", "b"], "nested": {"a": 1}}  # type: ignore[dict-item]
        del row["history"], row["duration"]
    (logs / "conn.log").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert train(cmdana)["connections"] == 200


def test_a_conn_log_without_what_makes_a_connection_is_refused_by_column(cmdana: Run, logs: Path) -> None:
    text = (logs / "conn.log").read_text().replace("\tid.resp_h\t", "\tresponder\t")
    (logs / "conn.log").write_text(text)
    line = refused(cmdana, "train", "--out", "m.safetensors", "--force", "logs")
    assert "conn.log" in line
    assert "id.resp_h" in line


def test_a_log_that_is_rotated_away_between_listing_and_reading_is_named(
    cmdana: Run, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = names.files_below

    def listed_earlier(folder: Path) -> Iterator[Path]:
        yield from whole(folder)
        yield folder / "conn.09:00:00-10:00:00.log"

    monkeypatch.setattr(names, "files_below", listed_earlier)
    line = refused(cmdana, "train", "--out", "m.safetensors", "--force", "logs")
    assert (
        "conn.09:00:00-10:00:00.log: cannot be read: No such file or directory: it is gone, rotated away? try again"
        in line
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,colour\na,b\n", "labels.csv"),
        ("\x00\x01\x02", "labels.csv"),
        ("", "labels.csv"),
    ],
)
def test_a_wrong_label_file_is_named_before_anything_is_learned_and_left_as_it_was(
    cmdana: Run, logs: Path, content: str, said: str
) -> None:
    store = logs.parent / "labels.csv"
    store.write_text(content)
    line = refused(cmdana, "train", "--out", "m.safetensors", "--force", "--labels", "labels.csv", "logs")
    assert said in line
    assert store.read_text() == content


def test_a_model_that_was_cut_off_is_refused_by_everything_that_takes_one(cmdana: Run, logs: Path) -> None:
    train(cmdana)
    whole = (logs.parent / "m.safetensors").read_bytes()
    (logs.parent / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    out = ("--out", "m.safetensors", "--force")
    for words in (
        ("calibrate", *out, "--model", "half.safetensors", "logs"),
        ("train", *out, "--init", "half.safetensors", "logs"),
    ):
        assert "half.safetensors" in refused(cmdana, *words)


def test_a_folder_that_cannot_be_written_to_is_said_in_a_line(cmdana: Run, logs: Path) -> None:
    """Of /proc not even root may."""
    said = refused(cmdana, "report", str(logs), "--out", "/proc/report.html")
    assert said.startswith("cmdana: /proc/report.html: cannot be written: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_log_that_may_not_be_read_is_named_once(cmdana: Run, logs: Path) -> None:
    log = logs / "conn.log"
    log.chmod(0)
    said = refused(cmdana, "train", "--out", "m.safetensors", "--force", str(log))
    assert said.count("cannot") == 1
    assert said.endswith(f"{log}: cannot be read: Permission denied")
