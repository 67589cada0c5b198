"""The tabular view: the detector's parts on public flat tables, beside the same baselines and published figures.

A flat table has no packets, no logs and no past. What remains of the detector is honest only where it fits: groups of
fields take the place of modalities, each predicted from the others by the network's own attention; the Gaussian
mixture, the boosted trees, calibration by protocol and the fusion are the very ones of the product. There is no state
and no gate that a state could move.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cmdana_plugin.detector import (
    CLASSES,
    Pool,
    Predictor,
    Shape,
    fit_mixture,
    fit_strata,
    fit_tail,
    fit_trees,
    learn_bins,
    standardise,
)
from cmdana_plugin.evaluation.baselines import DETECTORS_OF_TABLES
from cmdana_plugin.evaluation.metrics import Floats
from cmdana_plugin.evaluation.protocol import (
    SHIPPED,
    UNLABELLED,
    Section,
    Store,
    Trial,
    Truth,
    section,
    weighted,
)
from cmdana_plugin.training import Recipe
from feature_extractors import CmdanaError

Progress = Callable[[str, float], None]

_EPOCHS: Final = 4
_SMOOTH: Final = 0.02  # of the targets: what no training row has shown is unlikely, not impossible
_WIDTH: Final = 48
_MAX_CODES: Final = CLASSES - 1  # values of a category that have a code of their own; 0 is any other
_BENIGN_ROWS: Final = 20_000  # benign rows that kNN, mixture and isolation forest learn from, alike
_RULES: Final = 1  # raised where a baseline is treated otherwise, so that no older trial is taken for it
_FLAGGED_SHARE: Final = 1e-2  # share of held-back benign rows above the threshold of train folds

_NSL_WORDS: Final = (
    "duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot num_failed_logins "
    "logged_in num_compromised root_shell su_attempted num_root num_file_creations num_shells num_access_files "
    "num_outbound_cmds is_host_login is_guest_login count srv_count serror_rate srv_serror_rate rerror_rate "
    "srv_rerror_rate same_srv_rate diff_srv_rate srv_diff_host_rate dst_host_count dst_host_srv_count "
    "dst_host_same_srv_rate dst_host_diff_srv_rate dst_host_same_src_port_rate dst_host_srv_diff_host_rate "
    "dst_host_serror_rate dst_host_srv_serror_rate dst_host_rerror_rate dst_host_srv_rerror_rate attack difficulty"
)
_NSL_FIELDS: Final = tuple(_NSL_WORDS.split())
_NSL_GROUPS: Final = (9, 13, 9, 10)  # basic, content, traffic of two seconds, traffic of the host
_NSL_KINDS: Final = {
    "dos": "neptune smurf teardrop back pod land apache2 processtable mailbomb udpstorm",
    "probe": "satan ipsweep portsweep nmap mscan saint",
    "r2l": "guess_passwd warezmaster warezclient ftp_write imap multihop phf spy snmpguess snmpgetattack httptunnel "
    "sendmail named xlock xsnoop worm",
    "u2r": "buffer_overflow rootkit loadmodule perl ps xterm sqlattack",
}
_UNSW_GROUPS: Final = (
    "dur proto service state spkts dpkts sbytes dbytes rate",
    "sttl dttl ct_state_ttl sload dload sloss dloss",
    "sinpkt dinpkt sjit djit tcprtt synack ackdat",
    "swin dwin smean dmean trans_depth response_body_len is_ftp_login ct_ftp_cmd ct_flw_http_mthd",
    "ct_srv_src ct_dst_ltm ct_src_dport_ltm ct_dst_sport_ltm ct_dst_src_ltm ct_src_ltm ct_srv_dst is_sm_ips_ports",
)
_TTL: Final = ("sttl", "dttl", "ct_state_ttl")


@dataclass(frozen=True, slots=True)
class Table:
    """`n` rows in their file's order; categories as codes, 0 for what training has not shown often enough."""

    numeric: NDArray[np.float32]  # [n, F]
    codes: NDArray[np.int64]  # [n, C]
    sizes: tuple[int, ...]  # codes of each category
    group: NDArray[np.int64]  # [F + C] group of each field, numeric ones first
    stratum: NDArray[np.int64]  # [n] protocol
    label: NDArray[np.int8]
    family: list[str]

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: NDArray[np.int64]) -> Table:
        return replace(
            self,
            numeric=self.numeric[rows],
            codes=self.codes[rows],
            stratum=self.stratum[rows],
            label=self.label[rows],
            family=[self.family[i] for i in rows],
        )

    def flat(self) -> NDArray[np.float32]:
        """Numbers, then categories one-hot [n, F + sum(sizes)]."""
        hot = [np.eye(s, dtype=np.float32)[self.codes[:, j]] for j, s in enumerate(self.sizes)]
        return np.concatenate([self.numeric, *hot], axis=1)


