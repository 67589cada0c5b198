"""What a host comes to in an hour against hosts' hours here: above their ninetieth percentile Pareto's tail.

Five things are measured of each hour: bytes of the largest connection, responders that were spoken to, logins that were
refused, connections without an answer, information in the names asked for below one domain. The tail's index is Hill's
estimator (1975) with a prior. Of a host whose own days came near nothing is evidence, and its hours are none of the
tail. So a slow scan, a guesser of passwords, a flood and a tunnel are found by what they come to, though each of their
connections be ordinary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.decision.usual.tails import MOST

MEASURES: Final = ("sent", "responders", "logins", "tries", "names")
SENT, RESPONDERS, LOGINS, TRIES, NAMES = range(5)
_OCTAVE: Final = 8  # bins to each power of two
BINS: Final = 50 * _OCTAVE
_HOURS_KNOWN: Final = 100.0  # hosts' hours of the days before, from which on there is a tail
_PRIOR: Final = np.array(
    [10.0, 3.0, 3.0, 3.0, 3.0]
)  # by measure, hours above the percentile, counted before any was seen
_PRIOR_INDEX: Final = np.array([1.0, 1.5, 1.5, 1.5, 1.5])  # of whose tail; with 1 it has no mean
# Until days are known here: of logins what hosts' hours of normal days of ten laboratory networks had in common (shares
# of .004 to .03, indices of 1.23 to 1.5), of names that and 421 hosts' hours of benign captures (a share of .07; none
# beyond 2,800 bits). Of the other measures one network says nothing of the next.
_UNKNOWN: Final = (np.inf, 1.0, 1.0)
_UNLEARNED: Final = (
    _UNKNOWN,
    _UNKNOWN,
    (2.0 ** (1 / _OCTAVE), 0.02, 1.4),
    _UNKNOWN,
    (256.0, 0.07, 1.25),
)
# What is beyond the host's own days: so many times the most of an hour, and so much more.
_TIMES: Final = np.array([4.0, 2.0, 2.0, 2.0, 4.0])
_MORE: Final = np.array([0.0, 10.0, 8.0, 30.0, 3000.0])
# In which one connection can be evidence against its host: how long the host keeps to what is new is another.
_WAYS: Final = len(MEASURES) + 1.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Amounts:
    """What the originators of connections [n] have come to in this hour with each of them."""

    place: NDArray[np.int64]  # [n] where the originator stands, -1 nowhere
    value: Floats  # [n, MEASURES] so far; of names those below the domain that it asks for
    added: Floats  # [n, MEASURES] of that by this connection; of what is sent, its bytes


@dataclass(frozen=True, slots=True)
class HourTails:
    """Of each measure the value that its tail begins at, the share of hosts' hours beyond, the tail's index."""

    level: Floats
    share: Floats
    index: Floats

    def beyond(self, amounts: Amounts, own: Floats) -> Floats:
        """-log10 of the share of hosts' hours that come to as much, [n, MEASURES].

        `own` [n, MEASURES] is the most of an hour on the originator's own days. 0 of what others come to in one hour of
        ten, of what adds nothing, and of what is usual for the host.
        """
        value = amounts.value
        news = (amounts.added > 0.0) & (value > self.level) & is_news(value, own)
        e = self.index * np.log10(np.maximum(value / self.level, 1.0)) - np.log10(_WAYS * self.share)
        return np.where(news, np.clip(e, 0.0, MOST), 0.0)


def bin_of(value: Floats) -> NDArray[np.int64]:
    """Of values [n]; those below 1 share the lowest."""
    return np.asarray(np.minimum(np.log2(np.maximum(value, 1.0)) * _OCTAVE, BINS - 1), np.int64)


def is_news(value: Floats, own: Floats) -> NDArray[np.bool_]:
    """Whether what hosts come to in an hour [n, MEASURES] is beyond the most of their `own` days."""
    out: NDArray[np.bool_] = value >= np.maximum(_TIMES * own, own + _MORE)
    return out


def tails_of_hours(hours: Floats) -> HourTails:
    """The tails by how many hosts' hours lie in each bin, [2, MEASURES, BINS], all and those that were news for their
    host; of few hours those of no learning.
    """
    found = [
        unlearned if of.sum() < _HOURS_KNOWN else _tail(of, news, prior, index)
        for of, news, prior, index, unlearned in zip(*hours, _PRIOR, _PRIOR_INDEX, _UNLEARNED, strict=True)
    ]
    return HourTails(*np.array(found).T)


def _tail(hours: Floats, news: Floats, prior: float, prior_index: float) -> tuple[float, float, float]:
    n = float(hours.sum())
    at = int(np.searchsorted(np.cumsum(hours), 0.9 * n)) + 1
    above = news[at:]
    k = float(above.sum())
    beyond = float(above @ ((np.arange(len(above)) + 0.5) / _OCTAVE * np.log(2.0)))
    return 2.0 ** (at / _OCTAVE), (k + 1.0) / (n + 1.0), (k + prior) / (beyond + prior / prior_index)
