"""Machine code that was kept, loaded by LLVM alone: numba, which made it, takes a second and 100 MB to be loaded.

One file holds what was compiled (`keeping` writes it), by function and types of arguments, with a digest of the sources
that each rests on. It is used where the processor has what the code was made for and the versions of numba and LLVM are
the same: the code calls functions of numba's runtime, which are libraries of their own. Else there is numba.
"""

from __future__ import annotations

import builtins
import ctypes
import functools
import marshal
import mmap
import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np

from feature_extractors.compiled import caches
from feature_extractors.compiled.source_digest import code_digest

NAME: Final = f"functions.{sys.implementation.cache_tag}"
SHIPPED: Final = Path(__file__).parent / f"{NAME}.kept"  # in a wheel
_MAGIC: Final = b"cmdana functions 1\n"
_SIZE: Final = struct.Struct("<Q")

# Flags of an array that code is made for: numpy's C_CONTIGUOUS, F_CONTIGUOUS, ALIGNED, WRITEABLE.
_C, _F, _ALIGNED, _WRITEABLE = 0x1, 0x2, 0x100, 0x400
_REST: Final = _ALIGNED | _WRITEABLE
_SIGNED: Final = 1 << 63

# The words in which compiled code speaks of numpy.ndarray, and how many bytes the digest of such words has.
_ARRAY_CLASS: Final = b"\x80\x04\x95\x15\0\0\0\0\0\0\0\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94."
_DIGEST_SIZE: Final = 20

values: Final[dict[str, tuple[str, Any]]] = {}  # what `remembered` has answered, and of what
missed_functions: Final[list[str]] = []  # functions that were called and not kept so, as often as that


class Overload(NamedTuple):
    """A function as it was compiled for some types of arguments: where in the file, and by which names."""

    at: int
    size: int
    wrapper: str
    environment: str
    constants: list[str]  # types of arrays that it returns


class _File:
    """What was kept: the functions, and their code, as they were when it was opened: others may put a new one there."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("not such a file")
            (size,) = _SIZE.unpack(file.read(_SIZE.size))
            self.head = marshal.loads(file.read(size))  # noqa: S302  # from a folder that only we write (`caches`)
            self._begin = file.tell()
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values: dict[str, tuple[str, Any]] = self.head["values"]
        self.functions: dict[str, tuple[str, list[tuple[Any, tuple[Any, ...]]]]] = self.head["functions"]

    def code(self, overload: Overload) -> bytes:
        begin = self._begin + overload.at
        return self._content[begin : begin + overload.size]


def packed(head: dict[str, Any], code: bytes) -> bytes:
    """The file, of its head and the code that the overloads in it point into."""
    words = marshal.dumps(head)
    return _MAGIC + _SIZE.pack(len(words)) + words + code


def folders() -> list[Path]:
    """Where what is compiled may be kept, best first: NUMBA_CACHE_DIR, or beside the packages, or the user's own."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return [Path(chosen)] if chosen else [SHIPPED.parent / "__pycache__", *caches.users()]


def there() -> bool:
    """Whether anything was kept that this machine can use, of whatever sources."""
    return bool(_files())


def names(module: str = "") -> set[str]:
    """The functions that are kept as their sources are now, of modules of this last name, or of all."""
    found = set()
    for file in _files():
        for name, (digest, _) in file.functions.items():
            of = name.partition(":")[0]
            if f".{of}".endswith(f".{module}" if module else "") and digest == code_digest(of):
                found.add(name)
    return found


def overloads(function: Callable[..., Any]) -> dict[Any, Any]:
    """What is kept of the function as it is now: by the `kinds` of arguments, a number for `loaded`. {} for nothing."""
    name = name_of(function)
    for file in _files():
        digest, kept = file.functions.get(name, ("", []))
        if digest and digest == code_digest(function.__module__):
            _kept[name] = file, [Overload(*o) for _, o in kept]
            return {_kinds_of(spelled): i for i, (spelled, _) in enumerate(kept)}
    return {}


def loaded(function: Callable[..., Any], number: int) -> Any:
    """The function as it was compiled for these types, loaded."""
    file, kept = _kept[name_of(function)]
    overload = kept[number]
    engine, dynfunc = _engine()
    from llvmlite import binding

    engine.add_object_file(binding.ObjectFileRef.from_data(file.code(overload)))
    engine.finalize_object()
    environment = dynfunc.Environment(function.__globals__)
    environment.consts[:] = [np.dtype(c) for c in overload.constants]
    place = engine.get_global_value_address(overload.environment)
    if place:
        ctypes.c_void_p.from_address(place).value = id(environment)
    address = engine.get_function_address(overload.wrapper)
    return dynfunc.make_function(
        sys.modules[function.__module__],
        function.__name__,
        function.__doc__ or "",
        address,
        environment,
        (engine,),
    )


def remembered(name: str, of: str, make: Callable[[], Any]) -> Any:
    """What `make` makes of something that has this digest, as it was kept if it was: plain values, for `marshal`."""
    for file in _files():
        digest, kept = file.values.get(name, ("", None))
        if digest == of:
            break
    else:
        kept = make()
    values[name] = of, kept
    return kept


def kept_values() -> dict[str, tuple[str, Any]]:
    """What `remembered` finds kept: by name, of what and the answer."""
    return {name: value for file in reversed(_files()) for name, value in file.values.items()}


def name_of(function: Callable[..., Any]) -> str:
    """A function's name in the file."""
    return f"{function.__module__}:{function.__qualname__}"


