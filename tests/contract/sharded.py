"""`cmdana run` as it is, but for the detector, a stand-in of tests/zeek: `sharded.py run --shard 1/2 ...`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmdana_plugin.cli import judging
from cmdana_plugin.cli.app import entry
from cmdana_plugin.config import Config
from cmdana_plugin.decision.judge import Judge

sys.path.insert(0, str(Path(__file__).parents[1] / "zeek"))
from endpoint import judge

_OF_CMDANA = judging._command


def _load(config: Config, *_: object) -> Judge:
    return judge(config)


def _load_with_origin(config: Config, *_: object) -> tuple[Judge, Mapping[str, str]]:
    return judge(config), {"schema": "s", "behaviour": "b", "key": "k", "network": "n"}


def _command(*words: Any) -> list[str]:
    return [sys.executable, __file__, *_OF_CMDANA(*words)[3:]]


if __name__ == "__main__":
    judging.load_judge = _load  # type: ignore[assignment]
    judging.load_with_origin = _load_with_origin  # type: ignore[assignment]
    judging._command = _command
    entry()