@dataclass(frozen=True, slots=True)
class Task:
    """One protocol on one table: rows to learn from and rows to be judged."""

    name: str
    about: str
    learn: Table
    test: Table


def nsl_kdd(folder: Path) -> list[Task]:
    """The official split: KDDTrain+ teaches and sets thresholds, KDDTest+ judges. No difficulty, no constant field."""
    rows = {name: _csv(folder / f"KDD{name}+.txt", len(_NSL_FIELDS)) for name in ("Train", "Test")}
    kind = {attack: k for k, attacks in _NSL_KINDS.items() for attack in attacks.split()}
    group: dict[str, int] = {}
    names = iter(_NSL_FIELDS)
    for g, size in enumerate(_NSL_GROUPS):
        group |= {next(names): g for _ in range(size)}
    del group["num_outbound_cmds"]  # always zero
    split = [len(rows["Train"]), len(rows["Train"]) + len(rows["Test"])]
    columns = {f: [r[j] for part in rows.values() for r in part] for j, f in enumerate(_NSL_FIELDS)}
    attacks = columns["attack"]
    unknown = set(attacks) - set(kind) - {"normal"}
    if unknown:
        raise CmdanaError(f"{folder}: found attacks {', '.join(sorted(unknown))}; expected those of NSL-KDD")
    whole = _table(
        {f: columns[f] for f in group},
        group,
        ("protocol_type", "service", "flag"),
        "protocol_type",
        np.array([a != "normal" for a in attacks], np.int8),
        [kind.get(a, "") for a in attacks],
        np.arange(split[0]),
    )
    return [
        Task(
            "NSL-KDD, official split",
            "KDDTrain+ (four fifths to learn from, a fifth for thresholds, by seed) to KDDTest+",
            whole.take(np.arange(split[0])),
            whole.take(np.arange(*split)),
        )
    ]


