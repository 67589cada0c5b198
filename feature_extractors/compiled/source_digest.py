"""A digest of source code, by which whatever was compiled or computed earlier is known to be of the code as it is now.

A cache names the modules or packages that its content comes from. What these import from our packages is found here,
so that no list of names can lack one: compiled code holds constants of other modules, and no compiler looks whether
they have changed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

_ROOT: Final = str(Path(__file__).resolve().parents[__name__.count(".")])
_OURS: Final = __name__.partition(".")[0]
_DATA: Final = (".csv", ".json", ".toml", ".txt", ".yaml")  # but no models: each has a digest of its own
_COMMENT: Final = re.compile("#[^\n]*")


def code_digest(*names: str) -> str:
    """A digest of modules, of what they import from our packages, and of the data files that any of these names.

    A package stands for all its modules. 32 hexadecimal digits. Raises `ModuleNotFoundError`. Each file is read once
    in a process, in less than 10 ms for all of them.
    """
    digest = hashlib.sha256()
    for path in sources(*names):
        digest.update(path.encode() + b"\n" + _read(path)[0])
    return digest.hexdigest()[:32]


def sources(*names: str) -> list[str]:
    """The files that `code_digest` covers, in order; their paths begin in the folder that holds the packages."""
    waiting = []
    for name in names:
        modules, _ = _tree(name.partition(".")[0])
        if name not in modules:
            raise ModuleNotFoundError(f"code digest: found no module {name} in {_ROOT}")
        waiting += [path for other, path in modules.items() if f"{other}.".startswith(f"{name}.")]
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _read(path)[1]
    return sorted(found)


@functools.cache
def _tree(top: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The modules of a package, by name; and by folder of modules the data in it or in its other folders."""
    modules: dict[str, str] = {}
    data: dict[str, list[str]] = {}
    for place, _, files in os.walk(f"{_ROOT}/{top}"):
        folder = place[len(_ROOT) + 1 :]
        if folder.endswith("/models"):
            continue
        is_package = "__init__.py" in files
        if is_package:
            package = folder.replace("/", ".")
            modules |= {f"{package}.{f[:-3]}": f"{folder}/{f}" for f in files if f.endswith(".py")}
            modules[package] = modules.pop(f"{package}.__init__")
        owner = folder if is_package else os.path.dirname(folder)
        data.setdefault(owner, []).extend(f"{folder}/{f}" for f in files if f.endswith(_DATA))
    return modules, data


@functools.cache
def _read(path: str) -> tuple[bytes, list[str]]:
    """The file's digest, and which files it needs: what it imports, in a function too, and data that it names."""
    content = Path(_ROOT, path).read_bytes()
    digest = hashlib.sha256(content).digest()
    if not path.endswith(".py"):
        return digest, []
    folder, top = os.path.dirname(path), path.partition("/")[0]
    modules = _tree(top)[0] | _tree(_OURS)[0]
    text = content.decode()
    needs = []
    for origin, names in _imports(text, folder):
        face = _face(modules.get(origin, ""))
        inner = [face.get(name, f"{origin}.{name}") if origin else name for name in names]
        needs += [*inner, origin] if any(name not in modules for name in inner) else inner
    beside = _tree(top)[1].get(folder, [])
    named = [file for file in beside if any(f'"{word}"' in text for word in file.split("/")[-2:])]
    return digest, [modules[name] for name in needs if name in modules] + named


def _imports(text: str, folder: str) -> Iterator[tuple[str, list[str]]]:
    """What is imported: from where ("" where whole modules are), and the names."""
    for before, after in pairwise(text.split("import ")):  # much faster than parsing
        head = before[before.rfind("\n") + 1 :].split()
        listed = after[1:].partition(")")[0] if after.startswith("(") else after.partition("\n")[0]
        names = [words[0] for name in _COMMENT.sub("", listed).split(",") if (words := name.split())]
        if not head:
            yield "", names
        elif head[0] == "from" and len(head) == 2:
            yield _absolute(head[1], folder), names


@functools.cache
def _face(path: str) -> dict[str, str]:
    """The module that each name of a room's face comes from (the stub beside its `__init__`)."""
    stub = Path(_ROOT, f"{path}i")
    if not path.endswith("/__init__.py") or not stub.is_file():
        return {}
    found = _imports(stub.read_text(encoding="ascii"), os.path.dirname(path))
    package = os.path.dirname(path).replace("/", ".")
    return {
        name: f"{package}.{name}" if origin == package else origin
        for origin, names in found
        for name in names
    }


def _absolute(name: str, folder: str) -> str:
    """The module that a module in the folder calls so, perhaps by leading dots."""
    rest = name.lstrip(".")
    if rest == name:
        return name
    parts = folder.split("/")
    return ".".join([*parts[: len(parts) + 1 - (len(name) - len(rest))], *filter(None, [rest])])
