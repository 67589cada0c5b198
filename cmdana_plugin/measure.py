"""`cmdana evaluate`: the protocol of `evaluation` on a folder of labelled captures, and its page of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from cmdana_plugin.baselines import BASELINES
from cmdana_plugin.config import Config
from cmdana_plugin.evaluation import VARIANTS, evaluate, read_split, save_findings, tables
from cmdana_plugin.labels import labels_by_capture
from cmdana_plugin.learn import Learned, recordings
from cmdana_plugin.training import Recording
from feature_extractors.errors import CmdanaError

MARK: Final = "<!-- measured -->"  # stands before and after the measured part of a page


def measure(
    folder: Path,
    labels: Path | None,
    out: Path,
    config: Config,
    *,
    page: Path | None = None,
    seeds: int = 5,
    variant_seeds: int = 1,
    only: Sequence[str] | None = None,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
) -> str:
    """The tables, in Markdown. Writes the findings to `out` after each run, and the tables into `page` if given.

    Raises `CmdanaError` for a folder, a name or a page that cannot be used, before anything is measured.
    """
    unknown = [name for name in only or () if name not in BASELINES and name not in VARIANTS]
    if unknown:
        known = ", ".join([*VARIANTS, *BASELINES])
        raise CmdanaError(f"--only: found {', '.join(unknown)}; expected names among {known}")
    if page is not None and (not page.is_file() or page.read_text(encoding="utf-8").count(MARK) != 2):
        raise CmdanaError(f"{page}: expected a page with {MARK} before and after its measured part")
    if labels is None:
        there = [p for p in (folder / "labels.csv", folder / "labels.csv.xz") if p.exists()]
        if not there:
            raise CmdanaError(f"{folder}: holds no labels.csv or labels.csv.xz; name one with --labels")
        labels = there[0]
    truth = labels_by_capture(labels)

    def record(path: Path, name: str) -> Iterator[Recording]:
        yield from recordings([str(path)], config, {name: truth[name]}, Learned(""))

    findings = evaluate(
        read_split(folder, record, progress),
        seeds=tuple(range(seeds)),
        variants=tuple(n for n in VARIANTS if only is None or n in only),
        baselines=tuple(n for n in BASELINES if only is None or n in only),
        variant_seeds=variant_seeds,
        progress=progress,
        partial=lambda found: save_findings(found, out),
    )
    save_findings(findings, out)
    words = tables(findings)
    if page is not None:
        before, _, after = page.read_text(encoding="utf-8").split(MARK)
        page.write_text(f"{before}{MARK}\n\n{words}\n{MARK}{after}", encoding="utf-8")
    return words
