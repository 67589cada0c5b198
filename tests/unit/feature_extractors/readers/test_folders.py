"""What lies below a folder that is read."""

from __future__ import annotations

from pathlib import Path

from feature_extractors.readers.folders import files_below


def test_hidden_folders_are_passed_by_unless_they_are_named(tmp_path: Path) -> None:
    for name in (".venv/lib/notice.log", "logs/notice.log", "logs/.old/notice.log", "conn.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(files_below(tmp_path)) == [tmp_path / "conn.log", tmp_path / "logs/notice.log"]
    assert list(files_below(tmp_path / ".venv")) == [tmp_path / ".venv/lib/notice.log"]
