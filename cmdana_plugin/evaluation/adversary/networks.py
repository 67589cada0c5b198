"""Networks over fields before descent through them: as they are trained, trained on, and hardened by it.

Hardened is trained on with a price on what the head says of a connection and of what descent makes of it being two
things (TRADES: Zhang et al. 2019); trained on as long without that price is what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cmdana_plugin.detector import OfFields, detector_of, drawn
from cmdana_plugin.evaluation.adversary.gradient import (
    BUDGETS,
    STEPS,
    Section,
    Target,
    descend,
    kept_by,
    places,
    raw_of,
    target_of,
)
from cmdana_plugin.evaluation.metrics import COLUMNS, judge
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.whole_days.page import table
from cmdana_plugin.training import Corpus, Recipe, balance, gather, train
from feature_extractors import concat
from feature_extractors.features import load_schema

Progress = Callable[[str, float], None]

MARK: Final = "<!-- descent -->"  # before and after this section of a page
PLAIN: Final = "as trained"
LONGER: Final = "trained on"
CONSISTENT: Final = "consistent"
WAYS: Final = (PLAIN, LONGER, CONSISTENT)
_MOST: Final = 300  # malicious connections
_RATE: Final = 1e-3
_TURNS: Final = 60  # steps of training on
_DRAWN: Final = 256  # connections of one
_INNER: Final = 3  # steps of descent in each
_BUDGET: Final = 4.0
_PRICE: Final = 4.0  # of two answers, against one of a wrong one
_LEARNING_RATE: Final = 5e-4


def harden(target: Target, corpus: Corpus, consistent: bool, *, turns: int = _TURNS, seed: int = 0) -> None:
    """Trains the network of `target`, which stands before `corpus`, on: for so many turns on labelled connections.

    If `consistent`, each turn looks for the change of every connection, attacks or not, that moves the head's answer
    most, and asks for the same answer. Classes are benign and malicious; kinds of attack keep their share.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    network = target.detector.fields
    network.requires_grad_(True)
    network.train()
    taught = np.flatnonzero(corpus.label >= 0)
    weight = balance(corpus, corpus.label >= 0)[taught]
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
    most = float(np.log(_BUDGET))
    for _ in range(turns):
        rows = taught[drawn(weight, _DRAWN, "sampler", rng)]
        malicious = torch.from_numpy(corpus.label[rows] == 1)
        plain = _two(target.told(rows, torch.zeros(len(rows), 3)).kinds)
        loss = F.nll_loss(plain, malicious.long())
        if consistent:
            with torch.no_grad():
                said = plain.clone()
            u = most * torch.rand(len(rows), 3, generator=generator)
            for _ in range(_INNER):
                u = u.detach().requires_grad_(True)
                apart = _apart(said, _two(target.told(rows, u).kinds))
                (slope,) = torch.autograd.grad(apart, u)
                u = (u.detach() + (2.0 * most / _INNER) * slope.nan_to_num(0.0).sign()).clamp(0.0, most)
            loss = loss + _PRICE * _apart(plain, _two(target.told(rows, u.detach()).kinds))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    network.eval()


def _two(kinds: Tensor) -> Tensor:
    """The logarithms of the chances of benign and malicious [B, 2] from a head's logits."""
    return torch.stack([kinds[:, 0], torch.logsumexp(kinds[:, 1:], dim=1)], dim=1).log_softmax(dim=1)


def _apart(said: Tensor, other: Tensor) -> Tensor:
    """How far two answers [B, 2] are apart: the mean Kullback-Leibler divergence."""
    return (said.exp() * (said - other)).sum(dim=1).mean()


