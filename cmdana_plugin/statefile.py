"""What was learned of a site, on disk: checked, versioned, for its owner alone, never pickle (safetensors)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from cmdana_plugin import files
from feature_extractors import CmdanaError

FORMAT: Final = "1"
NAME: Final = "state"
SUFFIX: Final = ".safetensors"
Arrays = dict[str, NDArray[Any]]

_TYPES: Final = {
    "F32": np.float32, "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "BOOL": np.bool_,
}  # fmt: skip
_WORDS: Final = {np.dtype(kind): word for word, kind in _TYPES.items()}
_MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_MAX_BYTES: Final = 64 * 1024**3
_DIGEST: Final = "digest"
_AT: Final = ".at"  # of a packed table: which rows it has
_ROWS: Final = ".rows_in_all"


class StateError(CmdanaError):
    """A state cannot be used; the message names the file and what was found and expected."""


@dataclass(frozen=True, slots=True)
class State:
    """Arrays by name, and what they are of: schema, key, model, network time, as text."""

    about: Mapping[str, str]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def bytes(self) -> int:
        return sum(a.nbytes for a in self.arrays.values())


def write(path: Path, state: State) -> None:
    """Writes it beside and moves it: a reader finds the old or the new one, whole. Raises `OSError`."""
    with files.replacing(path, 0o600) as file:
        _write(file, state)


def read(path: Path, only: str = "") -> State:
    """The state of a file. Raises `StateError` for one that is cut, changed, of another format or others' to read.

    Of a state of gigabytes, `only` what has a name that begins so can be read; no checksum is taken then.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise StateError(f"{path}: is no file")
            if about.st_mode & 0o077:
                raise StateError(
                    f"{path}: others can read it (mode {about.st_mode & 0o777:03o}); chmod 600 {path}"
                )
            return _read(file, about.st_size, path, only)
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from None


def set_aside(path: Path) -> Path:
    """Moves a file that cannot be used out of the way; the path that it has from now on. Raises `OSError`."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.stem}.refused-{n}{path.suffix}")
        with suppress(FileExistsError):
            os.link(path, aside, follow_symlinks=False)
            path.unlink()
            return aside
    raise FileExistsError(path)


def packed(table: str, keys: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> Arrays:
    """The rows of a table whose key is not 0, and where they stand; `columns` all begin with as many rows as `keys`."""
    at = np.flatnonzero(keys)
    rows = {f"{table}.{name}": column[at] for name, column in columns.items()}
    return rows | {table + _AT: at, table + _ROWS: np.array([len(keys)])}


def unpacked(
    table: str, arrays: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]], sizes: Iterable[int]
) -> Arrays:
    """The columns as they were, of one of the `sizes`; `columns` are like them but for their number of rows.

    Raises `ValueError` where they cannot have been.
    """
    at, rows = arrays.get(table + _AT), arrays.get(table + _ROWS)
    if at is None or rows is None or rows.shape != (1,) or at.ndim != 1 or at.dtype != np.int64:
        raise ValueError(f"{table}: found no such table")
    size = int(rows[0])
    if size not in set(sizes):
        raise ValueError(f"{table}: found {size:,} places, expected at most {max(sizes, default=0):,}")
    if len(at) and (at[0] < 0 or at[-1] >= size or (np.diff(at) <= 0).any()):
        raise ValueError(f"{table}: found other places than 0..{size - 1}")
    out: Arrays = {}
    for name, like in columns.items():
        found = arrays.get(f"{table}.{name}")
        expected = (len(at), *like.shape[1:])
        if found is None or found.dtype != like.dtype or found.shape != expected:
            seen = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ValueError(f"{table}.{name}: found {seen}, expected {like.dtype}{list(expected)}")
        whole = np.zeros((size, *like.shape[1:]), like.dtype)
        whole[at] = found
        out[name] = whole
    return out


def column(arrays: Mapping[str, NDArray[Any]], name: str, like: NDArray[Any]) -> NDArray[Any]:
    """A copy of an array of this type and shape. Raises `ValueError` where there is none."""
    found = arrays.get(name)
    if found is None or found.dtype != like.dtype or found.shape != like.shape:
        seen = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
        raise ValueError(f"{name}: found {seen}, expected {like.dtype}{list(like.shape)}")
    return np.array(found)


def prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays under names that begin with `prefix`."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def text_array(value: object) -> NDArray[np.uint8]:
    """Plain values as an array of their JSON."""
    words = json.dumps(value, separators=(",", ":"), default=lambda x: x.item())
    return np.frombuffer(words.encode("utf-8", "surrogatepass"), np.uint8)


def of_text(arrays: Mapping[str, NDArray[Any]], name: str) -> Any:
    """Plain values of an array of their JSON. Raises `ValueError` where it is none."""
    found = arrays.get(name)
    if found is None or found.dtype != np.uint8 or found.ndim != 1:
        raise ValueError(f"{name}: found no text")
    try:
        return json.loads(found.tobytes().decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: found no JSON") from None


# The file: safetensors, and in its metadata a digest of all that it holds.


def _digest(about: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=32, person=b"cmdana state")
    for key in sorted(about):
        digest.update(json.dumps([key, about[key]]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, _WORDS[array.dtype], list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _write(file: IO[bytes], state: State) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    about = {**state.about, "format": FORMAT}
    about[_DIGEST] = _digest(about, arrays)
    header: dict[str, Any] = {"__metadata__": about}
    # The widest first, so that each begins at a multiple of its own width.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    at = 0
    for name in order:
        array = arrays[name]
        header[name] = {
            "dtype": _WORDS[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes],
        }  # fmt: skip
        at += array.nbytes
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    file.write(struct.pack("<Q", len(words)) + words)
    for name in order:
        file.write(arrays[name].reshape(-1).view(np.uint8).data)


def _read(file: IO[bytes], size: int, path: Path, only: str) -> State:
    cut = StateError(f"{path}: is cut short or no state of cmdana's")
    head = file.read(8)
    words = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < words <= min(_MAX_HEADER_BYTES, size) or size > _MAX_BYTES:
        raise cut
    try:
        header = json.loads(file.read(words))
        about = header.pop("__metadata__")
        digest = about.pop(_DIGEST)
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in about.items()):
            raise cut
        if about.get("format") != FORMAT:
            raise StateError(f"{path}: is of format {about.get('format')!s:.20}; expected {FORMAT}")
        arrays: Arrays = {}
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = tensor["data_offsets"]
            shape, kind = [int(n) for n in tensor["shape"]], np.dtype(_TYPES[tensor["dtype"]])
            if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != end - begin:
                raise cut
            if not 0 <= begin <= end <= size - 8 - words:
                raise cut
            if not name.startswith(only):
                continue
            file.seek(8 + words + begin)
            array = np.empty(shape, kind)
            if file.readinto(array.reshape(-1).view(np.uint8).data) != end - begin:  # type: ignore[attr-defined]
                raise cut
            arrays[name] = array
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise cut from None
    if not only and _digest(about, arrays) != digest:
        raise StateError(f"{path}: has been changed or damaged: its checksum is another")
    return State(about, arrays)
