"""What is compiled is loaded before a process is locked in: traffic of any kind asks for nothing more."""

import gc
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_captures import frames, link_layers
from numba.core.dispatcher import Dispatcher

from feature_extractors.compiled import ready
from feature_extractors.extract import Extractor
from feature_extractors.features.encoding import encoded
from feature_extractors.features.schema import load_schema
from feature_extractors.frames import Counts
from feature_extractors.readers.gather import RawFrame, gather
from feature_extractors.warm import warm_up


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded of what was kept, as it is."""
    done: list[str] = []
    really = ready.loaded

    def loaded(function: Callable[..., Any], number: int) -> Any:
        done.append(ready.name_of(function))
        return really(function, number)

    monkeypatch.setattr(ready, "loaded", loaded)
    return done


def compiled() -> set[tuple[str, str]]:
    gc.unfreeze()  # an endpoint that another test ran has put what was loaded by then out of sight
    # By its type: a weak proxy of something that is gone cannot be asked for its class.
    found = [d for d in gc.get_objects() if issubclass(type(d), Dispatcher)]
    return {(d.py_func.__qualname__, str(s)) for d in found for s in d.signatures}


def said(payload: bytes) -> bytes:
    """A frame whose originator says this over TCP, to port 99."""
    packet = struct.pack(">BBHHHBBHII", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0, 0xC0000201, 0xC0000202)
    return (
        bytes(12)
        + b"\x08\0"
        + packet
        + struct.pack(">HHIIBBHHH", 9999, 99, 1, 1, 0x50, 24, 9, 0, 0)
        + payload
    )


def test_traffic_of_any_kind_needs_nothing_compiled_after_the_warm_up(loads: list[str]) -> None:
    warm_up()
    before, missed, loaded = compiled(), list(ready.missed_functions), list(loads)
    assert before or ready.there()
    extractor, schema = Extractor(), load_schema()
    made = [RawFrame(f.data, f.length, f.ts, f.link) for f in frames(50)]
    made += [
        RawFrame(data, len(data), 1e9 + i, link) for i, (link, data) in enumerate(link_layers().values())
    ]
    made += [
        RawFrame(data, len(data), 1.5e9, 1)
        for data in map(said, (b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1" + bytes(60)))
    ]
    rng = np.random.default_rng(1)
    made += [RawFrame(bytes(rng.integers(0, 256, 80, np.uint8)), 80, 2e9 + i, 1) for i in range(2000)]
    windows = [w for block in gather(made, Counts()) for w in extractor.parts(block)] + list(
        extractor.ending()
    )
    assert sum(map(len, windows)) > 10
    for some in windows:
        encoded(some, schema)
    assert (compiled(), ready.missed_functions, loads) == (before, missed, loaded)
