"""The learning phase on disk: what was written comes back, a stop loses nothing, memory and disk are bounded."""

import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from made_windows import office

from cmdana_plugin.training.spool import Spool, SpoolError, is_spool
from feature_extractors.observations import Connections, Packets, Stage, Windows, concat, take


def equal(a: Windows, b: Windows) -> bool:
    for name, kind in (("connections", Connections), ("packets", Packets)):
        for field in fields(kind):
            x, y = (np.asarray(getattr(getattr(w, name), field.name)) for w in (a, b))
            if not np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
                return False
    starts = np.array_equal(a.packet_start, b.packet_start) and np.array_equal(a.log_start, b.log_start)
    return starts and list(a.logs) == list(b.logs)


def blocks(windows: Windows, size: int) -> list[Windows]:
    return [
        take(windows, rows) for rows in np.split(np.arange(len(windows)), range(size, len(windows), size))
    ]


def test_what_was_gathered_comes_back_as_it_was_after_any_number_of_stops(tmp_path: Path) -> None:
    windows = office(3000, scan=50)
    for begin in range(0, 6):
        spool = Spool(tmp_path / "m.learning", create=True)
        for block in (
            blocks(windows, 100)[begin * 5 : begin * 5 + 5] if begin < 5 else blocks(windows, 100)[25:]
        ):
            spool.add(block)
        spool.close()
    spool = Spool(tmp_path / "m.learning")
    assert spool.connections == len(windows)
    assert equal(concat(list(spool.windows())), windows)
    whole = windows.connections.end[-1] - windows.connections.end[0]
    assert spool.seen == pytest.approx(whole, rel=0.02)


def test_only_the_owner_can_look_and_nothing_is_left_when_the_model_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "m.learning"
    spool = Spool(folder, create=True)
    spool.add(office(100))
    spool.flush()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in folder.glob("*.npz")} == {0o600}
    assert is_spool(folder)
    spool.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_loses_half_a_minute_at_most(tmp_path: Path) -> None:
    now = [0.0]
    spool = Spool(tmp_path / "m", create=True, clock=lambda: now[0])
    for k, block in enumerate(blocks(office(1000), 10)):
        now[0] = float(k)
        spool.add(block)
    killed = spool  # never closed; its lock goes with its process
    killed._lock.close()
    again = Spool(tmp_path / "m")
    assert again.connections >= 1000 - 10 * 31
    assert sum(len(w) for w in again.windows()) == again.connections


def test_a_silence_does_not_count_as_learned(tmp_path: Path) -> None:
    windows = office(1000)
    late = windows.connections.end.copy()
    late[500:] += 86400.0
    spool = Spool(tmp_path / "m", create=True)
    for block in blocks(replace(windows, connections=replace(windows.connections, end=late)), 50):
        spool.add(block)
    assert spool.seen <= np.ptp(late[:500]) + np.ptp(late[500:]) + 601
    whole = Spool(tmp_path / "n", create=True)
    whole.add(replace(windows, connections=replace(windows.connections, end=late)))
    assert abs(whole.seen - spool.seen) < 60  # however it is batched


def test_the_latest_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "m", most=1000, create=True)
    windows = office(3000)
    for block in blocks(windows, 100):
        spool.add(block)
        spool.flush()
    assert (spool.connections, spool.dropped) == (3000, 2000)
    assert equal(concat(list(spool.windows())), take(windows, np.arange(2000, 3000)))
    assert len(list((tmp_path / "m").glob("*.npz"))) == 10


def test_early_windows_are_left_out(tmp_path: Path) -> None:
    windows = office(100)
    stage = windows.connections.stage.copy()
    stage[::2] = Stage.EARLY
    spool = Spool(tmp_path / "m", create=True)
    spool.add(replace(windows, connections=replace(windows.connections, stage=stage)))
    assert spool.connections == 50


def test_damage_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "m", create=True)
    for block in blocks(office(300), 100):
        spool.add(block)
        spool.flush()
    (tmp_path / "m" / "00000002.npz").write_bytes(b"PK\x03\x04 half")
    (tmp_path / "m" / "00000003.npz").unlink()
    assert [len(w) for w in spool.windows()] == [100]
    assert spool.counts.by_reason["learning_block_damaged"] == 2


def test_faults_are_said_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"holds no about\.json of a learning phase"):
        Spool(tmp_path)
    spool = Spool(tmp_path / "m", create=True)
    with pytest.raises(SpoolError, match="another `cmdana train` uses it"):
        Spool(tmp_path / "m", create=True)
    spool.close()
    about = tmp_path / "m" / "about.json"
    about.write_text('{"format": 99}')
    with pytest.raises(SpoolError, match="found format 99, expected 1"):
        Spool(tmp_path / "m")
    about.write_text("{")
    with pytest.raises(SpoolError, match="is damaged"):
        Spool(tmp_path / "m")
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="cannot be made"):
        Spool(tmp_path / "file" / "m", create=True)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


FAULTS = {
    "rows that own what is not there": lambda a: a["packet_start"].__setitem__(-1, 10**9),
    "rows that own less than nothing": lambda a: a["packet_start"].__setitem__(1, -5),
    "starts of another type": lambda a: a.update(log_start=a["log_start"].astype(np.float64)),
    "a column too short": lambda a: a.update({"connections.orig_p": a["connections.orig_p"][:-1]}),
    "a column of another type": lambda a: a.update(
        {"connections.ts": a["connections.ts"].astype(np.float32)}
    ),
    "addresses of another width": lambda a: a.update({"connections.orig_h": a["connections.orig_h"][:, :4]}),
    "a time that is none": lambda a: a["connections.end"].__setitem__(0, np.nan),
    "a state that Zeek does not know": lambda a: a["connections.conn_state"].__setitem__(0, 100),
    "logs that are no JSON": lambda a: a.update(logs=np.frombuffer(b"[[", np.uint8)),
    "logs nested deeply": lambda a: a.update(logs=np.frombuffer(b"[" * 50_000, np.uint8)),
    "logs that are no entries": lambda a: a.update(logs=np.frombuffer(b"[[1, 2, 3, 4]]", np.uint8)),
    "a column missing": lambda a: a.pop("packets.payload"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_block_that_does_not_hold_together_is_counted_and_passed_over(tmp_path: Path, fault: str) -> None:
    spool = Spool(tmp_path / "m.learning", create=True)
    spool.add(office(40))
    spool.close()
    path = tmp_path / "m.learning" / "00000001.npz"
    arrays = arrays_of(path)
    FAULTS[fault](arrays)
    np.savez_compressed(path, **arrays)
    spool = Spool(tmp_path / "m.learning")
    assert list(spool.windows()) == []
    assert spool.counts.by_reason["learning_block_damaged"] == 1


def test_a_block_that_unpacks_to_more_than_any_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "m.learning", create=True)
    spool.add(office(40))
    spool.flush()
    monkeypatch.setattr("cmdana_plugin.training.spool._MAX_BLOCK_BYTES", 1000)
    assert list(spool.windows()) == []
    assert spool.counts.by_reason["learning_block_damaged"] == 1


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        ('"connections": 40', '"connections": -1'),
        ('"seen": ', '"seen": 1e999, "x": '),
        ('"blocks": {', '"blocks": ['),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, found: str, instead: str) -> None:
    folder = tmp_path / "m.learning"
    spool = Spool(folder, create=True)
    spool.add(office(40))
    spool.close()
    about = folder / "about.json"
    assert found in about.read_text()
    about.write_text(about.read_text().replace(found, instead))
    with pytest.raises(SpoolError, match="damaged"):
        Spool(folder)
