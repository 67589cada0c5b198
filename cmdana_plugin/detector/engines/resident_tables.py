"""The learned memory and the rings on a device: a parallel scan over a chunk's events, sorted by their slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector.history import KINDS, MEMORY, RING, RING_WIDTH, Tables
from cmdana_plugin.detector.network import Past, segmented_scan

_MOST_USES: Final = 1 << 30  # of a ring, which then are counted from few again, as `Tables.remember` does


class ResidentTables(Tables):
    """`Tables` whose learned memory lies on a device; a state of either is the other's.

    One more slot than there are takes what is written of no entity, so that every step has as many rows as events.
    """

    def __init__(self, hosts: int, pairs: int, marks: int, device: torch.device) -> None:
        self.device = device
        self.version = 0  # goes up where tensors are others than before
        super().__init__(hosts, pairs, marks)

    def _forget(self) -> None:
        sizes = [len(t.keys) + 1 for t in self._entities]
        new = self.device
        self._memories = [torch.zeros(n, MEMORY, device=new) for n in sizes]
        self._times = [torch.zeros(n, dtype=torch.float64, device=new) for n in sizes]
        self._rings = torch.zeros(sizes[0], RING, RING_WIDTH, device=new)
        self._uses = torch.zeros(sizes[0], dtype=torch.int32, device=new)
        self.version += 1

    def _tensors(self, k: int) -> dict[str, Tensor]:
        columns = {"memory": self._memories[k], "memory_at": self._times[k]}
        return columns if k else columns | {"ring": self._rings, "ring_used": self._uses}

    def _put_tensors(self, k: int, columns: Mapping[str, Tensor]) -> None:
        self._memories[k], self._times[k] = columns["memory"], columns["memory_at"]
        if k == 0:
            self._rings, self._uses = columns["ring"], columns["ring_used"]
        self.version += 1

    def _learned_of(self, k: int) -> dict[str, NDArray[Any]]:
        return {name: x[:-1].cpu().numpy() for name, x in self._tensors(k).items()}

    def _put_learned(self, k: int, columns: Mapping[str, NDArray[Any]]) -> None:
        names = self._tensors(k)
        self._put_tensors(
            k,
            {
                n: torch.from_numpy(np.concatenate([columns[n], columns[n][:1] * 0])).to(self.device)
                for n in names
            },
        )

    def _move_learned(self, k: int, moved: NDArray[np.int64]) -> None:
        to = torch.from_numpy(moved).to(self.device)

        def spread(x: Tensor) -> Tensor:
            out = x.new_zeros(2 * len(moved) + 1, *x.shape[1:])
            out[to] = x[:-1]
            return out

        self._put_tensors(k, {name: spread(x) for name, x in self._tensors(k).items()})

    def recall(
        self,
        ts: Tensor,
        early: Tensor,
        slots: Tensor,
        fresh: Tensor,
        write: Tensor,
        value: Tensor,
        rate: Tensor,
        recent: Tensor,
    ) -> Past:
        """As `Tables.remember`, all of it on the device, in steps whose shapes depend on the number of events alone.

        `ts` [n] is in double precision, `early` [n], `slots` and `fresh` [n, KINDS] as in `Slots`.
        """
        slot, order = slots.sort(dim=0, stable=True)
        fresh, when, late = fresh.gather(0, order), ts[order], ~early[order]
        first = torch.ones_like(fresh)
        first[1:] = slot[1:] != slot[:-1]
        last = torch.ones_like(fresh)
        last[:-1] = first[1:]
        head, known = first | fresh, slot >= 0
        place = [slot[:, k].masked_fill(~known[:, k], len(self._times[k]) - 1) for k in range(KINDS)]
        begun = (known & ~fresh)[:, :, None]
        start = torch.stack([m[p] for m, p in zip(self._memories, place, strict=True)], dim=1)
        start = start.masked_fill(~begun, 0.0)
        start_at = torch.stack([t[p] for t, p in zip(self._times, place, strict=True)], dim=1)
        start_at = torch.where(fresh, when, start_at)
        # An early event leaves time and memory as they were.
        own = when.masked_fill(~late, -torch.inf)
        at = _latest(torch.where(head, torch.maximum(start_at, own), own), head.cumsum(dim=0))
        before = torch.where(head, start_at, _shifted(at))
        decay = torch.exp(-rate * (when - before).clamp_min(0.0).float()[:, :, None])
        wide = order[:, :, None].expand(-1, -1, MEMORY)
        w, leaves = write.gather(0, wide), late[:, :, None]
        keep = (decay * (1.0 - w)).masked_fill(~leaves, 1.0)
        add = (w * value.gather(0, wide)).masked_fill(~leaves, 0.0)
        beginning = head[:, :, None]
        after = segmented_scan(
            keep.masked_fill(beginning, 0.0),
            torch.where(beginning, keep * start + add, add),
        )
        read = decay * torch.where(beginning, start, _shifted(after))
        read = read.masked_fill(~known[:, :, None], 0.0)
        memory = torch.empty_like(read).scatter_(0, wide, read)
        for k in range(KINDS):
            to = place[k].masked_fill(~last[:, k], len(self._times[k]) - 1)
            self._memories[k][to], self._times[k][to] = after[:, k], at[:, k]
        sort = (order[:, 0], place[0], known[:, 0], fresh[:, 0], head[:, 0], last[:, 0], late[:, 0])
        return Past(memory, *self._look_around(*sort, recent))

    def _look_around(
        self,
        order: Tensor,
        place: Tensor,
        known: Tensor,
        fresh: Tensor,
        head: Tensor,
        last: Tensor,
        late: Tensor,
        recent: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The rings before events [n, RING, RING_WIDTH] and how much of them counts [n], of events sorted by host."""
        n, none = len(order), len(self._uses) - 1
        segment = head.cumsum(dim=0) - 1
        writes = (late & known).long()
        written = writes.cumsum(dim=0)
        rank = written - writes  # of a writer among all of the chunk
        at_head = torch.zeros_like(rank).index_add_(0, segment, rank * head)
        of_segment = torch.zeros_like(rank).index_add_(0, segment, writes)
        is_last = torch.zeros_like(rank).index_add_(0, segment, last.long()) > 0
        done = rank - at_head[segment]  # writers before, of the same segment
        begun = self._uses[place].long().masked_fill(fresh, 0)
        # Only the first of a segment says whether its slot was cleared.
        begun = torch.zeros_like(rank).index_add_(0, segment, begun * head)[segment]
        writer = torch.zeros(n + 1, dtype=torch.long, device=order.device)  # row of each, by rank
        writer[rank.masked_fill(writes == 0, n)] = order
        have = (begun + done).clamp_max(RING)
        back = have[:, None] - torch.arange(RING, device=order.device)  # how many writers ago, oldest first
        here = back <= done[:, None]
        inside = recent[writer[(rank[:, None] - back).clamp(0, n)]]
        turned = (begun[:, None] + done[:, None] - back) % RING
        ring = torch.where(here[:, :, None], inside, self._rings[place[:, None], turned])
        counts = (back > 0) & known[:, None]
        ring = ring.masked_fill(~counts[:, :, None], 0.0)
        have = have.masked_fill(~known, 0)
        total = of_segment[segment]
        stays = (writes > 0) & is_last[segment] & (done >= total - RING)
        self._rings[place.masked_fill(~stays, none), (begun + done) % RING] = recent[order]
        uses = begun + total
        uses = torch.where(uses >= _MOST_USES, RING + uses % RING, uses)
        self._uses[place.masked_fill(~last, none)] = uses.int()
        out = torch.empty_like(ring)
        out[order] = ring
        used = torch.empty_like(have)
        used[order] = have
        return out, used.int()


def _shifted(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _latest(x: Tensor, segment: Tensor) -> Tensor:
    """The greatest so far within each segment, of columns [n, K], in log2(n) steps."""
    step = 1
    while step < len(x):
        earlier = torch.where(segment[step:] == segment[:-step], x[:-step], x[step:])
        x = torch.cat([x[:step], torch.maximum(x[step:], earlier)])
        step *= 2
    return x
