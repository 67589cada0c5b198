"""The steps from a capture to a notice as typed functions, for notebooks and scripts.

They run in the caller's process, without the confinement that `cmdana replay` puts around hostile bytes. `config`
defaults to the defaults of `plugin.toml`; no file is looked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.config import Config
from feature_extractors import (
    CmdanaError,
    Counts,
    Extractor,
    FrameBlock,
    Modality,
    Reader,
    Windows,
    concat,
    with_rows,
)
from feature_extractors.features import Encoded, encoded, load_schema, schema_of
from feature_extractors.readers import PassedOver, open_capture

if TYPE_CHECKING:
    from cmdana_plugin.decision import Judged, Notice
    from cmdana_plugin.detector import Checkpoint, Detector
    from cmdana_plugin.detector import Scores as _Scores
    from cmdana_plugin.training import Recording


def read(capture: str | Path, config: Config | None = None) -> Reader:
    """Blocks of frames of a capture in its order, as columns: bytes, times in seconds since the epoch, link types.

    pcap and pcapng, also in gzip, bzip2 or xz; other formats where tshark is installed; "-" is standard input. The
    reader's `counts` say what could not be read. Raises `CaptureError` for what is no capture.
    """
    return open_capture(capture, (config or Config()).capture.reader)


def extract(
    frames: Iterable[FrameBlock],
    config: Config | None = None,
    counts: Counts | None = None,
    whole: bool = False,
) -> Iterator[Windows]:
    """Blocks of `n` connections with their packets and log entries, in the order in which the connections end.

    Times are seconds, sizes bytes, and unset is NaN, -1 or "" (`feature_extractors.Windows`). At most 16,384
    connections a block, none empty. `counts` is given, at the end, what was passed over, by reason. `whole` has entries
    of files and weirds too, for a model that learns or was taught the further logs. Raises `CaptureError` where no
    frame is of a link type that is known.
    """
    from cmdana_plugin.replay import limits_of

    extractor = Extractor(limits_of(config or Config()), logs=whole)
    for block in frames:
        for windows in extractor.parts(block):
            if len(windows):
                yield with_rows(windows, extractor.rows())
    for windows in extractor.ending():
        if len(windows):
            yield with_rows(windows, extractor.rows())
    if counts is not None:
        counts.by_reason.update(extractor.counts.by_reason)


def encode(windows: Windows, detector: Detector | None = None) -> Encoded:
    """The windows as numbers in schema order, beside their connections: what a detector receives.

    Scales and codes are those of `features/schema.yaml`; unset is NaN in numbers, 0 in codes. A row depends on its own
    window alone. `detector` is who is to receive them: one that was taught the further logs takes other numbers. Raises
    `CmdanaError` where the schema that comes with the package cannot be read.
    """
    return encoded(windows, load_schema() if detector is None else schema_of(detector.schema_digest))


def load_detector(
    model: Checkpoint | str | Path | None = None,
    config: Config | None = None,
    *,
    device: str = "cpu",
    threads: int = 2,
) -> Detector:
    """The detector that `cmdana replay` uses, with an empty state: of a checkpoint, its file, or the shipped one.

    Its `receive(encode(windows))` returns `Scores`: a score of 0..1, higher is odder, and a p-value for each window.
    Blocks come in stream order, each once. Loads torch. Raises `CmdanaError` for a model that cannot be used.
    """
    from cmdana_plugin import detector as detectors
    from cmdana_plugin.behaviour import Bounds, with_behaviour_beside

    if isinstance(model, detectors.Checkpoint):
        made = detectors.detector_of(model, load_schema(), device=device, threads=threads)
    else:
        made = detectors.load_detector(Path(model) if model else None, device=device, threads=threads)
    config = config or Config()
    judging = with_behaviour_beside(made, made.checkpoint, bounds=Bounds(config.behaviour.max_hosts))
    if not config.model.site_history:
        return judging
    return detectors.WithSiteHistory(judging, share=detectors.share_of(made.checkpoint.weights))


def judge(
    windows: Iterable[Windows], detector: Detector | None = None, config: Config | None = None
) -> Iterator[Judged]:
    """For each block of windows, in stream order, its verdicts (one for each window) and the notices raised.

    `detector` defaults to the shipped one. What it has seen stays in it: for another network, or from the start,
    load another. `config.verdict` has the alert budget in alerts a day. Raises `CmdanaError` as `load_detector`.
    """
    from cmdana_plugin.decision import Judge

    config = config or Config()
    chosen = load_detector(config=config) if detector is None else detector
    judging = Judge(chosen, config, adapting=True)
    yield from judging.judged(encode(block, chosen) for block in windows)


def fit(
    windows: Iterable[Windows],
    label: NDArray[np.int8] | None = None,
    family: Sequence[str] = (),
    *,
    init: Checkpoint | None = None,
    seed: int = 0,
    epochs: int | None = None,
    name: str = "notebook",
    further_logs: bool = False,
) -> Checkpoint:
    """A model of one network's normal, learned from its traffic over one span, in stream order.

    `label` [n] over all blocks joined: 0 benign, 1 malicious (teaches the supervised trees only), -1 unknown
    (teaches nothing); None: all benign. `family` [n] names kinds of attack. P-values come from the last fifth.
    `further_logs` has quic, ldap, postgresql, redis, x509, files and weird entries learned from too. `epochs` are
    passes, by default enough: about a minute for 5,000 connections on two cores. Raises `CmdanaError`
    for fewer than 64 benign connections and for labels of another length.
    """
    from cmdana_plugin.training import Recipe, train

    recording = _recording(windows, label, family, name)
    return train(
        [recording], recipe=Recipe(seed=seed, epochs=epochs, further_logs=further_logs), init=init, name=name
    )


def calibrate(
    model: Checkpoint | str | Path,
    windows: Iterable[Windows],
    label: NDArray[np.int8] | None = None,
) -> Checkpoint:
    """The same model, its p-values taken from later benign traffic that it was not trained on.

    Afterwards a p-value below q is met about once in 1 / q connections of such traffic. `label` as in `fit`;
    only benign windows count. Raises `CmdanaError` for no windows, and for a model that cannot be used.
    """
    from cmdana_plugin import detector as detectors
    from cmdana_plugin.training import recalibrate

    before = model
    if not isinstance(before, detectors.Checkpoint):
        before = detectors.load(Path(before), load_schema())
    return recalibrate(before, [_recording(windows, label, (), "calibration")])


def table(result: Windows | Encoded | _Scores | Judged | Sequence[Notice]) -> Any:
    """The result as a `pyarrow.Table`; its `to_pandas()` is a frame of pandas, `polars.from_arrow` makes one of polars.

    Windows: the columns of conn.log. Encoded: `uid` and the schema's numbers and codes, scaled as it says. Scores: a
    row for each window, `score` 0..1, `p_value`, `p.` and a component's name, `reliance.` and a modality's. Judged: the
    columns of cmdana.log. Notices: those of notice.log. Times are UTC to the microsecond, sizes bytes, intervals
    seconds; unset is null. Raises `CmdanaError` where pyarrow is not installed: `pip install 'cmdana[parquet]'`.
    """
    from cmdana_plugin.detector import Scores
    from cmdana_plugin.logs import CMDANA, CONN, NOTICE, LocalNets, arrow_table, conn_lines, notice_columns

    if isinstance(result, Windows):
        lines = conn_lines(result.connections, LocalNets(Config().logs.local_nets), "json")
        return arrow_table(CONN, [json.loads(line) for line in lines.splitlines()])[0]
    if isinstance(result, Encoded):
        schema = schema_of(result.schema)
        numbers = dict(zip([f.name for f in schema.numeric], result.features.numeric.T, strict=True))
        codes = dict(zip([f.name for f in schema.categorical], result.features.categorical.T, strict=True))
        return _arrow({"uid": result.connections.uid.astype("U"), **numbers, **codes})
    if isinstance(result, Sequence):
        return arrow_table(NOTICE, [notice_columns(n) for n in result])[0]
    if isinstance(result, Scores):
        reliance = dict(zip([f"reliance.{m.name.lower()}" for m in Modality], result.reliance.T, strict=True))
        components = {f"p.{name}": p for name, p in result.components.items()}
        return _arrow({"score": result.score, "p_value": result.p_value, **components, **reliance})
    names = [name for name, _ in CMDANA.fields]
    return arrow_table(CMDANA, [dict(zip(names, v, strict=True)) for v in result.rows()])[0]


def read_log(path: str | Path, stream: str) -> Any:
    """All rows of one stream ("conn", "cmdana", "dns") in a log, or in a folder of them, as a `pyarrow.Table`.

    In whatever dialect they are; columns and types are those of Zeek, or of cmdana. What is passed over is printed on
    stderr. It is held in memory as a whole. Raises `CmdanaError` for what is not there, for a stream that is not known,
    and where pyarrow is not installed.
    """
    from cmdana_plugin.logs import (
        APPLICATION,
        CMDANA,
        CONN,
        NOTICE,
        arrow_table,
        find_logs,
        nothing_read,
        print_passed_over,
        read_notices,
        read_rows,
    )

    known = {s.path: s for s in (CONN, CMDANA, NOTICE, *APPLICATION.values())}
    if stream not in known:
        raise CmdanaError(f"{stream}: found no such stream; expected one of {', '.join(sorted(known))}")
    files, passed = find_logs([Path(path)], stream), PassedOver()
    rows = [
        row
        for file in files
        for row in (read_notices(file, passed) if stream == "notice" else read_rows(file, stream, passed))
    ]
    nothing_read(passed, files)
    print_passed_over(passed)
    return arrow_table(known[stream], rows)[0]


def _arrow(columns: Mapping[str, Any]) -> Any:
    from cmdana_plugin.logs import need_pyarrow

    need_pyarrow()
    import pyarrow

    return pyarrow.table({
        name: pyarrow.array(np.ascontiguousarray(column), from_pandas=True) for name, column in columns.items()
    })  # fmt: skip


def _recording(
    windows: Iterable[Windows], label: NDArray[np.int8] | None, family: Sequence[str], name: str
) -> Recording:
    from cmdana_plugin.training import Recording

    blocks = list(windows)
    if not blocks:
        raise CmdanaError(f"{name}: found no windows, expected traffic of a network")
    joined = concat(blocks)
    for what, given in (("label", label), ("family", family or None)):
        if given is not None and len(given) != len(joined):
            raise CmdanaError(
                f"{name}: {what}: found {len(given)}, expected one for each of {len(joined)} windows"
            )
    return Recording(name, joined, label, family)
