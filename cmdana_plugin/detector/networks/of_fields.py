"""The detector that the networks over a connection's fields share: blocks in stream order in, scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmdana_plugin.detector.checkpoint import Checkpoint
from cmdana_plugin.detector.cross_modal import (
    CrossModal,
    EventContext,
    Floats32,
    RawScores,
    Remembered,
    stratum_of,
)
from cmdana_plugin.detector.engines.padding import pad_rows
from cmdana_plugin.detector.engines.shape import CLASSES, CONNECTION, LOG, PACKET
from cmdana_plugin.detector.history import KINDS, MEMORY, RING_WIDTH
from cmdana_plugin.detector.inputs import Prepared, novelty, prepare
from cmdana_plugin.detector.networks.elements import OTHER, FieldNetwork, batch_of, by_modality
from cmdana_plugin.detector.networks.heads import energy
from cmdana_plugin.detector.networks.names import NETWORKS
from feature_extractors.features import Schema

if TYPE_CHECKING:
    from cmdana_plugin.detector.network import Network

_Job = TypeVar("_Job")
_ROWS: Final = 64  # of one computation, always: a convolution may add in another order for another number
_GPU_ROWS: Final = 8192
_NAMED_P_VALUE: Final = 1e-2  # below which a class is named at all
_NAMED_PROBABILITY: Final = 0.7


class OfFields(CrossModal):
    """A `Detector` whose network looks at the fields of a connection and the last connections of its host.

    Components: `residual`, what does not belong together in a connection; `density`, of what the network made of it
    among normal ones; `novelty`; with labels `attack`, of the network's own head.
    """

    fields: FieldNetwork

    def __init__(
        self,
        checkpoint: Checkpoint,
        schema: Schema,
        salt: int = 0,
        hosts: int = 1 << 17,
        device: str = "cpu",
        threads: int = 1,
        spare: Callable[[], bool] | None = None,
        fields: type[FieldNetwork] | None = None,
    ) -> None:
        """As `CrossModal`; `fields` is the class of an ablation's network, the checkpoint's own unless given."""
        self._kind = fields or NETWORKS[checkpoint.detector]
        super().__init__(checkpoint, schema, salt, hosts, device, threads, spare)

    def _set_up(self, device: str, network: type[Network] | None) -> None:
        self.device = torch.device(device)
        self.fields = self._kind(self.checkpoint.shape, len(self.checkpoint.classes))
        self.fields.load_state_dict(
            {k: torch.from_numpy(np.array(v)) for k, v in self.checkpoint.network.items()}
        )
        self.fields.to(self.device).eval()
        if self.device.type == "cpu":
            self._settle_thread = partial(torch.set_num_threads, 1)
        self._block = _ROWS if self.device.type == "cpu" else _GPU_ROWS

    def _each(self, job: Callable[[_Job], None], jobs: Iterable[_Job]) -> None:
        def run(one: _Job) -> None:
            with torch.inference_mode():
                job(one)

        super()._each(run, jobs)

    def _blocks(self, n: int) -> Iterator[slice]:
        for begin in range(0, n, self._block):
            yield slice(begin, min(begin + self._block, n))

    def _to(self, x: NDArray[np.generic]) -> Tensor:
        return pad_rows(x, self._block).to(self.device)

    def rate(self) -> Floats32:
        return np.zeros((KINDS, MEMORY), np.float32)

    def components(
        self,
        prepared: Prepared,
        state: Floats32,
        remember: Callable[[Floats32, Floats32, Floats32], Remembered],
        own: NDArray[np.bool_] | None = None,
    ) -> tuple[RawScores, EventContext]:
        nothing = np.zeros((len(prepared), KINDS, MEMORY), np.float32)
        memory, ring, used = remember(nothing, nothing, self._summaries(prepared))
        seen = EventContext(
            prepared.features, state, memory, ring, used, stratum_of(prepared.features, self.schema)
        )
        return self._judged(prepared, seen, keep=False), seen

    def score_context(self, seen: EventContext, keep: bool = False) -> RawScores:
        prepared = prepare(seen.features, seen.state, self.checkpoint.preparation, self.schema)
        return self._judged(prepared, seen, keep)

    def kinds(self, seen: EventContext, rows: NDArray[np.int64]) -> Tensor:
        """The logits of the head [rows, OTHER + kinds] for rows of events."""
        prepared = prepare(seen.features, seen.state, self.checkpoint.preparation, self.schema)
        out = torch.zeros(len(rows), OTHER + len(self.checkpoint.classes))

        def block(part: slice) -> None:
            mine = rows[part]
            told = self.fields(
                batch_of(prepared, mine, seen.ring[mine], seen.ring_used[mine], self._block, self.device)
            )
            out[part] = told.kinds[: len(mine)].cpu()

        self._each(block, self._blocks(len(rows)))
        return out

    def _summaries(self, prepared: Prepared) -> Floats32:
        out = np.zeros((len(prepared), RING_WIDTH), np.float32)

        def block(rows: slice) -> None:
            own = self.fields.summary(
                self._to(prepared.codes[rows]), self._to(prepared.values[rows]), self._to(prepared.state[rows]),
                self._to(prepared.known[rows]),
            )  # fmt: skip
            out[rows] = own[: rows.stop - rows.start].cpu().numpy()

        self._each(block, self._blocks(len(prepared)))
        return np.round(out, 5)

    def _judged(self, prepared: Prepared, seen: EventContext, keep: bool) -> RawScores:
        n, width = len(prepared), self.checkpoint.shape.width
        odd, attack = np.zeros(n), np.zeros(n)
        fused = np.zeros((n, width), np.float32)
        gate = np.zeros((n, 4), np.float32)
        modality = self.fields.elements.modality.numpy()

        def block(rows: slice) -> None:
            k = rows.stop - rows.start
            which = np.arange(rows.start, rows.stop)
            told = self.fields(
                batch_of(prepared, which, seen.ring[rows], seen.ring_used[rows], self._block, self.device)
            )
            odd[rows] = told.odd[:k].cpu().numpy()
            malicious = torch.logsumexp(told.kinds[:, 1:], dim=1) - told.kinds[:, 0]
            attack[rows] = malicious[:k].cpu().numpy()
            fused[rows] = told.fused[:k].cpu().numpy()
            gate[rows] = by_modality(told.weights[:k].cpu().numpy(), modality)

        self._each(block, self._blocks(n))
        raw = {
            "residual": odd,
            "density": self.checkpoint.mixture.score(np.round(fused, 4)),
            "novelty": novelty(seen.state, self.schema),
        }
        if "attack" in self.checkpoint.strata or not self.checkpoint.strata:
            raw["attack"] = attack
        chance = None
        if keep:
            chance = tuple(self._expected(n, m) for m in (PACKET, CONNECTION, LOG))
        return RawScores({k: np.round(v, 5) for k, v in raw.items()}, gate, chance)

    def _expected(self, n: int, modality: int) -> NDArray[np.float32]:
        usual = getattr(self.fields, f"expected_{modality}").cpu().numpy()
        return np.broadcast_to(usual, (n, usual.shape[0], CLASSES))

    def _attack(self, raw: Mapping[str, NDArray[np.float64]], p: NDArray[np.float64]) -> list[str]:
        """The kind of known attack where the head is sure, the event is odd, and it is of a known kind (energy)."""
        names, classes = [""] * len(p), self.checkpoint.classes
        if not classes or "attack" not in raw or self.seen is None:
            return names
        rows = np.flatnonzero((raw["attack"] > 0.0) & (p < _NAMED_P_VALUE))
        if not len(rows):
            return names
        logits = self.kinds(self.seen, rows)
        known = energy(logits) >= float(self.fields.least_energy)
        chance = logits[:, 1:].softmax(dim=1)
        sure, best = chance.max(dim=1)
        for row, k, s, ok in zip(rows, best.tolist(), sure.tolist(), known.tolist(), strict=True):
            if ok and k >= OTHER - 1 and s >= _NAMED_PROBABILITY:
                names[row] = classes[k - (OTHER - 1)]
        return names