def evaluate(
    split: Split,
    names: Sequence[str],
    *,
    seed: int = 0,
    epochs: int | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Section:
    """Shares of malicious connections of the test split that each network's head still finds, as it is and hardened.

    The limit leaves 1e-3 of the undisturbed benign rows of the test split, for each head its own.
    """
    schema = load_schema()
    learn, test = gather(split.train, schema), gather(split.test, schema)
    of_learn, of_test = (
        concat([r.windows for r in part if len(r.windows)]).connections for part in (split.train, split.test)
    )
    bad = np.random.default_rng(seed).permutation(np.flatnonzero(test.label == 1))[:_MOST]
    able = raw_of(of_test).able.numpy()
    found: Section = {}
    for k, name in enumerate(names):
        progress(f"{name}: gradients", k / len(names))
        recipe = Recipe(seed=seed, behaviour=False, epochs=epochs, detector=name)
        made = train(split.train, split.calibrate, recipe=recipe)
        for way in WAYS:
            progress(f"{name}, {way}", (k + 0.5) / len(names))
            detector = detector_of(made, schema, hosts=64)
            assert isinstance(detector, OfFields)
            if way != PLAIN:
                lesson, _ = target_of(detector, learn, of_learn, recipe)
                harden(lesson, learn, way == CONSISTENT, seed=seed)
            detector.fields.requires_grad_(False)
            target, odds = target_of(detector, test, of_test, recipe)
            limit = float(np.quantile(odds[test.label == 0], 1.0 - _RATE))
            row = dict(zip(COLUMNS, judge(odds, test.label, test.family)[1].row(), strict=True))
            one = kept_by(target, bad, limit, STEPS if way == PLAIN else STEPS[-1:])
            mine = bad[able[bad]]
            _, u = descend(target, mine, BUDGETS[-2], STEPS[-2], seed)
            one["attention"] = {"as it is": places(target, mine, torch.zeros_like(u)),
                                "attacked": places(target, mine, u)}  # fmt: skip
            one["clean"] = [row[c] for c in ("tpr@0.01", "tpr@0.001", "auroc")]
            found.setdefault(name, {})[way] = one
    return found


def words(found: Mapping[str, Any]) -> str:
    """The findings in Markdown: descent by steps and budget, whether it is masked, gain and price, attention."""
    first = next(iter(next(iter(found.values())).values()))
    budgets = [f"x{b:g}" for b in first["budgets"]]
    ways = [(n, way, one) for n, of in found.items() for way, one in of.items()]
    masked = [n for n, of in found.items() if of[PLAIN]["masked"]]
    out = [
        "## Descent through networks",
        f"Gradient descent (PGD) on factors of bytes, packets and duration of "
        f"{first['rows']:,} malicious connections, of which {first['able']:.2f} can be more, every field that follows "
        "computed again, the past left as it is. Share that the network's own head still finds at 1e-3, by the "
        "greatest factor. Bins are looked up, and a look-up has no slope; it is given that of what is looked up a "
        "quarter of a spread to either side, and one row goes without. If success did not grow with steps and "
        "budget, or chance did better, gradients would be masked and the figures worth nothing: "
        + ("so it is of " + " and ".join(masked) + "." if masked else "it grows with both."),
        table(
            ["network", "way", *budgets],
            [
                [n, way, *(f"{x:.3f}" for x in kept)]
                for n, of in found.items()
                for way, kept in of[PLAIN]["kept"].items()
            ],
        ),
        f"Hardened by the same descent: trained on for {_TURNS} steps with a price on two answers to a connection and "
        "to what descent makes of it (consistent, as TRADES), beside as many steps without. Price: macro on the test "
        f"split as it is; gain: share still found after {STEPS[-1]} steps.",
        table(
            ["network", "head", "TPR at 1e-2", "at 1e-3", "AUROC", *budgets],
            [
                [n, way, *(f"{x:.3f}" for x in one["clean"]), *(f"{x:.3f}" for x in one["kept"][f"{STEPS[-1]} steps"])]
                for n, way, one in ways
            ],
        ),
        "Where attention lies, of malicious connections that can be changed, as they are and after descent at a factor "
        f"of {BUDGETS[-2]:g}: mean weight.",
        table(
            ["network", "head", "connections", *first["attention"]["as it is"]],
            [
                [n, way, when, *(f"{x:.3f}" for x in of.values())]
                for n, way, one in ways
                for when, of in one["attention"].items()
            ],
        ),
    ]  # fmt: skip
    return "\n\n".join(out)
