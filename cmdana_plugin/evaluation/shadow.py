"""A shadow model beside the one that judges: canaries found and false incidents on a day that neither has learned.

Both see the same day with the same rehearsed intrusions in it, after the same day before, and are decided upon as the
product decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import statefile
from cmdana_plugin.config import Config
from cmdana_plugin.decision import Judge
from cmdana_plugin.detector import Detector, shipped_checkpoint
from cmdana_plugin.detector import checkpoint as checkpoints
from cmdana_plugin.keyfile import state_salt
from cmdana_plugin.replay import Loaded
from cmdana_plugin.training import Entry, Lineage, Quarantined, Recipe, Trial, quarantined, sources, trial_of
from feature_extractors import CmdanaError, Windows, address_texts, take
from feature_extractors.features import Encoded, encoded, load_schema, take_encoded

_BLOCK: Final = 4096
_CANARIES: Final = 48
_BEFORE: Final = 20_000  # connections of the day before that both have seen


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model came to."""

    found: int  # canaries that an incident rests on
    canaries: int
    false: int  # incidents that rest on none
    days: float  # of the trial; less than one counts as one: a budget is of a day
    odd: float  # share of the site's own connections at p <= 1e-3

    @property
    def false_per_day(self) -> float:
        return self.false / max(self.days, 1.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model that judges and the shadow, and what the shadow may have of false incidents."""

    present: Outcome
    shadow: Outcome
    budget: float  # false incidents a day

    @property
    def refusal(self) -> str:
        """Why the shadow is not to take over, in words; "" where it may."""
        old, new = self.present, self.shadow
        if not new.canaries:
            return "there was nothing to rehearse with: no canary, no promotion"
        if new.found < old.found:
            return f"it finds fewer of {new.canaries} rehearsed intrusions: {new.found}, the present model {old.found}"
        if new.false_per_day > self.budget:
            return (
                f"it does not hold the budget: {new.false_per_day:.1f} false incidents a day, [verdict] "
                f"alerts_per_day allows {self.budget:g}"
            )
        return ""

    def words(self) -> str:
        """Both in one line."""
        old, new = self.present, self.shadow
        return (
            f"of {new.canaries} rehearsed intrusions it finds {new.found}, the present model {old.found}; false "
            f"incidents a day {new.false_per_day:.1f} against {old.false_per_day:.1f}, connections at p <= 1e-3 "
            f"{new.odd:.2g} against {old.odd:.2g}"
        )


def outcome(
    detector: Detector, tails: NDArray[np.float64] | None, config: Config, before: Encoded, trial: Trial,
    *, at_home: bool = False,
) -> Outcome:  # fmt: skip
    """What a detector that has just begun comes to in the trial, with the day `before` as its past."""
    judge = Judge(detector, config, tails, at_home=at_home)
    for _ in judge.judged(_blocks(before)):
        pass
    c = trial.windows.connections
    row_of = {uid.decode("ascii", "replace"): i for i, uid in enumerate(c.uid.tolist())}
    found: set[int] = set()
    false: set[str] = set()
    odd = 0
    at = 0
    for judged in judge.judged(_blocks(trial.windows)):
        own = trial.canary[at : at + len(judged.windows)] == 0
        at += len(judged.windows)
        odd += int((judged.verdicts.p_value[own] <= 1e-3).sum())
        for notice in judged.notices:
            if notice.verdict is None:  # drift: about no connection in particular
                continue
            uids = notice.incident.uids if notice.incident else (notice.verdict.uid,)
            rests = {int(trial.canary[row_of[uid]]) for uid in uids if uid in row_of} - {0}
            found |= rests
            if not rests:
                false.add(notice.identifier)
            else:
                false.discard(notice.identifier)
    days = float(c.end.max() - c.end.min()) / 86400.0 if len(c) else 0.0
    many = int((trial.canary == 0).sum())
    return Outcome(len(found), len(set(trial.canary.tolist()) - {0}), len(false), days, odd / max(many, 1))


def days_over(folder: Path) -> Quarantined:
    """The quarantined days that a shadow model may be learned from and tried on. Raises `CmdanaError` for too few."""
    kept = folder / f"{statefile.NAME}{statefile.SUFFIX}"
    found = quarantined(folder, statefile.read(kept).arrays if kept.exists() else {})
    if len(found.days) < 2:
        raise CmdanaError(
            f"{folder}: found {len(found.days)} quarantined days that are over; expected two or more, the last to try "
            'the shadow on: cmdana run gathers them where [adaptation] mode is "shadow"'
        )
    return found


def propose(
    folder: Path,
    found: Quarantined,
    config: Config,
    load: Callable[[Path | None], Loaded],
    present: Path | None,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
    seed: int = 0,
) -> Entry:
    """Learns a shadow model of all `days_over` but the last, tries it on that one beside the `present` one (None: the
    shipped one), and says what came of it in the history of the site's models.

    Raises `CmdanaError` where they cannot be learned from.
    """
    lineage = Lineage(folder, state_salt(config.model.state_key))
    *lesson, last = found.days
    schema = load_schema()
    init = checkpoints.load(present, schema) if present is not None else shipped_checkpoint()
    recipe = Recipe(seed=seed, detector=init.detector)
    lineage.shadow.parent.mkdir(mode=0o700, exist_ok=True)
    sources.train_on(lesson, lineage.shadow, config, recipe=recipe, init=init, progress=progress)
    schema = init.schema_of(schema)
    before = encoded(_latest(lesson[-1].windows), schema)
    own = encoded(_without(last.windows, found.silent), schema)
    trial = trial_of(own, np.random.default_rng(seed), _CANARIES)
    came: list[Outcome] = []
    for k, model in enumerate((present, lineage.shadow)):
        progress("trying both models", k / 2)
        loaded = load(model)
        came.append(outcome(loaded.detector, loaded.tails, config, before, trial, at_home=loaded.at_home))
    beside = Comparison(came[0], came[1], config.verdict.alerts_per_day)
    return lineage.propose(beside.words(), beside.refusal)


def _latest(windows: Windows) -> Windows:
    n = len(windows)
    return take(windows, np.arange(max(n - _BEFORE, 0), n))


def _without(windows: Windows, silent: Collection[str]) -> Windows:
    c, hosts = windows.connections, list(silent)
    with_them = np.isin(address_texts(c.orig_h), hosts) | np.isin(address_texts(c.resp_h), hosts)
    return take(windows, np.flatnonzero(~with_them))


def _blocks(windows: Encoded) -> Iterator[Encoded]:
    for begin in range(0, len(windows), _BLOCK):
        yield take_encoded(windows, np.arange(begin, min(begin + _BLOCK, len(windows))))
