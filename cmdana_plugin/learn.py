"""An operator's own material for training and calibration: captures and Zeek logs, as recordings with their truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cmdana_plugin import checkpoint as checkpoints
from cmdana_plugin import training
from cmdana_plugin.config import Config
from cmdana_plugin.labels import Labels, labels_by_capture
from cmdana_plugin.logs import addresses
from cmdana_plugin.replay import Summary, extract, merge_counts
from cmdana_plugin.training import Recipe, Recording
from feature_extractors.observations import PROTO_NAMES, Windows, concat
from feature_extractors.readers import find_captures
from feature_extractors.readers.zeek_logs import ZeekLogs
from feature_extractors.schema import load_schema

Progress = Callable[[str, float], None]

_FEW = 1000  # connections under which what is learned is thin


@dataclass(slots=True)
class Learned:
    """What was learned, from how much, and what to be wary of."""

    out: str
    recordings: int = 0
    connections: int = 0
    benign: int = 0
    malicious: int = 0
    unknown: int = 0
    hosts: int = 0
    hours: float = 0.0
    services: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    busiest: float = 0.0  # share of all connections that one host originates
    model: str = ""
    data_digest: str = ""

    def warnings(self) -> list[str]:
        """What in the material makes a poor teacher."""
        found = []
        if self.connections < _FEW:
            found.append(
                f"only {self.connections:,} connections: a day of traffic or more teaches far better"
            )
        if self.hours < 24:
            found.append(f"only {self.hours:.1f} hours: what happens daily or weekly has not been seen")
        if self.busiest > 0.5 and self.connections >= _FEW:
            found.append(f"one host originates {self.busiest:.0%} of the connections: if it is infected or scans, "
                         "that becomes normal")  # fmt: skip
        if self.undecoded.get("conn_log_line_cut") or self.undecoded.get("capture_truncated"):
            found.append(
                "some input was cut off: " + ", ".join(f"{k} {v}" for k, v in self.undecoded.items())
            )
        return found

    def object(self) -> dict[str, object]:
        """For `--json`."""
        return {f: getattr(self, f) for f in self.__slots__} | {"warnings": self.warnings()}

    def text(self) -> str:
        """For a person."""
        services = ", ".join(f"{name or 'no service'} {n:,}" for name, n in self.services.most_common(8))
        lines = [
            f"learned from {self.connections:,} connections of {self.hosts:,} hosts over {self.hours:.1f} hours in "
            f"{self.recordings:,} recordings: {self.benign:,} normal, {self.malicious:,} malicious, "
            f"{self.unknown:,} unknown",
            f"normal here: {services}",
            *(f"beware: {warning}" for warning in self.warnings()),
            f"model {self.model} in {self.out}; use it with --model {self.out} or [model] path",
        ]
        return "\n".join(lines)


def train(
    sources: Sequence[str],
    out: Path,
    config: Config,
    *,
    labels: Path | None = None,
    init: Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Learned:
    """Trains on the sources, writes the checkpoint to `out` in one move, and says what was learned.

    Raises `CmdanaError` for material that cannot be used; `out` is then left as it was.
    """
    report = Learned(str(out))
    start = checkpoints.load(init, load_schema()) if init else None
    recipe = Recipe(seed=seed) if epochs is None else Recipe(seed=seed, epochs=epochs)
    truth = labels_by_capture(labels) if labels else {}
    made = training.train(
        recordings(sources, config, truth, report, progress),
        recipe=recipe,
        init=start,
        name=out.stem,
        progress=progress,
    )
    checkpoints.save(made, out)
    report.model = made.about.get("name", out.stem)
    report.data_digest = made.about.get("data_digest", "")
    return report


def calibrate(
    sources: Sequence[str],
    model: Path | None,
    out: Path,
    config: Config,
    *,
    labels: Path | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Learned:
    """Takes the p-values of a model from later calm traffic, and writes the checkpoint to `out`."""
    from cmdana_plugin.detector import shipped_checkpoint

    report = Learned(str(out))
    before = checkpoints.load(model, load_schema()) if model else shipped_checkpoint()
    truth = labels_by_capture(labels) if labels else {}
    made = training.recalibrate(before, recordings(sources, config, truth, report, progress))
    checkpoints.save(made, out)
    report.model = made.about.get("name", out.stem)
    return report


def recordings(
    sources: Sequence[str],
    config: Config,
    truth: dict[str, Labels],
    report: Learned,
    progress: Progress = lambda _what, _share: None,
) -> Iterator[Recording]:
    """One recording for each capture, and one for each folder of Zeek logs; `report` fills as they pass."""
    found = list(_expand(sources))
    origins: Counter[bytes] = Counter()
    for i, source in enumerate(found):
        progress("reading", i / len(found))
        blocks = list(_windows(source, config, report))
        if not blocks:
            continue
        windows = concat(blocks)
        recording = _labelled(source, windows, truth)
        c = windows.connections
        report.recordings += 1
        report.connections += len(c)
        report.hours += float(c.end.max() - c.ts.min()) / 3600
        report.services.update(c.service)
        origins.update(np.ascontiguousarray(c.orig_h).view("V16").ravel().tolist())
        report.hosts, report.busiest = len(origins), max(origins.values()) / report.connections
        label = recording.label if recording.label is not None else np.zeros(len(c), np.int8)
        report.benign += int((label == 0).sum())
        report.malicious += int((label == 1).sum())
        report.unknown += int((label < 0).sum())
        yield recording
    progress("reading", 1.0)


def _expand(sources: Sequence[str]) -> Iterator[Path]:
    for name in sources:
        path = Path(name)
        yield from [path] if _holds_logs(path) else find_captures([path])


def _holds_logs(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob("conn*.log")) or any(path.rglob("conn*.log.gz"))
    return path.name.startswith("conn") and ".log" in path.suffixes


def _windows(source: Path, config: Config, report: Learned) -> Iterator[Windows]:
    if source.is_dir() or ".log" in source.suffixes:
        logs = ZeekLogs([source])
        yield from logs
        merge_counts(report.undecoded, [logs.counts])
        return
    summary = Summary([str(source)])
    yield from extract([source], config, summary)
    report.undecoded.update(summary.undecoded)


def _labelled(source: Path, windows: Windows, truth: dict[str, Labels]) -> Recording:
    if not truth:
        return Recording(str(source), windows)
    place = source.as_posix()
    names = [name for name in truth if not name or place == name or place.endswith("/" + name)]
    n = len(windows)
    name = max(names, key=len, default=None)
    # An operator's store names no capture and holds what was labelled by hand: the rest of the traffic is normal.
    label, family = np.full(n, 0 if name == "" else -1, np.int8), [""] * n
    if name is not None:
        labels = truth[name]
        c = windows.connections
        columns = zip(
            c.ip_proto.tolist(), addresses(c.orig_h), c.orig_p.tolist(), addresses(c.resp_h), c.resp_p.tolist(),
            c.ts.tolist(), strict=True,
        )  # fmt: skip
        for i, (proto, orig, op, resp, rp, ts) in enumerate(columns):
            known = labels.find(PROTO_NAMES.get(proto, "unknown_transport"), (orig, op), (resp, rp), ts)
            if known is not None:
                label[i] = {"benign": 0, "malicious": 1}.get(known.label, -1)
                family[i] = known.family
    return Recording(str(source), windows, label, family)
