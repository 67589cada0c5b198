"""`replay --engine zeek` with a stand-in for Zeek, which a machine may lack: what it tells is what is summed up."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from cmdana_plugin.config import Config, Zeek
from cmdana_plugin.endpoint.zeek_replay import replay_through_zeek

sys.path.insert(0, str(Path(__file__).parents[1] / "zeek"))
from attack import write
from endpoint import judge

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STAND_IN = """#!{python}
import os, sys
sys.path[:0] = {path!r}
from dataclasses import replace
from peers import WebSocketPeer, instance_of, running, wait_for
from test_live_transports import observations

settings = dict(word.split("=", 1) for word in sys.argv if "=" in word)
peer = WebSocketPeer(secret=bytes.fromhex(os.environ["CMDANA_SECRET"]))
peer.port = int(settings["CMDANA::websocket_port"].partition("/")[0])
with running(peer):
    told = observations(instance_of(peer), 1, ["C1", "C2", "C3"], 0, last=True)
    peer.publish(replace(told, topic=settings["CMDANA::topic_observations"]))
    wait_for(lambda: any('"finished":"run-1"' in e.payload for e in peer.received), "the end to be answered")
    {said}  # before the peer stops, to which cmdana may come back in the meantime
"""
READ = 'print("cmdana: read 1234 frames of 567890 bytes")'
LIE = f"print('cmdana: read {'9' * 5000} frames of 1 bytes')"


def stand_in(folder: Path, said: str) -> Config:
    program = folder / "zeek"
    path = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "zeek")]
    program.write_text(STAND_IN.format(python=sys.executable, path=path, said=said))
    program.chmod(0o700)
    return Config(zeek=Zeek(path=str(program)))


@pytest.mark.parametrize(("said", "captures", "frames"), [(READ, 1, 1234), (READ, 2, 2468), (LIE, 1, 0)])
def test_frames_and_all_that_is_summed_up_are_told(
    tmp_path: Path, said: str, captures: int, frames: int
) -> None:
    config = stand_in(tmp_path, said)
    names = [tmp_path / f"{k}.pcap" for k in range(captures)]
    for name in names:
        write(name)
    summary = replay_through_zeek(names, tmp_path / "out", config, lambda: judge(config))
    assert (summary.frames, summary.bytes) == (frames, frames // 1234 * 567_890)
    assert summary.connections == 3 * captures
    assert summary.verdicts == Counter(anomalous=3 * captures)
    assert summary.notices[0].note == "CMDANA::Anomalous_Connection"
    assert (summary.first, summary.last) == (100.5, 101.5)
    assert summary.model == "stand-in 1"
    assert 0 < summary.threshold < 1
