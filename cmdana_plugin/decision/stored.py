"""Data of this room as plain values of JSON and back, by the types that its classes declare."""

from __future__ import annotations

import types
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

_ALONE: Final = (str, int, float, bool)


def plain(value: Any) -> Any:
    """A value of dataclasses, named tuples, counters and their like as lists, dicts and what they are made of."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return [[plain(k), plain(v)] for k, v in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, list | tuple | deque):
        return [plain(v) for v in value]
    return value


def made(kind: Any, value: Any) -> Any:
    """The value of type `kind` that `plain` made this of. Raises `ValueError` where it cannot have been.

    What an earlier version did not know is as it is by default.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return made(next(a for a in arguments if a is not type(None)), value)
    if kind in _ALONE or origin is Literal:
        wanted = str if origin is Literal else (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"found {value!r:.40}, expected {getattr(kind, '__name__', kind)}")
        if origin is Literal and value not in arguments:
            raise ValueError(f"found {value!r:.40}, expected one of {arguments}")
        return value
    if kind is None or kind is type(None):
        return None
    if is_dataclass(kind):
        assert isinstance(kind, type)
        if not isinstance(value, dict):
            raise ValueError(f"found no {kind.__name__}")
        return _dataclass(kind, value)
    if not isinstance(value, list):
        raise ValueError(f"found {type(value).__name__}, expected a list")
    if hasattr(kind, "_fields"):
        hints, most = _hints(kind), len(kind._fields)
        if not most - len(kind._field_defaults) <= len(value) <= most:
            raise ValueError(f"found {len(value)} values, expected those of {kind.__name__}")
        return kind(*(made(hints[name], v) for name, v in zip(kind._fields, value, strict=False)))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(made(arguments[0], v) for v in value)
        if len(value) != len(arguments):
            raise ValueError(f"found {len(value)} values, expected {len(arguments)}")
        return tuple(made(a, v) for a, v in zip(arguments, value, strict=True))
    if origin in (list, set, deque, Sequence):
        to = list if origin is Sequence else origin
        return to(made(arguments[0], v) for v in value)
    if origin in (dict, Counter, OrderedDict, Mapping):
        each = arguments if len(arguments) == 2 else (arguments[0], int)
        pairs = [(made(each[0], k), made(each[1], v)) for k, v in map(_pair, value)]
        return dict(pairs) if origin is Mapping else origin(dict(pairs))
    raise ValueError(f"cannot be read: {kind}")


def _pair(value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("found no pair")
    return value[0], value[1]


def _dataclass(kind: type, value: dict[str, Any]) -> Any:
    hints, out = _hints(kind), {}
    for f in fields(kind):
        if f.name not in value:
            if f.default is not MISSING or f.default_factory is not MISSING:
                continue
            raise ValueError(f"found no {f.name} of {kind.__name__}")
        found = made(hints[f.name], value[f.name])
        if isinstance(found, deque) and f.default_factory is not MISSING:
            found = deque(found, f.default_factory().maxlen)
        out[f.name] = found
    return kind(**out)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
