"""A site's streams between two runs: packed for a checkpoint, checked when they come back, and moved in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin.behaviour.tables import ALPHABET, CLUSTERS
from cmdana_plugin.detector import Unsound

Arrays = Mapping[str, NDArray[Any]]

_KEYS: Final = ".keys"
_AT: Final = ".at"  # of a packed table: which slots are taken
_SLOTS: Final = ".slots"  # and of how many
_OF_ALL: Final = ("groups.centre", "groups.members")  # columns that have no slots
_CLUSTER: Final = 2  # of `held`
_MOST_SLOTS: Final = 1 << 24
_FAR: Final = 1e18
_LATEST: Final = 1 << 50
_DAY: Final = 86_400.0  # time is moved by whole days, so that an hour of the day stays what it is
# Columns that tell a time: how many seconds their unit has.
_TIMES: Final = {"used": 1.0, "first": 1.0, "ends": 1.0, "visited": 1.0, "hour": 3600.0}
_MEETINGS: Final = "meetings.value"
_SLOTS_OF: Final = (60.0, 600.0)  # of the columns of `slot_of`
_CLOCK: Final = "clock"


def packed(state: Arrays) -> dict[str, NDArray[Any]]:
    """The state without the slots that nobody has."""
    out = dict(state)
    for table in _tables(state):
        keys = state[table + _KEYS]
        at = np.flatnonzero(keys)
        for name in _columns(state, table):
            out[name] = np.concatenate([state[name][at], state[name][len(keys) :]])
        out[table + _AT] = at.astype(np.int32)
        out[table + _SLOTS] = np.array([len(keys)], np.int32)
    return out


def unpacked(past: Arrays) -> dict[str, NDArray[Any]]:
    """The state as it was. Raises `Unsound` where it cannot have been, or holds what streams never do."""
    out = {k: v for k, v in past.items() if not k.endswith((_AT, _SLOTS))}
    for table in _tables(past):
        at, slots = past.get(table + _AT), past.get(table + _SLOTS)
        if slots is None or slots.dtype != np.int32 or slots.shape != (1,) or not 0 < slots[0] <= _MOST_SLOTS:
            raise Unsound(f"past.{table}{_SLOTS}", "no such number", f"one of 1..{_MOST_SLOTS}")
        if at is None or at.dtype != np.int32 or at.ndim != 1 or len(at) != len(past[table + _KEYS]):
            raise Unsound(f"past.{table}{_AT}", "no such numbers", "a slot for each key")
        if len(at) and (at[0] < 0 or at[-1] >= slots[0] or (np.diff(at) <= 0).any()):
            raise Unsound(f"past.{table}{_AT}", "other slots", f"rising ones of 0..{slots[0] - 1}")
        for name in _columns(out, table):
            values = out[name]
            if values.ndim < 1 or len(values) < len(at):
                raise Unsound(f"past.{name}", f"{list(values.shape)[:4]}", f"{len(at)} rows or more")
            whole = np.zeros((int(slots[0]), *values.shape[1:]), values.dtype)
            whole[at] = values[: len(at)]
            out[name] = np.concatenate([whole, values[len(at) :]])
    for name, values in out.items():
        _check(name, values)
    return out


def ending_before(state: Arrays, begin: float) -> dict[str, NDArray[Any]]:
    """The state as if it had ended by network time `begin`: older traffic is judged by what is known all the same."""
    days = max(np.ceil((float(state[_CLOCK][0]) - begin) / _DAY), 0.0)
    if days == 0.0:
        return dict(state)
    back, out = days * _DAY, dict(state)
    for name, values in state.items():
        column = name.rpartition(".")[2]
        if column in _TIMES:
            # What is not yet is negative, and stays so.
            moved = values - np.array(back / _TIMES[column]).astype(values.dtype)
            out[name] = np.where(values > 0, moved, values)
        elif column == "slot_of":
            moved = values - np.array([back / seconds for seconds in _SLOTS_OF]).astype(values.dtype)
            out[name] = np.where(values > 0, moved, values)
    out[_MEETINGS] = np.where(state[_MEETINGS] > 0, state[_MEETINGS] - back, state[_MEETINGS])
    out[_CLOCK] = state[_CLOCK] - np.array([back, 0.0])
    return out


def _tables(arrays: Arrays) -> list[str]:
    return sorted(name.removesuffix(_KEYS) for name in arrays if name.endswith(_KEYS))


def _columns(arrays: Arrays, table: str) -> list[str]:
    return [name for name in arrays if name.startswith(f"{table}.") and name not in _OF_ALL]


def _check(name: str, values: NDArray[Any]) -> None:
    """Raises `Unsound` for what would lead the walk beside its tables."""
    column = name.rpartition(".")[2]
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values.size and np.abs(values).max() > _FAR):
            raise Unsound(f"past.{name}", "no number", "finite numbers")
        if column in ("seen", "worth", "visits") and values.size and values.min() < 0:
            raise Unsound(f"past.{name}", float(values.min()), "0 or more")
        if column == "held" and values.ndim == 2 and values.shape[1] > _CLUSTER:
            clusters = values[:, _CLUSTER]
            if ((clusters < 0) | (clusters > CLUSTERS) | (clusters != np.floor(clusters))).any():
                raise Unsound(f"past.{name}", "other clusters", f"whole numbers of 0..{CLUSTERS}")
    elif values.dtype.kind == "i" and values.size:
        if values.min() < -_LATEST or values.max() > _LATEST:
            raise Unsound(f"past.{name}", int(np.abs(values).max()), f"no more than {_LATEST}")
    elif column == "codes" and values.size and values.max() >= ALPHABET:
        raise Unsound(f"past.{name}", int(values.max()), f"codes of 0..{ALPHABET - 1}")
