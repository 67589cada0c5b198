"""The detectors to choose from by name (`[model] detector`, `cmdana train --detector`), and each one's network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from cmdana_plugin.detector.networks.elements import FieldNetwork

DEPENDENCY: Final = "dependency-network"  # what ships
CROSS_MODAL: Final = "cross-modal"
_ROOM: Final = "cmdana_plugin.detector.networks"


class _Networks(Mapping[str, "type[FieldNetwork]"]):
    """The class of each network by name, imported, and torch with it, when it is asked for."""

    _where: Final = {
        "residual-attention": ("residual_attention", "ResidualAttentionNetwork"),
        "residual-attention-fields": ("residual_attention", "ResidualFieldsNetwork"),
        "spatio-temporal": ("spatio_temporal", "SpatioTemporalNetwork"),
    }

    def __getitem__(self, name: str) -> type[FieldNetwork]:
        module, kind = self._where[name]
        found = cast("type[FieldNetwork]", getattr(import_module(f"{_ROOM}.{module}"), kind))
        assert found.name == name
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


NETWORKS: Final[Mapping[str, type[FieldNetwork]]] = _Networks()
DETECTORS: Final = (DEPENDENCY, CROSS_MODAL, *NETWORKS)
