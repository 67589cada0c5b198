"""The cross-modal network where its memory is: all of a chunk's scoring on a GPU.

Which slot an event has is decided in order on the processor (`Tables.counts`); the rest is on the device. A chunk is
padded to one of a few sizes: on a GPU one CUDA graph for each, fed from pinned memory on a stream of its own while the
chunk before is computed. Products are in bfloat16 (autocast); memory, rings, times and sums are as in `history`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector.engines.engine import Floats32
from cmdana_plugin.detector.engines.padding import pad_logs, pad_packets
from cmdana_plugin.detector.engines.resident_tables import ResidentTables
from cmdana_plugin.detector.engines.shape import CONNECTION, LOG, MODALITIES, PACKET
from cmdana_plugin.detector.history import Slots, Tables
from cmdana_plugin.detector.inputs import LOG_LENGTHS, PACKET_LENGTHS, Prepared
from cmdana_plugin.detector.network import Network, latent_residual

COMPONENTS: Final = ("packets", "connection", "log", "next", "residual")  # the columns of what is found
SIZES: Final = (1024, 32_768)  # events of a chunk, padded to the least that holds them
_TURNS: Final = 2  # chunks on their way at once: one computed, one copied
_WARM_UP: Final = 3  # rounds before a graph is captured, as torch asks

Batch = dict[str, Tensor]  # by name [size, ...], see `_empty`


@dataclass(frozen=True, slots=True)
class Found:
    """What is found of the `n` events of a chunk."""

    raw: dict[str, NDArray[np.float64]]  # component -> [n], of use where its modality is there
    gate: Floats32  # [n, 4]
    memory: Floats32  # before each, as in `EventContext`, and so the others
    ring: Floats32
    ring_used: NDArray[np.int32]


class Resident:
    """Scores chunks of events on a device, in bfloat16 unless `exact`; `sizes` are those that chunks are padded to."""

    def __init__(
        self, network: Network, device: torch.device, sizes: tuple[int, ...] = SIZES, exact: bool = False
    ) -> None:
        self.network = network
        self.device = device
        self.most = sizes[-1]  # events of one chunk
        self.exact = exact
        self._lanes = {size: _Lane(self, size) for size in sizes}

    def tables(self, hosts: int, pairs: int, marks: int) -> ResidentTables:
        return ResidentTables(hosts, pairs, marks, self.device)

    def submit(
        self,
        tables: Tables,
        prepared: Prepared,
        ts: NDArray[np.float64],
        early: NDArray[np.bool_],
        slots: Slots,
    ) -> Callable[[], Found]:
        """Begins a chunk of at most `most` events; what is returned waits for it. Chunks are begun in stream order."""
        assert isinstance(tables, ResidentTables)
        n = len(prepared)
        size = min(size for size in self._lanes if size >= n)
        return self._lanes[size].submit(tables, n, _given(prepared, ts, early, slots))

    @torch.no_grad()
    def compute(self, tables: ResidentTables, b: Batch) -> Batch:
        """What is found of a batch, on the device; the tables remember it."""
        network, present = self.network, b["present"]
        precision = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=not self.exact, cache_enabled=False
        )  # what it would keep of weights must not outlive a graph's capture
        with precision:
            z = torch.stack(
                [
                    network.encode(PACKET, b["packets"], b["packet_mask"]),
                    network.encode(CONNECTION, b["codes"], b["values"]),
                    network.encode(LOG, b["logs"], b["log_mask"]),
                ],
                dim=1,
            )
            z = z.masked_fill(~present[:, :, None, None], 0.0)
        # What is remembered for days is computed in single precision.
        write, value, recent = network.memory_update(z.float(), present)
        past = tables.recall(
            b["ts"], b["early"], b["slots"], b["fresh"], write, value, network.rate(), recent
        )
        with precision:
            s = network.read_state(b["state"], b["known"], past)
            gate = network.gate_weights(s, present).float()
            bias = network.gate_bias(gate, present).to(z.dtype)
            found, residual = [], gate.new_zeros(len(gate))
            for m in range(MODALITIES):
                expected, logits = network(m, z, s, bias)
                found.append(_surprise(logits, b[f"targets{m}"]))
                off = latent_residual(expected.float(), z[:, m].float())
                residual = residual + off.masked_fill(~present[:, m], 0.0)
            found.append(_surprise(network.look_ahead(s), b[f"targets{CONNECTION}"]))
        found.append(residual / present.sum(dim=1).clamp_min(1))
        return {
            "components": torch.stack(found, dim=1), "gate": gate,
            "memory": past.memory, "ring": past.ring, "ring_used": past.ring_used,
        }  # fmt: skip


def _surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log probability [B] of what is set (class -1: not asked), summed in single precision."""
    logits, asked = logits.float(), targets >= 0
    picked = logits.gather(-1, targets.long().clamp_min(0)[..., None])[..., 0]
    total = torch.logsumexp(logits, dim=-1)
    return ((total - picked) * asked).sum(dim=1) / asked.sum(dim=1).clamp_min(1)


def _given(prepared: Prepared, ts: NDArray[np.float64], early: NDArray[np.bool_], slots: Slots) -> Batch:
    """A chunk as tensors on the processor, `n` rows of each."""
    n, f = len(prepared), prepared.features
    every = np.arange(n)
    packets, packet_mask = pad_packets(f, every, PACKET_LENGTHS[-1], n)
    logs, log_mask = pad_logs(f, every, LOG_LENGTHS[-1], n)
    plain: dict[str, NDArray[Any]] = {
        "codes": prepared.codes, "values": prepared.values, "state": prepared.state, "known": prepared.known,
        "present": prepared.present, "ts": ts, "early": early, "slots": slots.index, "fresh": slots.fresh,
    }  # fmt: skip
    for m, targets in enumerate(prepared.targets):
        plain[f"targets{m}"] = targets
    made = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in plain.items()}
    return made | {"packets": packets, "packet_mask": packet_mask, "logs": logs, "log_mask": log_mask}


