"""`cmdana evaluate`: the protocols on labelled captures, tables and recordings, their findings and their page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmdana_plugin import files
from cmdana_plugin.config import Config
from cmdana_plugin.evaluation import attacker as perturb
from cmdana_plugin.evaluation import flat_tables as tabular
from cmdana_plugin.evaluation import own_network
from cmdana_plugin.evaluation import page as results
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.cache import key_of, recall
from cmdana_plugin.evaluation.protocol import VARIANTS, Section, Split, evaluate, read_split, split_rows
from cmdana_plugin.evaluation.whole_days import measure as whole_days
from cmdana_plugin.evaluation.whole_days.plan import read_days
from cmdana_plugin.logs import labels_by_capture
from cmdana_plugin.training import Learned, Recording, joining, recordings
from feature_extractors import CmdanaError
from feature_extractors.compiled import code_digest

Progress = Callable[[str, float], None]


def load_findings(path: Path) -> dict[str, Section]:
    """The findings of earlier runs by section; {} where there is no such file."""
    if not path.is_file():
        return {}
    found: dict[str, Section] = json.loads(path.read_text(encoding="utf-8"))
    return found


def save_findings(found: dict[str, Section], path: Path) -> None:
    files.replace(path, json.dumps(_plain(found), indent=1, allow_nan=False).encode())


def _plain(value: object) -> object:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def captures_split(
    folder: Path, labels: Path | None, config: Config, cache: Path | None, progress: Progress
) -> Split:
    """The labelled captures by their split, read once per cache."""
    if labels is None:
        there = [p for p in (folder / "labels.csv", folder / "labels.csv.xz") if p.exists()]
        if not there:
            raise CmdanaError(f"{folder}: holds no labels.csv or labels.csv.xz; name one with --labels")
        labels = there[0]
    truth_file = labels
    rows = split_rows(folder)
    sources = [folder / "captures" / r["capture"] for r in rows]
    missing = [p for p in sources if not p.is_file()]
    if missing:
        raise CmdanaError(f"{missing[0]}: not found ({len(missing)} captures of captures.csv are missing)")
    truth = None

    def everything() -> list[Recording]:
        nonlocal truth
        truth = labels_by_capture(truth_file)
        seen = Learned("")

        def record(path: Path, name: str) -> Iterator[Recording]:
            yield from recordings([str(path)], config, {name: truth[name]}, seen)

        split = read_split(folder, record, progress)
        return list(joining([*split.train, *split.calibrate, *split.test], seen, truth_file))

    key = key_of([*sources, truth_file, folder / "captures.csv"])
    found = recall(cache, key, everything)
    where = {r["capture"]: r["split"] for r in rows}
    return Split(*([r for r in found if where[r.name] == part] for part in ("train", "calibrate", "test")))


def measure(
    folder: Path | None,
    labels: Path | None,
    out: Path,
    config: Config,
    *,
    tables: Path | None = None,
    plan: Path | None = None,
    days: Path | None = None,
    attacker: bool = False,
    page: Path | None = None,
    seeds: int = 5,
    variant_seeds: int = 2,
    only: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
) -> str:
    """The findings in Markdown. Each part that is asked for replaces its section of `out` as soon as it is known.

    Without anything to measure the page is written again from `out`. Raises `CmdanaError` for a folder, a name or a
    page that cannot be used, before anything is measured.
    """
    known = list(whole_days.NAMES) if days is not None else [*VARIANTS, *BASELINES]
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise CmdanaError(f"--only: found {', '.join(unknown)}; expected names among {', '.join(known)}")
    if page is not None:
        results.check_pages(page)
    if attacker and folder is None:
        raise CmdanaError("--attacker: needs a folder of labelled captures to perturb")
    found = load_findings(out)

    many = f"--seeds {seeds} --variant-seeds {variant_seeds} --cache KEPT"
    asked = {
        "captures": f"cmdana evaluate CAPTURES --out findings.json {many}",
        "own": f"cmdana evaluate {'CAPTURES ' if folder else ''}--recordings plan.csv --out findings.json {many}",
        "days": f"cmdana evaluate {'CAPTURES ' if folder else ''}--days days.csv --out findings.json {many}",
        "tabular": f"cmdana evaluate --tabular TABLES --out findings.json {many}",
        "robustness": f"cmdana evaluate CAPTURES --attacker --out findings.json {many}",
    }

    def keep(name: str, section: Section) -> None:
        made = {"command": asked[name], "code_digest": code_digest(__name__)}
        if name in ("own", "days"):  # networks may be measured one by one and put on one page
            section = {network: {**site, "made": made} for network, site in section.items()}
        found[name] = {**found.get(name, {}), **section} if name == "days" else section
        found.setdefault("made", {})[name] = made
        save_findings(found, out)

    several = tuple(range(seeds))
    variants = tuple(n for n in VARIANTS if only is None or n in only)
    baselines = tuple(n for n in BASELINES if only is None or n in only)
    split = captures_split(folder, labels, config, cache, progress) if folder is not None else None
    if split is not None and not attacker and plan is None and days is None:
        keep("captures", evaluate(split, config, seeds=several, variants=variants, baselines=baselines,
                                  variant_seeds=variant_seeds, cache=cache, progress=progress,
                                  partial=lambda s: keep("captures", s)))  # fmt: skip
    if tables is not None:
        keep("tabular", tabular.evaluate(tabular.tasks_in(tables), seeds=several, only=only, cache=cache,
                                         progress=progress, partial=lambda s: keep("tabular", s)))  # fmt: skip
    if plan is not None:
        keep("own", own_network.evaluate(own_network.read_plan(plan), config, split, seeds=several, variants=variants,
                                         baselines=baselines, variant_seeds=variant_seeds, cache=cache,
                                         progress=progress,
                                         partial=lambda s: keep("own", s)))  # fmt: skip
    if days is not None:
        keep("days", whole_days.evaluate(read_days(days), config, split.train if split else (), seeds=several,
                                        only=only, cache=cache, progress=progress,
                                        partial=lambda s: keep("days", s)))  # fmt: skip
    if attacker and split is not None:
        keep(
            "robustness",
            perturb.evaluate(split, seeds=several[:variant_seeds], cache=cache, progress=progress),
        )
    if page is not None:
        results.write_pages(found, page)
    return results.words(found)
