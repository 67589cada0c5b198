"""An operator's own material for training and calibration: captures, Zeek logs and learning phases."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour import Bounds, behaviour_of, with_behaviour_beside
from cmdana_plugin.config import Config
from cmdana_plugin.detector import (
    DEPENDENCY,
    DETECTORS,
    Checkpoint,
    Detector,
    WithSiteHistory,
    detector_of,
    device_of,
    share_of,
)
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.keyfile import state_salt
from cmdana_plugin.logs import Labels, labels_by_capture
from cmdana_plugin.replay import Summary, extract, merge_counts, with_reference
from cmdana_plugin.training import fit
from cmdana_plugin.training.adversarial.hardening import PLAIN, checked
from cmdana_plugin.training.calibrate import recalibrate
from cmdana_plugin.training.fit_incidents import Hours, with_incidents
from cmdana_plugin.training.material import Normal, Suspects
from cmdana_plugin.training.recipe import Recipe
from cmdana_plugin.training.recording import Corpus, Recording
from cmdana_plugin.training.rehearsals.hiding import checked_way
from cmdana_plugin.training.spool import Spool, is_spool
from feature_extractors import PROTO_NAMES, CmdanaError, Connections, Windows, address_texts, concat
from feature_extractors.features import load_schema
from feature_extractors.readers import PassedOver, ZeekLogs, find_captures, log_files, may_be_log, probe

Progress = Callable[[str, float], None]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FEW_CONNECTIONS: Final = 1000  # connections under which what is learned is thin
_RARE_SERVICE_CONNECTIONS: Final = 40  # connections of a service under which its normal is not known
_CUT: Final = frozenset(
    (
        "half_written_line", "compressed_stream_truncated", "compressed_stream_damaged", "bad_record",
        "capture_truncated", "learning_block_damaged", "line_too_long", "entries_over_memory", "time_out_of_range",
    )
)  # fmt: skip


@dataclass(slots=True)
class Learned:
    """The outcome of a training or calibration: from how much, and warnings."""

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
    busiest_host: str = ""
    model: str = ""
    data_digest: str = ""
    behaviour: bool = True  # whether the runs of connections were learned
    normal: Normal = field(default_factory=Normal)
    suspects: Suspects = field(default_factory=Suspects)
    logs: PassedOver = field(default_factory=PassedOver)  # lines of Zeek logs that were not read
    labels: int = 0  # of the label file, for what was given
    joined: int = 0  # of these, labels of a connection that was there

    def warnings(self) -> list[str]:
        """The warnings about the material, each with what to do."""
        found = []
        if self.connections < _FEW_CONNECTIONS:
            found.append(
                f"only {self.connections:,} connections: a day of traffic or more teaches far better"
            )
        if self.hours < 24:
            found.append(f"only {_hours(self.hours)}: what happens daily or weekly has not been seen")
        rare = [
            f"{name} {n}" for name, n in self.services.most_common() if name and n < _RARE_SERVICE_CONNECTIONS
        ]
        if rare:
            more = f" and {len(rare) - 6} more" if len(rare) > 6 else ""
            found.append(f"seen too rarely to know what is normal: {', '.join(rare[:6])}{more}")
        if self.busiest > 0.5 and self.connections >= _FEW_CONNECTIONS:
            found.append(
                f"{self.busiest_host} originates {self.busiest:.0%} of the connections: if it is infected or scans, "
                "that becomes normal"
            )
        if not self.behaviour:
            found.append(
                "runs of connections were not learned: that takes 500 normal connections, and a LightGBM that can be "
                "loaded (cmdana doctor)"
            )
        found += self.suspects.words()
        if self.joined < self.labels:
            found.append(f"{self.labels - self.joined:,} of {_some(self.labels, 'label')} join no connection")
        if passed := self.passed_over():
            found.append(f"some input was cut off or damaged: {passed}")
        found += self.logs.lines()
        return found

    def passed_over(self) -> str:
        """What of the input was truncated or damaged, by reason, as the end of a sentence."""
        return ", ".join(f"{name} {n:,}" for name, n in self.undecoded.items() if name in _CUT)

    def object(self) -> dict[str, object]:
        """The outcome as an object for `--json`."""
        plain = {f: getattr(self, f) for f in self.__slots__ if f not in ("normal", "suspects", "logs")}
        more = {
            "normal": self.normal.object(),
            "passed_over": self.logs.object(),
            "warnings": self.warnings(),
        }
        return {**plain, **more}

    def text(self) -> str:
        """The outcome as text for a person."""
        lines = [
            f"learned from {self.connections:,} connections of {_some(self.hosts, 'host')} over "
            f"{_hours(self.hours)} in {_some(self.recordings, 'recording')}: {self.benign:,} normal, "
            f"{self.malicious:,} malicious, {self.unknown:,} unknown",
            "",
            *self.normal.table(),
            "",
            *(f"beware: {warning}" for warning in self.warnings()),
            f"model {self.model} in {self.out}; use it with --model {self.out} or [model] path",
        ]
        return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1.0 else _some(round(hours * 60), "minute")


def _some(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def train(
    sources: Sequence[str],
    out: Path,
    config: Config,
    *,
    labels: Path | None = None,
    init: Checkpoint | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    epochs: int | None = None,
    detector: str | None = None,
    hardening: str = PLAIN,
    rehearsals: str = PLAIN,
    further_logs: bool = False,
    progress: Progress = lambda _what, _share: None,
) -> Learned:
    """The outcome of training on the sources; the checkpoint is written to `out` in one move.

    `detector` is one of `DETECTORS`; None: `[model] detector`'s, or the one to start from, or dependency-network. The
    state of a cross-modal training is kept beside `out` until it is written: the same command goes on from there.
    `hardening` is one of `training.WAYS`, for what learns from labels, `rehearsals` one of `rehearsals.hiding.WAYS`;
    `further_logs` has those in schema.yaml learned from too. Raises `CmdanaError` for material that cannot be
    used; `out` is then left as it was.
    """
    report = Learned(str(out))
    recipe = Recipe(
        seed=seed, epochs=epochs, detector=chosen(detector, config, init), hardening=checked(hardening),
        rehearsals=checked_way(rehearsals), further_logs=further_logs,
    )  # fmt: skip
    truth = labels_by_capture(labels) if labels else {}
    further = further_logs or (init is not None and init.schema_of(load_schema()).further is None)
    found = recordings(sources, config, truth, report, progress, networks(exclude), brief=not further)
    try:
        made = train_on(
            joining(found, report, labels),
            out,
            config,
            recipe=recipe,
            init=init,
            inspect=lambda corpus: report.suspects.resembling(corpus, init),
            progress=progress,
        )
    except CmdanaError as error:
        passed = f"; passed over: {report.passed_over()}" if report.passed_over() else report.logs.words()
        raise (type(error)(f"{error}{passed}") if passed else error) from None
    report.model = made.about.get("name", out.stem)
    report.behaviour = bool(made.behaviour)
    report.data_digest = made.about.get("data_digest", "")
    return report


def train_on(
    found: Iterable[Recording],
    out: Path,
    config: Config,
    *,
    recipe: Recipe,
    init: Checkpoint | None = None,
    inspect: Callable[[Corpus], None] = lambda _corpus: None,
    progress: Progress = lambda _what, _share: None,
) -> Checkpoint:
    """The checkpoint that these recordings of one site teach, written to `out` in one move. Raises `CmdanaError`."""
    kept = out.with_name(f"{out.name}.training")
    hours = Hours(1.0 - fit.CALIBRATION_FRACTION, one_site=True)
    made = fit.train(
        hours.keeping(found),
        recipe=recipe,
        init=init,
        name=out.stem,
        progress=progress,
        inspect=inspect,
        keep=kept,
        salt=state_salt(config.model.state_key),
        hosts=config.behaviour.max_hosts,
        device=device_of(config.model.device),
    )
    made = with_reference(with_incidents(made, hours, _as_judging(config)))
    checkpoints.save(made, out)
    kept.unlink(missing_ok=True)
    return made


def chosen(detector: str | None, config: Config, init: Checkpoint | None) -> str:
    """The detector to train (of `DETECTORS`). Raises `CmdanaError` where it is none, or not that of `init`."""
    wanted = detector or (config.model.detector if config.model.detector != "auto" else None)
    start = init.detector if init is not None else None
    if wanted is not None and wanted not in DETECTORS:
        raise CmdanaError(f"--detector: found {wanted}, expected one of {', '.join(DETECTORS)}")
    if start is not None and wanted not in (None, start):
        raise CmdanaError(f"--init: a model of detector {start}; expected one of {wanted}")
    return wanted or start or DEPENDENCY


def calibrate(
    sources: Sequence[str],
    model: Path | None,
    out: Path,
    config: Config,
    *,
    labels: Path | None = None,
    exclude: Sequence[str] = (),
    progress: Progress = lambda _what, _share: None,
) -> Learned:
    """The outcome of calibrating a model on later benign traffic; the checkpoint is written to `out`."""
    from cmdana_plugin.detector import shipped_checkpoint

    report = Learned(str(out))
    before = checkpoints.load(model, load_schema()) if model else shipped_checkpoint()
    truth = labels_by_capture(labels) if labels else {}
    brief = before.schema_of(load_schema()).further is not None
    found = recordings(sources, config, truth, report, progress, networks(exclude), brief)
    hours = Hours(one_site=True)
    behaviour = behaviour_of(before)
    salt = state_salt(config.model.state_key)
    try:
        made = recalibrate(before, hours.keeping(joining(found, report, labels)), salt)
    except CmdanaError as error:
        raise (type(error)(f"{error}{words}") if (words := report.logs.words()) else error) from None
    past = None if behaviour is None else behaviour.past
    checkpoints.save(with_reference(with_incidents(made, hours, _as_judging(config), past)), out)
    report.model = made.about.get("name", out.stem)
    return report


def _as_judging(config: Config) -> Callable[[Checkpoint], Detector]:
    """The detector as `cmdana replay` and `cmdana run` have it, from its beginning."""
    salt = state_salt(config.model.state_key)

    def made(checkpoint: Checkpoint) -> Detector:
        detector = detector_of(checkpoint, load_schema(), salt)
        bounds = Bounds(config.behaviour.max_hosts)
        return WithSiteHistory(
            with_behaviour_beside(detector, checkpoint, salt, bounds), salt, share_of(checkpoint.weights)
        )

    return made


def initial(words: str | None) -> Checkpoint | None:
    """The checkpoint that `--init` names: none, the shipped one, or that of a file. Raises `CmdanaError`."""
    from cmdana_plugin.detector import shipped_checkpoint

    if words is None:
        return None
    return shipped_checkpoint() if words == "shipped" else checkpoints.load(Path(words), load_schema())


def networks(words: Sequence[str]) -> list[Network]:
    """The addresses and networks that `--exclude` names. Raises `CmdanaError`."""
    try:
        return [ipaddress.ip_network(word, strict=False) for word in words]
    except ValueError as error:
        raise CmdanaError(f"--exclude: {error}; expected an address or a network") from None


def recordings(
    sources: Sequence[str],
    config: Config,
    truth: dict[str, Labels],
    report: Learned,
    progress: Progress = lambda _what, _share: None,
    exclude: Sequence[Network] = (),
    brief: bool = True,
) -> Iterator[Recording]:
    """One recording for each capture, each folder of Zeek logs, each learning phase; `report` fills as they pass.

    Connections of the hosts in `exclude` are of unknown kind: they move the state and teach nothing. Unless `brief`,
    captures give all of their log entries, the further ones among them.
    """
    found = list(_expand(sources))
    origins: Counter[bytes] = Counter()
    for i, source in enumerate(found):
        progress("reading", i / len(found))
        blocks = []
        for block in _windows(source, config, report, brief):
            blocks.append(block)
            report.connections += len(block)
            # How much a folder holds is known at its end only: half of what is left of the bar for each 100,000.
            within = 1.0 - 0.5 ** (sum(map(len, blocks)) / 100_000)
            progress("reading", (i + within) / len(found))
        if not blocks:
            continue
        windows = concat(blocks)
        del blocks
        recording = _excluded(_labelled(source, windows, truth, report), exclude)
        c = windows.connections
        report.recordings += 1
        report.hours += float(c.end.max() - c.ts.min()) / 3600
        report.services.update(c.service)
        origins.update(np.ascontiguousarray(c.orig_h).view("V16").ravel().tolist())
        label = recording.label if recording.label is not None else np.zeros(len(c), np.int8)
        report.hosts = len(origins)
        host, most = origins.most_common(1)[0]
        report.busiest = most / report.connections
        report.busiest_host = address_texts(np.frombuffer(host, np.uint8).reshape(1, 16))[0]
        report.benign += int((label == 0).sum())
        report.malicious += int((label == 1).sum())
        report.unknown += int((label < 0).sum())
        report.normal.receive(c, label == 0)
        report.suspects.receive(windows, label == 0)
        yield recording
    progress("reading", 1.0)


def _expand(sources: Sequence[str]) -> Iterator[Path]:
    for name in sources:
        path = Path(name)
        yield from [path] if is_spool(path) or _holds_logs(path) else find_captures([path])


def _holds_logs(path: Path) -> bool:
    """Whether a file is a log of Zeek's, or a folder holds connections in one."""
    if path.is_dir():
        return any(
            about.stream == "conn" or about.named == "conn" or about.others
            for about in map(probe, log_files(path))
        )
    return path.is_file() and may_be_log(path) and (not probe(path).refused or ".log" in path.suffixes)


