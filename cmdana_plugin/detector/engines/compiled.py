"""The network on a processor, by our own compiled kernels: a tenth of a second to start, where torch takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.detector.engines import kernels
from cmdana_plugin.detector.engines.engine import Before, Floats32, Outcome, Rows
from cmdana_plugin.detector.engines.packing import packed
from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, MODALITIES, PACKET, Shape
from cmdana_plugin.detector.inputs import Prepared

_BLOCK: Final = 1024  # rows of one job at most


class Compiled:
    """An `Engine`; what it finds of a row depends on that row alone, whatever rows come with it."""

    settle_thread: Callable[[], object] | None = None

    def __init__(self, network: Mapping[str, NDArray[np.float32]], shape: Shape) -> None:
        self._packed = packed(network, shape)
        self._log_half_life = np.array(network["log_half_life"], np.float32)

    def rate(self) -> Floats32:
        out: Floats32 = np.float32(0.6931472) * np.exp(-self._log_half_life)
        return out

    def blocks(self, n: int) -> Iterator[slice]:
        for begin in range(0, n, _BLOCK):
            yield slice(begin, min(begin + _BLOCK, n))

    def encoding(self, prepared: Prepared, rows: list[Rows], out: Floats32) -> Iterator[Callable[[], None]]:
        f, p = prepared.features, self._packed
        for part in _parts(rows[CONNECTION]):
            yield partial(
                kernels.encode_connections,
                prepared.codes, prepared.values, part, p.code, p.slope, p.pools[CONNECTION], out, CONNECTION,
            )  # fmt: skip
        for part in _parts(rows[PACKET]):
            yield partial(
                kernels.encode_packets,
                f.packets, f.packet_start, part, p.tokens[PACKET], p.pools[PACKET], out, PACKET,
            )  # fmt: skip
        for part in _parts(rows[LOG]):
            yield partial(
                kernels.encode_logs, f.log_tokens, f.log_start, part, p.tokens[LOG], p.pools[LOG], out, LOG
            )

    def update(
        self,
        latents: Floats32,
        present: NDArray[np.bool_],
        rows: slice,
        out: tuple[Floats32, Floats32, Floats32],
    ) -> None:
        kernels.memory_updates(latents, present, rows.start, rows.stop, self._packed.update, *out)

    def state(self, prepared: Prepared, before: Before, rows: Rows, out: Outcome) -> None:
        kernels.states(
            prepared.state, prepared.known, before.memory, before.ring, before.ring_used, prepared.present,
            rows, self._packed.state, out.state, out.gate,
        )  # fmt: skip
        kernels.look_ahead(out.state, prepared.targets[CONNECTION], rows, self._packed.ahead, out.ahead)

    def predicting(
        self, prepared: Prepared, latents: Floats32, rows: Rows, out: Outcome
    ) -> Iterator[Callable[[], None]]:
        for m in range(MODALITIES):
            none = np.empty((0, prepared.targets[m].shape[1], 1), np.float32)
            chance = none if out.chance is None else out.chance[m]
            for part in _parts(rows[prepared.present[rows, m]]):
                yield partial(
                    kernels.predict,
                    m, latents, out.state, out.gate, prepared.present, prepared.targets[m], part,
                    self._packed.predictors[m], out.residual, out.surprise[m], chance,
                )  # fmt: skip


def _parts(rows: Rows) -> Iterator[Rows]:
    for begin in range(0, len(rows), _BLOCK):
        yield rows[begin : begin + _BLOCK]
