"""Has everything compiled that is compiled at first use, so that nobody waits for it: for the end of an installation.

Each road is gone once with the small capture that comes with cmdana: what is compiled then is what commands use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module, resources
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from cmdana_plugin import compile_cache as compiled
from cmdana_plugin.cli.judging import have_compiled, load_judge
from feature_extractors.compiled import wake

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge
    from feature_extractors import Windows
    from feature_extractors.features import Encoded

_CAPTURE: Final = "reference.pcap.gz"
_COPIES: Final = 24  # of its connections, enough to learn from
_HOSTS: Final = 10_000  # twice what a table holds at first, at least
_STEP_SECONDS: Final = 120.0  # between copies


def compile_everything(tell: Callable[[str], None]) -> int:
    """The number of functions kept then; `tell` is told what is compiled next."""
    wake()
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
        _crowd(capture)
        if find_spec("torch") is not None:  # who has it not trains nothing
            tell("training")
            _learned(capture)
    tell("what is left")
    count = compiled.keep()
    import_module("cmdana_plugin.cli.app").chosen([])
    import_module("cmdana_plugin.analyst.terminal")
    compiled.keep_bytecode()
    return count


def _judged(capture: Path, place: Path) -> None:
    from cmdana_plugin.config import Config, Logs
    from cmdana_plugin.replay import embedded

    for kind in ("tsv", "json"):
        out = place / kind
        out.mkdir()
        settings = Config(logs=Logs.model_validate({"streams": "all", "format": kind}))
        embedded.replay([capture], out, settings, partial(_ready_judge, settings))


def _ready_judge(settings: Config, spare: Callable[[], bool]) -> Judge:
    """A judge, once all that one needs is compiled, while extraction is in a process of its own."""
    have_compiled(load_judge(settings))
    return load_judge(settings, None, spare)


def _read_back(folder: Path) -> None:
    from feature_extractors.features import encoded, load_schema
    from feature_extractors.readers import ZeekLogs

    for windows in ZeekLogs([folder]):
        encoded(windows, load_schema())
    _long(folder / "conn.log")


def _long(log: Path) -> None:
    """A log that is long enough to be read by compiled code."""
    from feature_extractors.readers import COMPILED_FROM, ConnRows, PassedOver

    lines = log.read_bytes().splitlines(keepends=True)
    rows = b"".join(line for line in lines if not line.startswith(b"#"))
    log.write_bytes(b"".join(lines) + rows * (2 + COMPILED_FROM // len(rows)))
    for _ in ConnRows(log, PassedOver()).blocks():
        pass


def _crowd(capture: Path) -> None:
    """So many hosts that tables grow, and evidence against some of them."""
    from cmdana_plugin.config import Config
    from cmdana_plugin.replay import Summary, extract
    from feature_extractors.features import encoded, load_schema

    some = next(iter(extract([capture], Config(), Summary([]))))
    hosts, schema = np.random.default_rng(0), load_schema()

    def blocks() -> Iterator[Encoded]:
        for _ in range(1 + _HOSTS // len(some)):
            orig = hosts.integers(0, 256, some.connections.orig_h.shape, np.uint8)
            yield encoded(replace(some, connections=replace(some.connections, orig_h=orig)), schema)

    for _ in load_judge(Config()).judged(blocks()):
        pass


def _learned(capture: Path) -> None:
    from cmdana_plugin.behaviour import Bounds, Streams, flows_of
    from cmdana_plugin.detector import CROSS_MODAL, DEPENDENCY
    from cmdana_plugin.training import Recipe, Recording, train
    from feature_extractors import concat
    from feature_extractors.features import encoded, load_schema

    windows = concat(list(_copies(capture)))
    streams = Streams(Bounds())
    streams.receive(flows_of(encoded(windows, load_schema()), 0))
    streams.matter(np.ones(1, np.uint64), np.zeros(1))
    for detector in (DEPENDENCY, CROSS_MODAL):
        train([Recording("small", windows)], recipe=Recipe(epochs=1, detector=detector))


def _copies(capture: Path) -> Iterator[Windows]:
    from cmdana_plugin.config import Config
    from cmdana_plugin.replay import Summary, extract

    for windows in extract([capture], Config(), Summary([])):
        for k in range(_COPIES):
            later = k * _STEP_SECONDS
            c = windows.connections
            yield replace(windows, connections=replace(c, ts=c.ts + later, end=c.end + later))