def missed(function: Callable[..., Any]) -> None:
    """Notes that numba is needed for a function."""
    missed_functions.append(name_of(function))


def kinds(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The types of arguments, as far as compiled code rests on them."""
    return tuple([_kind(value) for value in values])


def _kind(value: Any) -> Any:
    kind: Any = type(value)
    if kind is np.ndarray:
        flags, dtype = value.flags.num, value.dtype
        rest = _REST if dtype.names is None else _WRITEABLE  # to numba no array of records is aligned
        return dtype, value.ndim, flags & rest | (flags & _C or flags & _F)
    if kind is int:
        return np.int64 if -_SIGNED <= value < _SIGNED else np.uint64
    if kind is float:
        return np.float64
    if kind is bool:
        return np.bool_
    if isinstance(value, np.generic):
        return kind
    if isinstance(value, tuple):
        return (path_of(kind), *[_kind(v) for v in value])
    return path_of(kind)


@functools.cache
def path_of(kind: Any) -> str:
    """A class's name in the file."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _kinds_of(spelled: Any) -> tuple[Any, ...]:
    return tuple([_kind_of(s) for s in spelled])


def _kind_of(spelled: Any) -> Any:
    """The kind that `keeping` has spelled so."""
    match spelled:
        case ("array", dtype, ndim, layout, aligned, writeable):
            flags = {"C": _C, "F": _F, "A": 0}[layout] | _ALIGNED * aligned | _WRITEABLE * writeable
            return dtype_of(dtype), ndim, flags
        case ("scalar", name):
            return np.dtype(name).type
        case ("tuple", path, *parts):
            return (path, *[_kind_of(p) for p in parts])
    return spelled[1]


def words_of(dtype: np.dtype[Any]) -> Any:
    """A type of elements in words that `marshal` has."""
    if dtype.subdtype is not None:
        return "sub", words_of(dtype.subdtype[0]), dtype.subdtype[1]
    if dtype.fields is None or dtype.names is None:
        return dtype.str
    fields = [(name, words_of(dtype.fields[name][0]), dtype.fields[name][1]) for name in dtype.names]
    return "record", fields, dtype.itemsize


def dtype_of(words: Any) -> np.dtype[Any]:
    """The type of elements that `words_of` has put so."""
    match words:
        case ("sub", inner, shape):
            return np.dtype((dtype_of(inner), shape))
        case ("record", fields, size):
            names, formats, offsets = zip(*((n, dtype_of(w), o) for n, w, o in fields), strict=True)
            words = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size}
    made: np.dtype[Any] = np.dtype(words)
    return made


_kept: Final[dict[str, tuple[_File, list[Overload]]]] = {}


@functools.cache
def _files() -> list[_File]:
    """What is kept and can be used here."""
    found = []
    for path in (*(folder / f"{NAME}.kept" for folder in folders()), SHIPPED):
        with suppress(
            OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, struct.error
        ):
            file = _File(path)
            if file.head["made_by"] == made_by() and _runs_here(file.head):
                found.append(file)
    return found


def forget() -> None:
    """Has what is kept looked for anew."""
    _files.cache_clear()


@functools.cache
def made_by() -> str:
    """The versions of what compiles, without loading it; "" where it is not installed."""
    said = [f"{np.__version__.split('.')[0]}"]
    for name in ("numba", "llvmlite"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return ""
        with suppress(OSError):
            said.append(Path(spec.origin).with_name("_version.py").read_text(encoding="utf-8"))
    return "\n".join(said)


def _runs_here(head: dict[str, Any]) -> bool:
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return head["triple"] == binding.get_process_triple() and all(features.get(f) for f in head["features"])


@functools.cache
def _engine() -> tuple[Any, ModuleType]:
    """LLVM's loader, which knows numba's runtime, and the part of that which makes functions."""
    from llvmlite import binding

    helpers, dynfunc, memory = (
        _extension(name) for name in ("_helperlib", "_dynfunc", "core.runtime._nrt_python")
    )
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.add_symbol("_Py_NoneStruct", id(None))
    for name, address in (*helpers.c_helpers.items(), *dynfunc.c_helpers.items()):
        binding.add_symbol(f"numba_{name}", address)
    binding.add_symbol("numba_unpickle", ctypes.cast(_OBJECT, ctypes.c_void_p).value)
    for name, address in memory.c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    for kind in vars(builtins).values():
        if isinstance(kind, type) and issubclass(kind, BaseException):
            binding.add_symbol(f"PyExc_{kind.__name__}", id(kind))
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(jit=True)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine), dynfunc


def _object(data: int, size: int, digest: int) -> Any:
    """What code asks numba's runtime for: the class of an array; anything else, as an exception, is numba's to make."""
    said = ctypes.string_at(data, size)
    if said == _ARRAY_CLASS:
        return np.ndarray
    from numba.core import serialize

    return serialize._numba_unpickle(data, said, ctypes.string_at(digest, _DIGEST_SIZE))


_OBJECT: Final = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(_object)


def _extension(name: str) -> Any:
    """A library of numba, without what numba's package itself loads."""
    whole = f"numba.{name}"
    if whole in sys.modules:
        return sys.modules[whole]
    package = find_spec("numba")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / Path(*name.split(".")[:-1])
    places = [folder / f"{name.rpartition('.')[2]}{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next(place for place in places if place.is_file())
    spec = spec_from_file_location(whole, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[whole] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
