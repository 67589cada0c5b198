"""Python's cycle collector is left as it is, but in processes of our own that extract: there it looks seldom."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from made_windows import block_of, office

from cmdana_plugin.config import Config
from cmdana_plugin.replay.embedded import Summary, extract
from cmdana_plugin.replay.extraction_process import ChildProcess, Part, lock_in
from cmdana_plugin.replay.gc_policy import settled_for_extraction

REFERENCE = Path(__file__).parents[3] / "cmdana_plugin" / "models" / "reference.pcap.gz"


def test_the_process_that_extracts_looks_seldom_and_never_at_what_was_loaded() -> None:
    def work() -> Iterator[Part]:
        block = block_of(office(3))
        lock_in()
        yield block, {"threshold": gc.get_threshold()[0], "frozen": gc.get_freeze_count()}, []

    before = gc.get_threshold(), gc.get_freeze_count()
    ((_, numbers, _),) = ChildProcess(work)
    assert numbers["threshold"] > before[0][0]
    assert numbers["frozen"] > 10_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_extraction_in_a_process_of_somebody_else_changes_nothing_of_it() -> None:
    before = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    blocks = list(extract([REFERENCE], Config(), Summary([])))
    assert sum(map(len, blocks)) > 3
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before


def test_a_command_that_extracts_looks_seldom_and_leaves_all_as_it_was() -> None:
    gc.unfreeze()  # what another test may have left frozen
    before = gc.get_threshold()
    with settled_for_extraction():
        assert gc.get_threshold()[0] > before[0]
        assert gc.get_freeze_count() > 10_000
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_an_endpoint_has_the_pages_of_its_tables_before_it_begins() -> None:
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from cmdana_plugin.replay.gc_policy import settle_for_live\n"
        "def held(): return 4096 * int(Path('/proc/self/statm').read_text().split()[1])\n"
        "class Table:\n"
        "    def __init__(self): self.rows = np.zeros((4096, 4096)); self.rows[5, 5] = 3.0\n"
        "table, before = Table(), held()\n"
        "settle_for_live()\n"
        "assert held() - before > table.rows.nbytes - 2**22, held() - before\n"
        "assert table.rows.sum() == 3.0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
