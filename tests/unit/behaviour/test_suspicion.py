"""Whom behaviour suspects: by pieces of the stream, faded with time, bounded."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cmdana_plugin.behaviour import suspicion
from cmdana_plugin.behaviour.suspicion import PIECE, Suspicion


def heard(s: Suspicion, orig: NDArray[np.uint64], end: NDArray[np.float64], p: NDArray[np.float64]) -> None:
    begin = 0
    while begin < len(orig):
        stop = min(begin + s.left(), len(orig))
        s.hear(orig[begin:stop], end[begin:stop], p[begin:stop])
        begin = stop


def stream(n: int, odd: int) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]:
    orig, p = np.arange(n, dtype=np.uint64) % np.uint64(50), np.full(n, 0.5)
    orig[:odd], p[:odd] = 777, 1e-4
    return orig, np.arange(n, dtype=np.float64), p


def test_a_host_is_suspected_from_the_next_piece_on_and_until_it_has_faded() -> None:
    s = Suspicion()
    orig, end, p = stream(PIECE, 20)
    heard(s, orig[:-1], end[:-1], p[:-1])
    assert not s.of(orig).any()
    heard(s, orig[-1:], end[-1:], p[-1:])
    assert s.of(orig).sum() == 20
    hosts, held = s.suspects()
    assert hosts.tolist() == [777]
    assert held[0] > 0
    later = stream(PIECE, 0)
    heard(s, later[0], later[1] + 6 * 3600.0, later[2])
    assert not s.of(orig).any()
    hosts, held = s.suspects()
    assert (hosts.tolist(), held.tolist()) == ([777], [0.0])


@pytest.mark.parametrize("size", [1, 37, 256, 1000])
def test_it_does_not_depend_on_how_the_stream_is_cut(size: int) -> None:
    orig, end, p = stream(1000, 300)
    whole, cut = Suspicion(), Suspicion()
    heard(whole, orig, end, p)
    for begin in range(0, 1000, size):
        heard(cut, orig[begin : begin + size], end[begin : begin + size], p[begin : begin + size])
    for name, values in whole.state().items():
        assert np.array_equal(values, cut.state()[name]), name


def test_it_goes_on_from_its_state() -> None:
    orig, end, p = stream(1000, 300)
    whole, first, second = Suspicion(), Suspicion(), Suspicion()
    heard(whole, orig, end, p)
    heard(first, orig[:300], end[:300], p[:300])
    second.restore(first.state())
    heard(second, orig[300:], end[300:], p[300:])
    assert whole.suspects()[1].tolist() == second.suspects()[1].tolist()


def test_a_flood_of_sources_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspicion, "_MOST", 64)
    s, n = Suspicion(), 4 * PIECE
    orig = np.arange(n, dtype=np.uint64)
    p = np.full(n, 1e-6)
    orig[:40], p[:40] = 777, 1e-9
    heard(s, orig, np.arange(n, dtype=np.float64), p)
    assert len(s.state()["hosts"]) <= 64
    assert 777 in s.suspects()[0]
