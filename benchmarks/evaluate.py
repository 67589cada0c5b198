"""Measure the detector, its ablations and the baselines on a folder of labelled captures, and write the tables.

    python -m benchmarks.evaluate FOLDER --out findings.json [--seeds 5] [--variant-seeds 1] [--only NAME ...]
    python -m benchmarks.evaluate --page docs/results.md findings.json [MORE.json ...]

FOLDER holds captures/, captures.csv (columns capture, split) and labels.csv or labels.csv.xz.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

from cmdana_plugin.baselines import BASELINES
from cmdana_plugin.config import Config
from cmdana_plugin.evaluation import (
    VARIANTS,
    Findings,
    evaluate,
    load_findings,
    read_split,
    save_findings,
    tables,
)
from cmdana_plugin.labels import labels_by_capture
from cmdana_plugin.learn import Learned, recordings
from cmdana_plugin.training import Recording

MARK = "<!-- measured -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, help="rewrite the measured part of this page from findings")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variant-seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[*BASELINES, *VARIANTS])
    parser.add_argument("--cache", type=Path, help="keep the extracted windows here between runs")
    given = parser.parse_args()
    if given.page:
        found = [load_findings(p) for p in given.inputs]
        merged = Findings(
            [r for f in found for r in f.runs],
            {k: v for f in found for k, v in f.intervals.items()},
            {k: v for f in found for k, v in f.about.items()},
        )
        before = given.page.read_text(encoding="utf-8").split(MARK)
        given.page.write_text(
            before[0] + MARK + "\n\n" + tables(merged) + "\n" + MARK + before[2], encoding="utf-8"
        )
        return
    folder = given.inputs[0]
    if given.cache and given.cache.exists():
        split = pickle.loads(given.cache.read_bytes())  # our own file of a moment ago
    else:
        labels = next(p for p in (folder / "labels.csv", folder / "labels.csv.xz") if p.exists())
        truth = labels_by_capture(labels)

        def record(path: Path, name: str) -> Iterator[Recording]:
            yield from recordings([str(path)], Config(), {name: truth[name]}, Learned(""))

        split = read_split(folder, record, progress)
        if given.cache:
            given.cache.write_bytes(pickle.dumps(split, protocol=5))
    findings = evaluate(
        split,
        seeds=tuple(range(given.seeds)),
        variants=tuple(n for n in VARIANTS if n in given.only),
        baselines=tuple(n for n in BASELINES if n in given.only),
        variant_seeds=given.variant_seeds,
        progress=progress,
        partial=lambda f: save_findings(f, given.out),
    )
    save_findings(findings, given.out)


def progress(what: str, share: float) -> None:
    if what != "reading":
        sys.stderr.write(f"{what} {share:.2f}\n")


if __name__ == "__main__":
    main()