_NARROW: Final = {"codes": torch.int32, "logs": torch.int32} | {
    f"targets{m}": torch.int8 for m in range(MODALITIES)
}  # what is copied in fewer bytes than the processor computes in


class _Lane:
    """Chunks of one size, in turn through two sets of buffers; on a GPU by a graph, as long as tables stay in place."""

    def __init__(self, resident: Resident, size: int) -> None:
        self._resident = resident
        self._size = size
        self._gpu = resident.device.type == "cuda"
        self._waiting: list[_Waiting | None] = [None] * _TURNS
        self._turn = 0
        self._host: list[Batch] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._graphs = self._gpu  # whether they work here
        self._captured: tuple[ResidentTables, int] | None = None

    def submit(self, tables: ResidentTables, n: int, rows: Batch) -> Callable[[], Found]:
        if not self._host:
            self._prepare(rows)
        turn, self._turn = self._turn, (self._turn + 1) % _TURNS
        before = self._waiting[turn]
        if before is not None:
            before()  # its buffers are used again
        host = self._host[turn]
        for name, x in host.items():
            x[:n].copy_(rows[name])
        host["early"][n:] = True
        host["slots"][n:] = -1
        host["fresh"][n:] = False
        found, done = self._on_gpu(tables, turn) if self._gpu else (self._computed(tables, host), None)
        self._waiting[turn] = waiting = _Waiting(found, n, done)
        return waiting

    def _prepare(self, like: Batch) -> None:
        def empty(where: torch.device | str, pinned: bool = False) -> Batch:
            return {
                name: torch.zeros(
                    self._size,
                    *x.shape[1:],
                    dtype=_NARROW.get(name, x.dtype),
                    device=where,
                    pin_memory=pinned,
                )
                for name, x in like.items()
            }

        self._host = [empty("cpu", self._gpu) for _ in range(_TURNS)]
        if not self._gpu:
            return
        device = self._resident.device
        self._arrived = [empty(device) for _ in range(_TURNS)]
        self._inputs = empty(device)
        self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._copied = [torch.cuda.Event() for _ in range(_TURNS)]
        self._taken = [torch.cuda.Event() for _ in range(_TURNS)]
        self._back: list[Batch] = [{} for _ in range(_TURNS)]  # pinned, of what was found

    def _computed(self, tables: ResidentTables, batch: Batch) -> Batch:
        return self._resident.compute(tables, batch)

    def _on_gpu(self, tables: ResidentTables, turn: int) -> tuple[Batch, torch.cuda.Event]:
        """Begins a chunk whose rows lie in the pinned buffers of `turn`; when the event is over, so is the chunk."""
        if self._graphs and self._captured != (tables, tables.version):
            self._capture(tables)
        computing = torch.cuda.current_stream(self._resident.device)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._taken[turn])
            _copy(self._arrived[turn], self._host[turn])
            self._copied[turn].record(self._stream)
        computing.wait_event(self._copied[turn])
        _copy(self._inputs, self._arrived[turn])
        self._taken[turn].record(computing)
        if self._graph is None:
            out = self._computed(tables, self._inputs)
        else:
            self._graph.replay()
            out = self._out
        back = self._back[turn]
        for name, x in out.items():
            if name not in back:
                back[name] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        _copy(back, out)
        done = torch.cuda.Event()
        done.record(computing)
        return back, done

    def _capture(self, tables: ResidentTables) -> None:
        """Captures a chunk anew, on rows that no table remembers; where that fails, there is no graph from then on."""
        torch.cuda.synchronize(self._resident.device)
        self._graph = None
        self._inputs["early"].fill_(True)
        self._inputs["slots"].fill_(-1)
        self._inputs["fresh"].fill_(False)
        beside = torch.cuda.Stream(self._resident.device)
        beside.wait_stream(torch.cuda.current_stream(self._resident.device))
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self._computed(tables, self._inputs)
        torch.cuda.current_stream(self._resident.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._out = self._computed(tables, self._inputs)
        except RuntimeError as e:
            warnings.warn(f"no CUDA graph, computing step by step: {e}", RuntimeWarning, stacklevel=2)
            self._graphs = False
            return
        self._graph, self._captured = graph, (tables, tables.version)


class _Waiting:
    """A chunk on its way; called, what was found of its `n` events, as arrays of their own."""

    def __init__(self, found: Batch, n: int, done: torch.cuda.Event | None) -> None:
        self._given: Batch | None = found
        self._n = n
        self._done = done
        self._found: Found | None = None

    def __call__(self) -> Found:
        if self._given is not None:
            if self._done is not None:
                self._done.synchronize()
            arrays = {name: x[: self._n].numpy().copy() for name, x in self._given.items()}
            columns = arrays.pop("components").astype(np.float64)
            self._found, self._given = (
                Found({k: columns[:, j] for j, k in enumerate(COMPONENTS)}, **arrays),
                None,
            )
        assert self._found is not None
        return self._found


def _copy(to: Batch, source: Batch) -> None:
    for name, x in source.items():
        to[name].copy_(x, non_blocking=True)
