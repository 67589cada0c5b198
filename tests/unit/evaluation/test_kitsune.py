"""Kitsune in our own words: sums that fade as in the paper's tables, autoencoders that learn a packet at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.kitsune import (
    CHANNEL,
    EACH,
    FEATURES,
    LARGEST,
    RATE,
    WINDOWS,
    L,
    described,
    groups_of,
    new_ensemble,
    passed,
    scores,
)
from feature_extractors.frames import FrameBlock

_TIMES = (0.0, 0.1, 0.15, 0.9, 2.0, 2.4, 7.0)


def udp(source: int, target: int, port: int, size: int) -> bytes:
    """An Ethernet frame of UDP from port 5353 of 10.0.0.`source` to `port` of 10.0.0.`target`, of `size` bytes."""
    ends = bytes([2, 0, 0, 0, 0, target, 2, 0, 0, 0, 0, source, 8, 0])
    ip = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, source, 10, 0, 0, target])
    return (ends + ip + (5353).to_bytes(2, "big") + port.to_bytes(2, "big")).ljust(size, b"\0")


def block(frames: list[bytes], times: NDArray[np.float64]) -> FrameBlock:
    sizes = np.array([len(f) for f in frames], np.int32)
    start = np.cumsum([0, *sizes[:-1]]).astype(np.int64)
    data = np.frombuffer(b"".join(frames), np.uint8)
    return FrameBlock(data, start, sizes, sizes, times, np.ones(len(frames), np.int32))


def table(frames: list[bytes], times: tuple[float, ...] | NDArray[np.float64]) -> NDArray[np.float64]:
    (out,) = described([block(frames, np.array(times))])
    return out


def by_definition(
    x: list[float], times: tuple[float, ...], window: float, now: float
) -> tuple[float, float, float]:
    """Weight, mean and spread of a stream, each value with its own weight."""
    weight = np.array([2.0 ** (-window * (now - t)) for t in times])
    mean = float((weight * x).sum() / weight.sum())
    return (
        float(weight.sum()),
        mean,
        float(np.sqrt((weight * (np.array(x) - mean) ** 2).sum() / weight.sum())),
    )


def test_each_stream_s_weight_mean_and_spread_are_those_of_the_paper() -> None:
    sizes = [100, 300, 60, 60, 900, 100, 420]
    out = table([udp(1, 2, 53, size) for size in sizes], _TIMES)
    assert out.shape == (7, FEATURES)
    for k, window in enumerate(WINDOWS.tolist()):
        expected = by_definition(list(map(float, sizes)), _TIMES, window, _TIMES[-1])
        for column in (0, 3, 6, 13):  # source, host, channel, socket
            assert np.allclose(out[-1, k * EACH + column : k * EACH + column + 3], expected)
        pauses = [0.0, *np.diff(_TIMES).tolist()]
        assert np.allclose(
            out[-1, k * EACH + 20 : k * EACH + 23], by_definition(pauses, _TIMES, window, _TIMES[-1])
        )


def test_who_is_told_apart_by_which_stream() -> None:
    frames = [
        udp(1, 2, 53, 100),
        udp(1, 3, 53, 100),
        udp(1, 2, 80, 100),
        udp(4, 2, 53, 100),
        udp(1, 2, 53, 100),
    ]
    out = table(frames, np.zeros(5))
    # packets so far of the last one's source, host, channel and socket
    assert [out[-1, column] for column in (0, 3, 6, 13)] == [4.0, 4.0, 3.0, 2.0]


def test_both_directions_of_a_channel_are_told_together() -> None:
    there, back = [100.0, 200.0, 150.0], [1000.0, 400.0, 800.0]
    frames = [udp(*way, 5353, int(x)) for pair in zip(there, back, strict=True) for way, x in
              (((1, 2), pair[0]), ((2, 1), pair[1]))]  # fmt: skip
    out = table(frames, np.zeros(6))[-1]
    mean_a, mean_b, spread_a, spread_b = np.mean(back), np.mean(there), np.std(back), np.std(there)
    apart = {0: [x - np.mean(there[: i + 1]) for i, x in enumerate(there)],
             1: [x - np.mean(back[: i + 1]) for i, x in enumerate(back)]}  # fmt: skip
    # Each packet but the first of all adds what both were apart last.
    total = sum(apart[1][i] * apart[0][i] for i in range(3)) + sum(
        apart[0][i] * apart[1][i - 1] for i in (1, 2)
    )
    covariance = total / 6.0
    for k in range(L):
        found = out[k * EACH + 3 * CHANNEL + 3 : k * EACH + 3 * CHANNEL + 7]
        assert np.allclose(found, [np.hypot(mean_a, mean_b), np.hypot(spread_a**2, spread_b**2), covariance,
                                   covariance / (spread_a * spread_b)])  # fmt: skip


def test_a_table_that_grows_forgets_nothing() -> None:
    n = 4000  # sockets, twice what there is room for at first
    frames = [udp(1, 2, 1000 + i, 100) for i in range(n)] + [udp(1, 2, 1000 + i, 100) for i in range(n)]
    out = table(frames, np.zeros(2 * n))
    assert (out[:n, 13] == 1.0).all()
    assert (out[n:, 13] == 2.0).all()


def test_columns_that_go_together_are_grouped_and_no_group_is_large() -> None:
    rng = np.random.default_rng(1)
    three = rng.normal(size=(500, 3))
    made = np.repeat(three, [8, 8, 14], axis=1) + 0.1 * rng.normal(size=(500, 30))
    groups = groups_of(made)
    assert sorted(i for group in groups for i in group) == list(range(30))
    assert max(map(len, groups)) <= LARGEST
    assert sorted(range(8)) in map(sorted, groups)


def test_an_ensemble_learns_a_row_at_a_time_and_finds_odd_what_it_has_not_seen() -> None:
    rng = np.random.default_rng(2)
    hidden = rng.uniform(size=(4000, 2))
    usual = np.concatenate([hidden, 1.0 - hidden, hidden**2], axis=1)
    ensemble = new_ensemble([[0, 2, 4], [1, 3, 5]])
    learning = passed(ensemble, usual[:3000], True)
    before = ensemble.weights.copy()
    later = passed(ensemble, usual[3000:], False)
    assert np.array_equal(before, ensemble.weights)  # judging teaches nothing
    assert later.mean() < learning[:100].mean()
    odd = usual[3000:].copy()
    odd[:, 2] = odd[:, 0]
    assert np.median(passed(ensemble, odd, False)) > np.quantile(later, 0.9)


def test_a_step_goes_down_the_slope_of_half_the_square() -> None:
    x = np.array([0.2, 0.9, 0.4])
    one = new_ensemble([[0, 1, 2]])
    one.low[:], one.high[:] = 0.0, 1.0
    parts = [part[0].copy() for part in (one.weights, one.hidden_bias, one.bias)]

    def half_square(
        weights: NDArray[np.float64], hidden: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> float:
        inner = 1.0 / (1.0 + np.exp(-(x @ weights + hidden)))
        outer = 1.0 / (1.0 + np.exp(-(inner @ weights.T + bias)))
        return float(((outer - x) ** 2).sum() / 2.0)

    slopes = [np.zeros_like(part) for part in parts]
    for part, slope in zip(parts, slopes, strict=True):
        for place in np.ndindex(part.shape):
            was = part[place]
            part[place] = was + 1e-6
            above = half_square(*parts)
            part[place] = was - 1e-6
            slope[place] = (above - half_square(*parts)) / 2e-6
            part[place] = was
    passed(one, x[None], True)
    after = (one.weights[0], one.hidden_bias[0], one.bias[0])
    for part, slope, now in zip(parts, slopes, after, strict=True):
        assert np.allclose(now, part - RATE * slope, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_scores_do_not_depend_on_blocks_and_a_flood_is_odd(size: int) -> None:
    rng = np.random.default_rng(3)
    usual = [udp(1 + i % 3, 9, 53, int(rng.integers(80, 120))) for i in range(1500)]
    flood = [udp(7, 9, 2000 + i, 1400) for i in range(300)]
    frames, times = usual + flood, np.concatenate([np.arange(1500) * 0.1, 150.0 + np.arange(300) * 1e-4])
    whole = scores([block(frames, times)], 200, 800)
    assert len(whole) == 800
    assert np.median(whole[500:]) > np.quantile(whole[:500], 0.99)
    parts = [block(frames[i : i + size], times[i : i + size]) for i in range(0, len(frames), size)]
    assert np.allclose(scores(parts, 200, 800), whole)


def test_frames_that_are_cut_or_of_no_known_kind_are_described_too() -> None:
    frames = [b"", b"\x45", udp(1, 2, 53, 42)[:20], bytes(14), udp(1, 2, 53, 60)[14:], bytes([0x60]) * 48]
    out = table(frames, np.arange(6.0))
    assert np.isfinite(out).all()