def _windows(source: Path, config: Config, report: Learned, brief: bool) -> Iterator[Windows]:
    if is_spool(source):
        spool = Spool(source)
        try:
            yield from spool.windows()
            report.suspects.odd.update(spool.odd)
        finally:
            spool.close()
        merge_counts(report.undecoded, [spool.counts])
        return
    if _holds_logs(source):
        logs = ZeekLogs([source])
        yield from logs
        merge_counts(report.undecoded, [logs.counts])
        for file, reasons in logs.passed.by_file.items():
            report.logs.by_file.setdefault(file, Counter()).update(reasons)
        return
    summary = Summary([str(source)])
    yield from extract([source], config, summary, brief=brief, whole=not brief)
    report.undecoded.update(summary.undecoded)


def _excluded(recording: Recording, exclude: Sequence[Network]) -> Recording:
    if not exclude:
        return recording
    c = recording.windows.connections
    label = np.zeros(len(c), np.int8) if recording.label is None else recording.label.copy()
    label[_of_hosts(c, exclude)] = -1
    return Recording(recording.name, recording.windows, label, recording.family)


def _of_hosts(connections: Connections, wanted: Sequence[Network]) -> NDArray[np.bool_]:
    rows = np.zeros(len(connections), np.bool_)
    for column in (connections.orig_h, connections.resp_h):
        hosts, at = np.unique(np.ascontiguousarray(column).view("V16").ravel(), return_inverse=True)
        texts = address_texts(hosts.view(np.uint8).reshape(-1, 16))
        inside = np.array([any(_within(text, network) for network in wanted) for text in texts], np.bool_)
        rows |= inside[at]
    return rows