def unsw_nb15(path: Path) -> list[Task]:
    """The part with 82,332 rows, split by blocks of 500 neighbouring rows, what repeats a row of training left out.

    The official split needs the other part. Row number and TCP sequence numbers are never fields.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        group = {f: g for g, fields in enumerate(_UNSW_GROUPS) for f in fields.split()}
        missing = [f for f in (*group, "attack_cat", "label") if f not in (reader.fieldnames or ())]
        if missing:
            raise CmdanaError(f"{path}: no column {', '.join(missing)}; expected the table of UNSW-NB15")
        rows = list(reader)
    part = np.arange(len(rows)) // 500 % 10
    learn = np.flatnonzero(part < 7)
    seen = {tuple(rows[i][f] for f in group) for i in learn}
    test = np.array([i for i in np.flatnonzero(part >= 7) if tuple(rows[i][f] for f in group) not in seen])
    tasks = []
    for without in ((), _TTL):
        mine = {f: g for f, g in group.items() if f not in without}
        whole = _table(
            {f: [r[f] for r in rows] for f in mine},
            mine,
            ("proto", "service", "state"),
            "proto",
            np.array([int(r["label"]) for r in rows], np.int8),
            ["" if r["label"] == "0" else r["attack_cat"].lower() for r in rows],
            learn,
        )
        name = "UNSW-NB15, the part at hand" + (", without TTL" if without else "")
        about = "seven of ten blocks of 500 rows to the other three, repeated rows left out; not the official split"
        tasks.append(Task(name, about, whole.take(learn), whole.take(test)))
    return tasks


def tasks_in(folder: Path) -> list[Task]:
    """The tables that a folder holds. Raises `CmdanaError` where there is none."""
    found: list[Task] = []
    if (folder / "nsl_kdd" / "KDDTrain+.txt").is_file():
        found += nsl_kdd(folder / "nsl_kdd")
    if (path := folder / "unsw_nb15" / "UNSW_NB15_training-set.csv").is_file():
        found += unsw_nb15(path)
    if (folder / "cicids2017" / "monday.csv").is_file():
        from cmdana_plugin.evaluation.tables.cicids import cicids2017

        found += cicids2017(folder / "cicids2017")
    if not found:
        raise CmdanaError(
            f"{folder}: found neither nsl_kdd/KDDTrain+.txt nor unsw_nb15/UNSW_NB15_training-set.csv nor "
            "cicids2017/monday.csv"
        )
    return found


def evaluate(
    tasks: Sequence[Task],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    only: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress = lambda _what, _share: None,
    partial: Callable[[Section], None] = lambda _found: None,
) -> Section:
    """The findings of every detector on every task: ranking of test rows, and F1 at a threshold from train folds."""
    found: Section = {}
    names = [n for n in (SHIPPED, *DETECTORS_OF_TABLES) if only is None or n in only]
    plan = [(t, n, s) for t in tasks for n in names for s in seeds]
    trials: dict[str, dict[str, list[Trial]]] = {t.name: {} for t in tasks}
    limits: dict[str, dict[str, list[list[float]]]] = {t.name: {} for t in tasks}
    digests = {t.name: _digest(t) for t in tasks}
    stores = {t.name: Store(cache, digests[t.name], code=__name__) for t in tasks}
    for i, (task, name, seed) in enumerate(plan):
        progress(f"{task.name}: {name}, seed {seed}", i / len(plan))
        whole = stores[task.name].trial(
            f"table {name}, {_RULES}",
            seed,
            lambda t=task, n=name, s=seed: _trial(t, n, s),  # type: ignore[misc]
        )
        held = np.random.default_rng(seed).permutation(len(task.learn))[: len(task.learn) // 5]
        parts = [(name, whole)]
        if name == SHIPPED:
            left = {k: w for k, w in whole.weights.items() if k != "attack"}
            parts.append((UNLABELLED, replace(whole, score=weighted(whole.parts, left), chance=None)))
        for called, both in parts:
            limits[task.name].setdefault(called, []).append(_pooled(both.score, task, held))
        trials[task.name].setdefault(name, []).append(whole.rows(slice(len(held), None)))
        if (i + 1) % len(seeds) == 0:
            found |= {task.name: _found(task, trials[task.name], limits[task.name], digests[task.name])}
            partial(found)
    return found


def _found(
    task: Task, trials: Mapping[str, list[Trial]], limits: dict[str, list[list[float]]], digest: str
) -> Section:
    truth = Truth(task.test.label, task.test.family, np.arange(len(task.test)) // 100)
    found = section(trials, truth)
    found["about"] |= {"protocol": task.about, "data": digest, "train": len(task.learn)}
    found["pooled"] = dict(limits)
    return found


POOLED: Final = ("fpr", "recall", "accuracy", "f1", "auroc", "tpr@0.05", "tpr@0.01", "tpr@0.001")


def _pooled(both: Floats, task: Task, held: NDArray[np.int64]) -> list[float]:
    """POOLED of scores of held-back rows, then test rows: at the threshold of train folds, then as a ranking."""
    benign = both[: len(held)][task.learn.label[held] == 0]
    score, bad = both[len(held) :], task.test.label == 1
    said = score > np.quantile(benign, 1.0 - _FLAGGED_SHARE)
    ranked = [float((score[bad] > np.quantile(score[~bad], 1.0 - r)).mean()) for r in (0.05, 0.01, 0.001)]
    return [
        float(said[~bad].mean()),
        float(said[bad].mean()),
        float((said == bad).mean()),
        _f1(said, bad),
        _auroc(score, bad),
        *ranked,
    ]


def _trial(task: Task, name: str, seed: int) -> Trial:
    """Scores of the held-back rows of training, then of the test rows."""
    mixed = np.random.default_rng(seed).permutation(len(task.learn))
    cut = len(mixed) // 5
    held, learn = task.learn.take(mixed[:cut]), task.learn.take(np.sort(mixed[cut:]))
    if name == SHIPPED:
        return _ours(learn, held, task.test, seed)
    fit, with_labels = DETECTORS_OF_TABLES[name]
    rng = np.random.default_rng(seed)
    x = learn.flat()
    scale = _scale(x[learn.label == 0])
    rows = np.arange(len(x))
    if not with_labels:
        rows = np.flatnonzero(learn.label == 0)
        rows = rng.permutation(rows)[:_BENIGN_ROWS] if name != "autoencoder" else rows
    score = fit(standardise(x[rows], scale), learn.label[rows] == 1, seed)
    both = np.concatenate([score(standardise(t.flat(), scale)) for t in (held, task.test)])
    return Trial(both, chance=both if with_labels else None)


def _ours(learn: Table, held: Table, test: Table, seed: int) -> Trial:
    torch.manual_seed(seed)
    benign = learn.take(np.flatnonzero(learn.label == 0))
    bins = learn_bins(benign.numeric)
    scale = _scale(benign.numeric)
    network = Groups(benign)
    _fit(network, *_inputs(benign, bins.codes(benign.numeric), scale), seed)
    flat = benign.flat()
    mixed = np.random.default_rng(seed).permutation(len(flat))[:_BENIGN_ROWS]
    flat_scale = _scale(flat)
    mixture = fit_mixture(standardise(flat[mixed], flat_scale), 16, seed)
    trees = fit_trees(learn.flat(), learn.label == 1, np.ones(len(learn)), seed * 1000, repeats=1)
    raw: dict[str, list[Floats]] = {}
    for t in (held, test):
        surprise = _surprise(network, *_inputs(t, bins.codes(t.numeric), scale))
        for g in range(surprise.shape[1]):
            raw.setdefault(f"group {g + 1}", []).append(surprise[:, g])
        raw.setdefault("density", []).append(mixture.score(standardise(t.flat(), flat_scale)))
        raw.setdefault("attack", []).append(trees.score(t.flat()))
    benign_held = held.label == 0
    stratum = np.concatenate([held.stratum, test.stratum])
    parts = {
        k: fit_strata(v[0][benign_held], held.stratum[benign_held]).p_value(np.concatenate(v), stratum)
        for k, v in raw.items()
    }
    anomaly = [k for k in parts if k != "attack"]
    weights = {k: 1.0 / len(anomaly) for k in anomaly} | {"attack": Recipe().attack_weight}
    evidence = weighted(parts, weights)
    p = fit_tail(evidence[: len(held)][benign_held]).p_value(evidence)
    chance = 1.0 / (1.0 + np.exp(-np.concatenate(raw["attack"])))
    return Trial(evidence, p, parts, weights, chance)


class Groups(nn.Module):
    """A network that predicts each group of fields from the others, one pool and one predictor per group."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        width, fields = table.numeric.shape[1], len(table.group)
        self.members = [torch.from_numpy(np.flatnonzero(table.group == g)) for g in np.unique(table.group)]
        shape = Shape(
            numeric=width, categorical=table.sizes, state=0, packet_width=0, log_width=0, log_buckets=1,
            targets=(0, 0, 0), width=_WIDTH,
        )  # fmt: skip
        self.numeric = width
        self.code = nn.Embedding(fields * CLASSES, _WIDTH)
        self.slope = nn.Parameter(torch.randn(width, _WIDTH) * 0.1)
        self.pools = nn.ModuleList(Pool(shape) for _ in self.members)
        self.ask = nn.Parameter(torch.zeros(_WIDTH))
        self.predictors = nn.ModuleList(Predictor(shape, len(m)) for m in self.members)

    def forward(self, codes: Tensor, values: Tensor) -> list[Tensor]:
        """Logits per group [B, members, CLASSES] of codes [B, fields] and standardised numbers [B, numeric]."""
        offset = torch.arange(codes.shape[1]) * CLASSES
        x = self.code(codes + offset)
        x = torch.cat([x[:, : self.numeric] + values[:, :, None] * self.slope, x[:, self.numeric :]], dim=1)
        z = [pool(x[:, m], None) for pool, m in zip(self.pools, self.members, strict=True)]
        ask = self.ask.expand(len(codes), -1)
        out = []
        for g, predictor in enumerate(self.predictors):
            others = torch.cat([t for h, t in enumerate(z) if h != g], dim=1)
            assert isinstance(predictor, Predictor)
            out.append(predictor.decode(predictor(ask, others, torch.zeros(others.shape[:2]))))
        return out


