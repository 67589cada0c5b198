"""Has everything compiled that is compiled at first use, so that nobody waits for it: for the end of an installation.

Each road is gone once with the small capture that comes with cmdana: what is compiled then is what commands use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cmdana_plugin import compile_cache as compiled
from cmdana_plugin.cli.judging import load_judge

if TYPE_CHECKING:
    from feature_extractors import Windows

_CAPTURE: Final = "reference.pcap.gz"
_COPIES: Final = 24  # of its connections, enough to learn from
_STEP_SECONDS: Final = 120.0  # between copies


def compile_everything(tell: Callable[[str], None]) -> int:
    """The number of functions kept then; `tell` is told what is compiled next."""
    with (
        resources.as_file(resources.files("cmdana_plugin") / "models" / _CAPTURE) as capture,
        tempfile.TemporaryDirectory() as place,
        redirect_stdout(StringIO()),
    ):
        tell("extraction, detector, logs")
        _judged(capture, Path(place))
        tell("readers of logs")
        for folder in sorted(Path(place).iterdir()):
            _read_back(folder)
        tell("training")
        _learned(capture)
    return compiled.kept()


def _judged(capture: Path, place: Path) -> None:
    from cmdana_plugin.config import Config, Logs
    from cmdana_plugin.replay import embedded

    for kind in ("tsv", "json"):
        out = place / kind
        out.mkdir()
        settings = Config(logs=Logs.model_validate({"streams": "all", "format": kind}))
        embedded.replay([capture], out, settings, lambda spare, s=settings: load_judge(s, None, spare))  # type: ignore[misc]


def _read_back(folder: Path) -> None:
    from cmdana_plugin.config import Config
    from cmdana_plugin.training import Learned, recordings

    for _ in recordings([str(folder)], Config(), {}, Learned("")):
        pass


def _learned(capture: Path) -> None:
    from cmdana_plugin.behaviour import Bounds, Streams, flows_of
    from cmdana_plugin.training import Recipe, Recording, train
    from feature_extractors import concat
    from feature_extractors.features import encoded, load_schema

    windows = concat(list(_copies(capture)))
    Streams(Bounds()).receive(flows_of(encoded(windows, load_schema()), 0))
    train([Recording("small", windows)], recipe=Recipe(epochs=1))


def _copies(capture: Path) -> Iterator[Windows]:
    from cmdana_plugin.config import Config
    from cmdana_plugin.replay import Summary, extract

    for windows in extract([capture], Config(), Summary([])):
        for k in range(_COPIES):
            later = k * _STEP_SECONDS
            c = windows.connections
            yield replace(windows, connections=replace(c, ts=c.ts + later, end=c.end + later))
