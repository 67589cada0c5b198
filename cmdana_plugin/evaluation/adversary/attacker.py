"""An attacker who owns the originator changes what it sends; everything that follows from it is computed again.

What can be changed stands in `cmdana_plugin.training.adversarial.changes`; the stream is put in order again, and
features, counts and scores are taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.evaluation.baselines import BASELINES
from cmdana_plugin.evaluation.metrics import LEAST, Floats
from cmdana_plugin.evaluation.protocol import (
    SHIPPED,
    UNLABELLED,
    Section,
    Split,
    Store,
    Trial,
    corpus_digest,
    judge_with,
    models_of,
    without,
)
from cmdana_plugin.training import (
    Changed,
    Recipe,
    Recording,
    changed_of,
    chatter,
    delay,
    gather,
    junk,
    pace,
    pad,
    train,
)
from cmdana_plugin.training import split as halved
from feature_extractors import Windows, take
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

_RIVALS: Final = ("boosted", "forest", "gaussians")
_RATE: Final = 1e-3
NONE: Final = "none"
WORST: Final = "worst of these, connection by connection"


def everything(x: Changed) -> Windows:
    """The windows after all these changes but splitting."""
    for change in (pad, junk, chatter, delay, pace):
        x = replace(x, windows=change(x))
    return x.windows


CHANGES: Final[Mapping[str, Callable[[Changed], Windows]]] = {
    "payloads padded to twice their length": pad,
    "payloads split in two": halved,
    "512 bytes of junk at the end": junk,
    "three empty packets at the end": chatter,
    "four times slower within a connection": delay,
    "ten times slower between connections": pace,
    "all but splitting together": everything,
}


def perturbed(
    recording: Recording, change: Callable[[Changed], Windows]
) -> tuple[Recording, NDArray[np.int64]]:
    """The perturbed recording in stream order, and each row's index [n] in the original."""
    windows = change(changed_of(recording))
    order = np.argsort(windows.connections.end, kind="stable")
    assert recording.label is not None
    family = recording.family or [""] * len(windows)
    done = Recording(
        recording.name, take(windows, order), recording.label[order], [family[i] for i in order.tolist()]
    )
    return done, order


def evaluate(
    data: Split,
    *,
    seeds: Sequence[int] = (0, 1),
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Section:
    """Macro recall at a false-positive rate of 1e-3 by perturbation, at the threshold of the unperturbed traffic."""
    schema = load_schema()
    learn = gather(data.train, schema)
    models = models_of(data, cache)
    whole = gather(data.test, schema)
    family = np.array(whole.family, dtype=object)
    bad = whole.label == 1
    kinds = [f for f in sorted(set(family[bad])) if (bad & (family == f)).sum() >= LEAST]
    plan = {NONE: lambda x: x.windows, **CHANGES}
    corpora, orders = {}, {}
    for name, change in plan.items():
        progress(f"perturbing: {name}", 0.0)
        made = [perturbed(r, change) for r in data.test]
        corpora[name] = gather([r for r, _ in made], schema)
        orders[name] = np.concatenate([o + a for (_, o), a in zip(made, whole.bounds[:-1], strict=True)])
    detectors: dict[str, dict[str, list[float]]] = {}
    names = (SHIPPED, *_RIVALS)
    for k, name in enumerate(names):
        for seed in seeds:
            progress(f"{name} against the attacker, seed {seed}", k / len(names))
            recipe = Recipe(seed=seed, behaviour=False)
            digests = map(corpus_digest, (learn, *corpora.values()))
            store = Store(cache, schema.digest, *digests, code=__name__)
            trials = {}
            fitted: Any = None
            for attack, corpus in corpora.items():

                def make(corpus=corpus, recipe=recipe, seed=seed, name=name) -> Trial:  # type: ignore[no-untyped-def]
                    nonlocal fitted
                    if name in BASELINES:
                        if fitted is None:
                            fitted = BASELINES[name]()
                            fitted.fit(learn, np.ones(len(learn), np.bool_), seed)
                        return Trial(fitted.score(corpus))
                    if fitted is None:
                        fitted = models.checkpoint(
                            name, seed, lambda: train(data.train, data.calibrate, recipe=recipe)
                        )
                    return judge_with(fitted, corpus, recipe)

                trials[attack] = store.trial(f"{name} against {attack}", seed, make)
            ways = {name: {a: t.score for a, t in trials.items()}}
            if name == SHIPPED and all("attack" in t.parts for t in trials.values()):
                ways[UNLABELLED] = {a: without(t, ("attack",)).score for a, t in trials.items()}
            for called, scores in ways.items():
                for attack, share in kept(scores, orders, whole.label, family, kinds).items():
                    detectors.setdefault(called, {}).setdefault(attack, []).append(share)
    return {
        "about": f"Macro share of connections found at {_RATE:g} (limit from the undisturbed benign rows of the test "
        f"split, {len(kinds)} families). Only what the originator sends is changed; connection, packets, order and "
        "counts are computed again, logs and the responder stay. Not adaptive: no perturbation was searched against a "
        "detector, the last row lets the attacker choose the best of the list for every connection. Training saw none.",
        "attacks": [*plan, WORST],
        "detectors": detectors,
    }


def kept(
    scores: Mapping[str, Floats],
    orders: Mapping[str, NDArray[np.int64]],
    label: NDArray[np.int8],
    family: NDArray[Any],
    kinds: Sequence[str],
) -> dict[str, float]:
    """Macro share found by perturbation, and where the attacker takes the best of all for each connection."""
    limit = np.quantile(scores[NONE][label[orders[NONE]] == 0], 1.0 - _RATE)
    out, worst = {}, np.full(len(label), np.inf)
    for attack, s in scores.items():
        back = np.empty(len(label))
        back[orders[attack]] = s
        worst = np.minimum(worst, back)
        out[attack] = _macro(back > limit, label, family, kinds)
    out[WORST] = _macro(worst > limit, label, family, kinds)
    return out


def _macro(
    found: NDArray[np.bool_], label: NDArray[np.int8], family: NDArray[Any], kinds: Sequence[str]
) -> float:
    return float(np.mean([found[(label == 1) & (family == f)].mean() for f in kinds]))
