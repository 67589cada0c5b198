"""What has been adapted to the site, by the state that the detector keeps: read when it has been written anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdana_plugin import statefile
from cmdana_plugin.config import Config
from cmdana_plugin.decision import Adaptation
from feature_extractors import CmdanaError

_PREFIX = "adaptation."


@dataclass(frozen=True, slots=True)
class Adapted:
    """What p-values have come to mean on the site's own traffic; without samples the model's own calibration holds."""

    kinds: Sequence[tuple[str, int, float]] = ()  # kind of traffic ("" all), connections, what 1e-3 becomes
    past: Sequence[
        tuple[float, float]
    ] = ()  # network time of the last samples, what 1e-3 became of all traffic
    model: str = ""
    written: str = ""
    fault: str = ""  # why nothing is known, in words


class KeptState:
    """The state in `[state] folder`."""

    def __init__(self, config: Config) -> None:
        self._settings = config.adaptation
        folder = config.state.folder
        self._path = Path(folder) / f"{statefile.NAME}{statefile.SUFFIX}" if folder else None
        self._version = (0, 0, 0)
        self._adapted = Adapted()

    def adapted(self) -> Adapted:
        """What the state says now. Nothing is raised: a page goes on without."""
        if self._path is None:
            return Adapted(fault="no state is kept: [state] folder in plugin.toml names a place for it")
        try:
            found = self._path.stat()
        except OSError as error:
            return Adapted(fault=f"{self._path}: {error.strerror}")
        version = found.st_ino, found.st_mtime_ns, found.st_size
        if version != self._version:
            self._adapted = self._read(self._path)
            self._version = version
        return self._adapted

    def _read(self, path: Path) -> Adapted:
        adaptation = Adaptation(self._settings, on=True)
        try:
            state = statefile.read(path, only=_PREFIX)
            adaptation.restore(statefile.under(_PREFIX, state.arrays))
        except (CmdanaError, ValueError) as error:
            return Adapted(fault=str(error))
        about = state.about
        return Adapted(
            adaptation.told(), adaptation.past(), about.get("model", ""), about.get("written", "")[:40]
        )
