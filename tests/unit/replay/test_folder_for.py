"""Where a replay writes that was not told where: a folder in the working folder, named after the capture."""

from pathlib import Path

import pytest

from cmdana_plugin.replay.embedded import folder_for


@pytest.mark.parametrize(
    ("captures", "folder"),
    [
        (["incident.pcap"], "incident"),
        (["/day/one.pcapng.gz", "two.pcap"], "one"),
        (["capture.2026-11-22.PCAP.xz"], "capture.2026-11-22"),
        (["-"], "capture"),
        (["...pcap"], "capture"),
        (["--out.pcap"], "out"),
        ([".pcap"], "pcap"),
        (["nameless"], "nameless"),
    ],
)
def test_it_is_named_after_the_first_capture(captures: list[str], folder: str) -> None:
    assert folder_for(captures) == Path(folder)


def test_it_is_never_the_capture_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day").mkdir()
    (tmp_path / "nameless").touch()
    assert folder_for(["day"]) == Path("day-replayed")
    assert folder_for(["."]) == Path(f"{tmp_path.name}-replayed")
    assert folder_for(["nameless"]) == Path("nameless-replayed")
