"""Labelled captures as a flat table: each connection's features and counts, its class the kind of attack."""

from __future__ import annotations

from typing import Final

import numpy as np

from cmdana_plugin.detector import stratum_of
from cmdana_plugin.evaluation.protocol import Split
from cmdana_plugin.evaluation.tables.flat_tables import Table, Task
from cmdana_plugin.training import Corpus, gather
from feature_extractors.features import load_schema

_LEAST: Final = 20  # connections of a kind that is learned


def task_of(split: Split) -> Task:
    """What the train split teaches of kinds of attack (the first word of a family), asked of the test split.

    Connections of unknown label are left out, and of the train split kinds with fewer than twenty.
    """
    schema = load_schema()
    learn, test = (_table(gather(part, schema)) for part in (split.train, split.test))
    names, counts = np.unique([f for f in learn.family if f], return_counts=True)
    known = {"", *names[counts >= _LEAST].tolist()}
    learn = learn.take(np.array([i for i, f in enumerate(learn.family) if f in known], np.int64))
    return Task(
        "Labelled captures",
        "Train split to test split, other captures and mostly other families; classes are the first words of families "
        f"with {_LEAST} connections or more to learn from",
        learn,
        test,
    )


def _table(corpus: Corpus) -> Table:
    schema = load_schema()
    f = corpus.features
    rows = np.flatnonzero(corpus.label >= 0)
    numeric = np.concatenate([f.numeric, corpus.state, f.log_summary, f.first_packets], axis=1)
    width = [f.numeric.shape[1], corpus.state.shape[1], f.log_summary.shape[1], f.first_packets.shape[1]]
    sizes = tuple(c.size for c in schema.categorical)
    return Table(
        numeric[rows],
        f.categorical[rows].astype(np.int64),
        sizes,
        np.concatenate([np.repeat(np.arange(len(width)), width), np.zeros(len(sizes), np.int64)]),
        stratum_of(f, schema)[rows],
        corpus.label[rows],
        [corpus.family[i].split("-")[0] if corpus.label[i] == 1 else "" for i in rows.tolist()],
    )