def _within(text: str, network: Network) -> bool:
    address = ipaddress.ip_address(text)
    return address.version == network.version and address in network


def joining(found: Iterable[Recording], report: Learned, labels: Path | None) -> Iterator[Recording]:
    """The recordings; raises `CmdanaError` at their end where there are labels for them and none joins a connection."""
    yield from found
    if report.labels and not report.joined:
        raise CmdanaError(
            f"{labels}: none of {_some(report.labels, 'label')} joins a connection of what was given; expected the "
            "start (ts, seconds since the epoch, UTC), proto, addresses and ports of conn.log, or its uid beside them"
        )


def _labelled(source: Path, windows: Windows, truth: dict[str, Labels], report: Learned) -> Recording:
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
        seen: set[int] = set()
        c = windows.connections
        columns = zip(
            c.ip_proto.tolist(), address_texts(c.orig_h), c.orig_p.tolist(), address_texts(c.resp_h), c.resp_p.tolist(),
            c.ts.tolist(), c.uid.tolist(), strict=True,
        )  # fmt: skip
        for i, (proto, orig, op, resp, rp, ts, uid) in enumerate(columns):
            name_of = PROTO_NAMES.get(proto, "unknown_transport")
            known = labels.find(name_of, (orig, op), (resp, rp), ts, uid.decode("ascii"))
            if known is not None:
                seen.add(id(known))
                label[i] = {"benign": 0, "malicious": 1}.get(known.label, -1)
                family[i] = known.family
        report.joined += len(seen)
        report.labels += len(labels)
    return Recording(str(source), windows, label, family)
