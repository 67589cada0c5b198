"""`cmdana evaluate`: the protocols on labelled captures, tables and recordings, their findings and their page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cmdana_plugin import files
from cmdana_plugin.config import Config
from cmdana_plugin.detector import BALANCING, DETECTORS, NETWORKS
from cmdana_plugin.evaluation import own_network
from cmdana_plugin.evaluation import page as results
from cmdana_plugin.evaluation.adversary import attacker as perturb
from cmdana_plugin.evaluation.adversary import hardening as hardened
from cmdana_plugin.evaluation.adversary import networks as through_networks
from cmdana_plugin.evaluation.adversary import poison as poisoning
from cmdana_plugin.evaluation.adversary import search as adversary
from cmdana_plugin.evaluation.adversary import victims
from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.cache import key_of, recall
from cmdana_plugin.evaluation.protocol import VARIANTS, Section, Split, evaluate, read_split, split_rows
from cmdana_plugin.evaluation.tables import captures as captured
from cmdana_plugin.evaluation.tables import flat_tables as tabular
from cmdana_plugin.evaluation.tables import heads as named
from cmdana_plugin.evaluation.transfer import collections as transfer
from cmdana_plugin.evaluation.transfer import detectors as side_by_side
from cmdana_plugin.evaluation.transfer import missing as modalities
from cmdana_plugin.evaluation.whole_days import measure as whole_days
from cmdana_plugin.evaluation.whole_days.plan import read_days
from cmdana_plugin.logs import labels_by_capture
from cmdana_plugin.training import WAYS, Learned, Recording, joining, recordings
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


def searched(
    split: Split,
    config: Config,
    only: Sequence[str] | None,
    families: int | None,
    tries: int | None,
    seeds: Sequence[int],
    captures: Path,
    progress: Progress,
    partial: Callable[[Section], None],
) -> Section:
    """The search against victims; what hides is replayed from the folder of captures."""
    names = [n for n in victims.NAMES if n in (only or victims.DEFAULT)]
    return adversary.evaluate(
        victims.victims_of(split, names, config), split.test, victims.ordinary_of(split), config,
        families=families, tries=tries or adversary.TRIES, seeds=seeds, captures=captures,
        progress=progress, partial=partial,
    )  # fmt: skip


def hardened_by(
    split: Split,
    config: Config,
    ways: Sequence[str],
    only: Sequence[str] | None,
    families: int | None,
    tries: int | None,
    seeds: Sequence[int],
    epochs: int | None,
    progress: Progress,
    keep: Callable[[str, Section], None],
) -> None:
    """Trees hardened in these ways, and networks over fields by descent through them: a section of each."""
    chosen = only or hardened.DEFAULT
    if hardened.TREES in chosen:
        trees = hardened.evaluate(
            split, victims.ordinary_of(split), config, ways, seeds=seeds, families=families,
            tries=tries or adversary.TRIES, progress=progress, partial=lambda s: keep("hardening", s),
        )  # fmt: skip
        keep("hardening", trees)
    if networks := [n for n in NETWORKS if n in chosen]:
        keep("descent", through_networks.evaluate(split, networks, epochs=epochs, progress=progress))


def poisoned_by(
    split: Split,
    config: Config,
    only: Sequence[str] | None,
    families: int | None,
    seeds: Sequence[int],
    epochs: int | None,
    progress: Progress,
    partial: Callable[[Section], None],
) -> Section:
    """Poisoned training material before detectors, and a poisoned past before those that the search is set on."""
    names = [n for n in poisoning.NAMES if n in (only or poisoning.DEFAULT)]
    return poisoning.evaluate(
        split, names, victims.victims_of(split, names, config), victims.ordinary_of(split), config,
        families=families, seeds=seeds, epochs=epochs, progress=progress, partial=partial,
    )  # fmt: skip


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
    attack: bool = False,
    tries: int | None = None,
    families: int | None = None,
    hardening: Sequence[str] | None = None,
    poison: bool = False,
    collections: bool = False,
    heads: bool = False,
    missing: bool = False,
    detectors: Sequence[str] | None = None,
    epochs: int | None = None,
    balancing: Sequence[str] | None = None,
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
    known = [*VARIANTS, *BASELINES]
    if days is not None:
        known = list(whole_days.NAMES)
    elif attack or poison:
        known = list(victims.NAMES)
    elif hardening:
        known = [hardened.TREES, *NETWORKS]
    elif heads:
        known = list(named.NAMES)
    elif collections:
        known = list(transfer.NAMES)
    elif missing:
        known = list(modalities.NAMES)
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise CmdanaError(f"--only: found {', '.join(unknown)}; expected names among {', '.join(known)}")
    if unknown := [b for b in balancing or () if b not in BALANCING]:
        raise CmdanaError(f"--balancing: found {', '.join(unknown)}; expected among {', '.join(BALANCING)}")
    if unknown := [w for w in hardened.named(hardening) if w not in WAYS]:
        raise CmdanaError(
            f"--hardening: found {', '.join(unknown)}; expected all, or among {', '.join(WAYS)}"
        )
    if page is not None:
        results.check_pages(page)
    if (attacker or attack) and folder is None:
        raise CmdanaError(
            f"--attack{'er' if attacker else ''}: needs a folder of labelled captures to perturb"
        )
    if heads and tables is None and folder is None:
        raise CmdanaError(
            "--heads: needs --tabular with a folder of tables, or a folder of labelled captures"
        )
    if unknown := [d for d in side_by_side.named(detectors) if d not in DETECTORS]:
        raise CmdanaError(
            f"--detectors: found {', '.join(unknown)}; expected all, or among {', '.join(DETECTORS)}"
        )
    if detectors and folder is None:
        raise CmdanaError("--detectors: needs a folder of labelled captures")
    if missing and folder is None:
        raise CmdanaError("--missing: needs a folder of labelled captures")
    if (hardening or poison) and folder is None:
        raise CmdanaError(f"--{'hardening' if hardening else 'poison'}: needs a folder of labelled captures")
    if collections and folder is None:
        raise CmdanaError("--collections: needs a folder of labelled captures of several collections")
    found = load_findings(out)

    many = f"--out findings.json --seeds {seeds} --variant-seeds {variant_seeds} --cache KEPT"
    few = f"--out findings.json --seeds {seeds}{f' --tries {tries}' if tries else ''}"
    few += f"{f' --families {families}' if families else ''}"
    few += f"{f' --epochs {epochs}' if epochs else ''}"
    few += f"{''.join(f' --only {shlex.quote(n)}' for n in only or ())}{' --cache KEPT' if cache else ''}"
    captures = "CAPTURES " if folder else ""
    ways = " ".join(f"--hardening {w}" for w in hardening or ())
    asked = {
        "captures": f"cmdana evaluate CAPTURES {many}",
        "own": f"cmdana evaluate {captures}--recordings plan.csv {many}",
        "days": f"cmdana evaluate {captures}--days days.csv {many}",
        "collections": f"cmdana evaluate CAPTURES --collections {few}",
        "adversary": f"cmdana evaluate CAPTURES --attack {few}",
        "hardening": f"cmdana evaluate CAPTURES {ways} {few}",
        "descent": f"cmdana evaluate CAPTURES {ways} {few}",
        "poison": f"cmdana evaluate CAPTURES --poison {few}",
        "missing": f"cmdana evaluate CAPTURES --missing {few}",
        "detectors": f"cmdana evaluate CAPTURES {' '.join(f'--detectors {d}' for d in detectors or ())} {few}",
        "heads": f"cmdana evaluate {captures}{'--tabular TABLES ' if tables else ''}--heads {few}",
        "tabular": f"cmdana evaluate --tabular TABLES {many}",
        "robustness": f"cmdana evaluate CAPTURES --attacker {many}",
    }

    def keep(name: str, section: Section) -> None:
        made = {"command": asked[name], "code_digest": code_digest(__name__)}
        if name in (
            "own",
            "days",
            "heads",
        ):  # networks and tables may be measured one by one and put on one page
            section = {part: {**of, "made": made} for part, of in section.items()}
        found[name] = {**found.get(name, {}), **section} if name in ("days", "heads") else section
        found.setdefault("made", {})[name] = made
        save_findings(found, out)

    several = tuple(range(seeds))
    variants = tuple(n for n in VARIANTS if only is None or n in only)
    baselines = tuple(n for n in BASELINES if only is None or n in only)
    split = captures_split(folder, labels, config, cache, progress) if folder is not None else None
    if attack and split is not None and folder is not None:
        keep("adversary", searched(split, config, only, families, tries, several, folder / "captures", progress,
                                   lambda s: keep("adversary", s)))  # fmt: skip
    elif hardening and split is not None:
        hardened_by(
            split, config, hardened.named(hardening), only, families, tries, several, epochs, progress, keep
        )
    elif poison and split is not None:
        keep("poison", poisoned_by(split, config, only, families, several, epochs, progress,
                                   lambda s: keep("poison", s)))  # fmt: skip
    elif detectors and split is not None:
        keep("detectors", side_by_side.evaluate(split, side_by_side.named(detectors), config, seeds=several,
                                                epochs=epochs, progress=progress,
                                                partial=lambda s: keep("detectors", s)))  # fmt: skip
    elif missing and split is not None:
        keep("missing", modalities.evaluate(split, seeds=several, only=only, epochs=epochs, cache=cache,
                                            progress=progress))  # fmt: skip
    elif collections and split is not None and folder is not None:
        keep("collections", transfer.evaluate(split, transfer.collections_in(folder), seeds=several, only=only,
                                              epochs=epochs, cache=cache, progress=progress))  # fmt: skip
    elif split is not None and not attacker and not heads and plan is None and days is None:
        keep("captures", evaluate(split, config, seeds=several, variants=variants, baselines=baselines,
                                  variant_seeds=variant_seeds, cache=cache, progress=progress,
                                  partial=lambda s: keep("captures", s)))  # fmt: skip
    if heads:
        tasks = [*(tabular.tasks_in(tables) if tables else ()), *([captured.task_of(split)] if split else ())]
        keep("heads", named.evaluate(tasks, seeds=several,
                                     names=[n for n in named.NAMES if only is None or n in only],
                                     balancing=balancing or (named.BALANCED,), epochs=epochs or named.EPOCHS,
                                     progress=progress, partial=lambda s: keep("heads", s)))  # fmt: skip
    elif tables is not None:
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
