"""Beside a real Zeek `cmdana run` is killed again and again, its snapshot cut, and so is Zeek."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rig import Program, Zeek, can_make_namespaces, namespace, secret_in, send, wait_for
from test_live import RATE, account, end, finals, more_verdicts, settle

from cmdana_plugin import statefile

pytestmark = [
    pytest.mark.zeek,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("zeek") is None, reason="needs a real Zeek on the PATH"),
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root for a network namespace"),
]
TIMES = int(os.environ.get("CMDANA_KILLS", "6"))
ZEEKS = 0.15  # share of the kills that hit Zeek
CUT = 0.2  # share of the detector's starts before which its snapshot is cut


@pytest.fixture
def ns() -> Iterator[str]:
    with namespace() as name:
        yield name


class Run(Program):
    """`cmdana run` as it is, with the shipped model and a state that is written every second."""

    def __init__(self, ns: str, folder: Path, more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugin.toml").write_text(
            f'[endpoint]\nreconnect_max = 1.0\nsecret_file = "{secret_in(folder)}"\n'
            f'[model]\nstate_key = "{folder / "key"}"\n[state]\nfolder = "{folder / "state"}"\nseconds = 1.0\n{more}'
        )
        words = ("-m", "cmdana_plugin.cli", "run", "--config", folder / "plugin.toml")
        super().__init__(ns, folder, "endpoint", sys.executable, *words)

    @property
    def snapshot(self) -> Path:
        return self.folder / "state" / f"{statefile.NAME}{statefile.SUFFIX}"


def is_welcome(program: Run, before: int) -> bool:
    """Since it had said so much; a detector that ended by itself fails at once."""
    assert program.process.poll() is None, program.said()[before:]
    return "welcomes us" in program.said()[before:]


def ended(zeek: Zeek) -> int:
    """Connections, once no more of them end."""
    seen = -1
    while seen != (now := len(zeek.rows("conn"))):
        seen = now
        time.sleep(4.0)
    return seen


@pytest.mark.timeout(3600)
def test_whoever_is_killed_at_whatever_moment_every_connection_is_judged_or_counted(
    ns: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(20)
    zeeks = [Zeek(ns, tmp_path / "zeek-0")]
    endpoint = Run(ns, tmp_path / "endpoint")
    try:
        wait_for(lambda: is_welcome(endpoint, 0), "the handshake")
        sender = send(ns, "dns", str(RATE), "3600", "0")
        more_verdicts(zeeks[-1], "the first verdicts")
        for _ in range(TIMES):
            time.sleep(float(rng.uniform(0.0, 2.0)))
            before = len(endpoint.said())
            if rng.random() < ZEEKS:
                zeeks[-1].stop(signal.SIGKILL)
                zeeks.append(Zeek(ns, tmp_path / f"zeek-{len(zeeks)}"))
            else:
                endpoint.stop(signal.SIGKILL)
                if rng.random() < CUT and endpoint.snapshot.exists():
                    whole = endpoint.snapshot.read_bytes()
                    endpoint.snapshot.write_bytes(whole[: len(whole) // 2])
                endpoint = Run(ns, tmp_path / "endpoint")
            wait_for(partial(is_welcome, endpoint, before), "the handshake")
        more_verdicts(zeeks[-1], "verdicts of the last")
        end(sender)
        last = zeeks.pop()
        n = ended(last)
        tally = settle(last, n)
        assert endpoint.stop() == 0
        account(last, n, tally)
        for killed in zeeks:  # of these nobody has the count; what is in their logs is there once
            judged = finals(killed)
            assert len(judged) == len(set(judged))
            assert set(judged) <= {r["uid"] for r in killed.rows("conn")}
    finally:
        endpoint.stop(signal.SIGKILL)
        for program in zeeks:
            program.stop(signal.SIGKILL)
    assert "Traceback" not in endpoint.said()