def _inputs(table: Table, numeric: NDArray[np.int64], scale: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    codes = np.concatenate([numeric, table.codes], axis=1)
    return torch.from_numpy(codes), torch.from_numpy(standardise(table.numeric, scale))


def _fit(network: Groups, codes: Tensor, values: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
    steps = _EPOCHS * (len(codes) // 1024 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.15)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(codes), generator=generator).split(1024):
            loss = torch.zeros(())
            for logits, m in zip(network(codes[rows], values[rows]), network.members, strict=True):
                wanted = codes[rows][:, m].flatten()
                loss = loss + F.cross_entropy(logits.flatten(0, 1), wanted, label_smoothing=_SMOOTH)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    network.eval()


def _surprise(network: Groups, codes: Tensor, values: Tensor) -> Floats:
    """Mean negative log probability of each group's fields given the others [n, groups]."""
    out = []
    with torch.inference_mode():
        for rows in torch.arange(len(codes)).split(4096):
            told = network(codes[rows], values[rows])
            out.append(
                torch.stack(
                    [
                        F.cross_entropy(x.flatten(0, 1), codes[rows][:, m].flatten(), reduction="none")
                        .view(len(rows), -1)
                        .mean(dim=1)
                        for x, m in zip(told, network.members, strict=True)
                    ],
                    dim=1,
                )
            )
    found: Floats = torch.cat(out).numpy().astype(np.float64)
    return found


def _table(
    columns: Mapping[str, Sequence[str]],
    group: Mapping[str, int],
    categories: Sequence[str],
    stratum: str,
    label: NDArray[np.int8],
    family: list[str],
    learn: NDArray[np.int64],
) -> Table:
    """Codes and scales from the rows `learn` only. Numbers that reach beyond ten are taken as logarithms."""
    numbers = [f for f in group if f not in categories]
    try:
        numeric = np.array([[float(v or 0) for v in columns[f]] for f in numbers], np.float64).T
    except ValueError as error:
        raise CmdanaError(f"table: {error}; expected a number") from None
    wide = np.abs(numeric[learn]).max(axis=0) > 10
    numeric[:, wide] = np.sign(numeric[:, wide]) * np.log1p(np.abs(numeric[:, wide]))
    codes, sizes = [], []
    for f in categories:
        common = [v for v, _ in Counter(columns[f][i] for i in learn).most_common(_MAX_CODES)]
        code = {v: k + 1 for k, v in enumerate(common)}
        codes.append([code.get(v, 0) for v in columns[f]])
        sizes.append(len(common) + 1)
    return Table(
        numeric.astype(np.float32), np.array(codes, np.int64).T, tuple(sizes),
        np.array([group[f] for f in (*numbers, *categories)]),
        np.array(codes[categories.index(stratum)], np.int64), label, family,
    )  # fmt: skip


def _scale(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([x.mean(axis=0), np.maximum(x.std(axis=0), 0.1)]).astype(np.float32)


def _csv(path: Path, columns: int) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise CmdanaError(f"{path}: cannot be read: {error.strerror}") from None
    if not rows or any(len(r) != columns for r in rows):
        raise CmdanaError(f"{path}: expected {columns} columns in every row")
    return rows


def _digest(task: Task) -> str:
    digest = hashlib.sha256()
    for t in (task.learn, task.test):
        for array in (t.numeric, t.codes, t.label, t.group):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _f1(said: NDArray[np.bool_], truth: NDArray[Any]) -> float:
    return float(2 * (said & truth).sum() / max(said.sum() + truth.sum(), 1))


def _auroc(score: Floats, bad: NDArray[Any]) -> float:
    benign = np.sort(score[~bad])
    below = np.searchsorted(benign, score[bad], side="left")
    ties = np.searchsorted(benign, score[bad], side="right") - below
    return float((below + 0.5 * ties).mean() / len(benign))
