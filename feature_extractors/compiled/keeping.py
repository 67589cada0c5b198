"""Keeps what numba has compiled as `ready` loads it: the machine code of its cache, in one file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.core.registry import cpu_target
from numba.np.numpy_support import as_dtype

from feature_extractors.compiled import ready
from feature_extractors.compiled.jit import wake
from feature_extractors.compiled.source_digest import code_digest


def keep(folder: Path | None = None) -> int:
    """The number of functions kept, of those that numba's cache holds for modules loaded so far; 0 where none can be.

    With them what `ready.remembered` has answered, here or in a process that kept it before. They replace what was kept
    in the folder, or in the first of `ready.folders` that can be written.
    """
    made = wake().made
    functions, code = {}, bytearray()
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    for dispatcher in made:
        function = dispatcher.py_func
        kept = []
        for (_, kind, library), described, environment, signature in _cached(dispatcher):
            arguments = [_spelled(a) for a in signature.args]
            constants = [c.str if isinstance(c, np.dtype) else None for c in environment.consts]
            if kind != "object" or None in arguments or None in constants:
                continue  # which only compiled functions call, or numba alone can load
            names = described.llvm_cpython_wrapper_name, environment.env_name
            kept.append((arguments, (len(code), len(library[0]), *names, constants)))
            code += library[0] + bytes(-len(library[0]) % 16)
        if kept:
            functions[ready.name_of(function)] = code_digest(function.__module__), kept
    head = {
        "made_by": ready.made_by(),
        "triple": triple,
        "features": [f[1:] for f in features.split(",") if f.startswith("+")],
        "functions": functions,
        "values": {**ready.kept_values(), **ready.values},
    }
    for place in [folder] if folder is not None else ready.folders():
        with contextlib.suppress(OSError):
            _replace(place / f"{ready.NAME}.kept", ready.packed(head, bytes(code)))
            ready.forget()
            return len(functions)
    return 0


def _cached(dispatcher: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """What numba's cache has of a function as it is now and for this processor: library, names, constants, types."""
    cache, codegen = dispatcher._cache, cpu_target.target_context.codegen()
    for key in cache._cache_file._load_index():
        if key[1:] == cache._index_key(key[0], codegen)[1:] and (data := cache._cache_file.load(key)):
            yield data[:4]


def _spelled(kind: Any) -> Any:
    """A type of an argument in words that `ready` reads; None for one that Python never passes."""
    match kind:
        case types.Literal():
            return None
        case types.Array():
            return (
                "array",
                ready.words_of(as_dtype(kind.dtype)),
                kind.ndim,
                kind.layout,
                kind.aligned,
                kind.mutable,
            )
        case types.Integer() | types.Float() | types.Boolean():
            return "scalar", kind.name
        case types.BaseTuple():
            made = getattr(kind, "instance_class", tuple)
            parts = [_spelled(part) for part in kind.types]
            return None if None in parts else ("tuple", ready.path_of(made), *parts)
    named = getattr(kind, "python_class", None)
    return None if named is None else ("class", ready.path_of(named))


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
