"""The walk of a finite automaton over bytes, compiled: the one loop that meets each byte of a head."""

from __future__ import annotations

from typing import Any

from feature_extractors.compiled import compiled_for


@compiled_for(
    "UniTuple(int64, 2)(int32[::1], Array(uint8, 1, 'C', True), Array(uint8, 1, 'C', True), int64, int64, int64)"
)
def walk(table: Any, kinds: Any, data: Any, state: Any, pos: Any, dead: Any) -> Any:
    """The state and offset after a walk over `data` from `pos` on, as long as transitions are known.

    The state and the end of `data`; or -1 less the place in `table` of a transition that is another, and the
    offset of its byte. `dead` is left by no byte.
    """
    size = len(data)
    while pos < size and state != dead:
        at = state + kinds[data[pos]]
        following = table[at]
        if following < 0:
            return -1 - at, pos
        state = following
        pos += 1
    return state, size
