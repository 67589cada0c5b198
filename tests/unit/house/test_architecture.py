"""docs/architecture.md and the README's layout say what is so."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from typing import Any, Final

import pytest
from test_rooms import PACKAGES, ROOMS, ROOT, SOURCES, TREES, entries_of

PAGE: Final = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE: Final = re.findall(r"```\n(.*?)```", PAGE, re.S)[0]
ROWS: Final = {
    cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
    for line in PAGE.splitlines()
    if line.startswith("| `") and (cells := line.strip("|").split("|"))
}
TOUCHED: Final = ("torch", "sockets", "processes", "files")
_SOCKETS: Final = {"websockets", "broker", "ssl", "ray"}
_PROCESSES: Final = {"subprocess", "multiprocessing", "pyshark"}
_FILES: Final = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "mkdir", "unlink", "rglob"}


def touched(tree: ast.AST) -> set[str]:
    """What of the world outside a module's own code reaches for."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                modules = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                modules = [f"{owner}.{name}"]
            case _:
                modules = []
        for module in modules:
            top = module.partition(".")[0]
            if top == "torch":
                found.add("torch")
            if top in _SOCKETS or module in ("socket.socket", "socket.create_connection"):
                found.add("sockets")
            if top in _PROCESSES or module in ("os.fork", "os.posix_spawn", "os.execv"):
                found.add("processes")
        match node:
            case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)) if name in _FILES:
                found.add("files")
    return found


@pytest.mark.parametrize(("line", "what"), [
    ("import torch.nn", "torch"),
    ("from websockets.sync.client import connect", "sockets"),
    ("import socket\nsocket.create_connection(('a', 1))", "sockets"),
    ("import os\nos.fork()", "processes"),
    ("path.read_text()", "files"),
])  # fmt: skip
def test_what_a_module_touches_is_seen(line: str, what: str) -> None:
    assert touched(ast.parse(line)) == {what}


def test_text_of_an_address_is_no_socket() -> None:
    assert touched(ast.parse("import socket\nsocket.inet_ntop(socket.AF_INET6, b'')")) == set()


def test_every_room_is_named_and_every_room_named_is_there() -> None:
    assert sorted(ROWS) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_named_with_its_own_sentence(room: str) -> None:
    docstring = ast.get_docstring(ast.parse(SOURCES[room].read_text(encoding="utf-8"))) or ""
    assert ROWS[room][0] == docstring.partition("\n\n")[0].replace("\n", " ")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_touches_what_the_page_says_and_nothing_else(room: str) -> None:
    said = {what for what, cell in zip(TOUCHED, ROWS[room][1:], strict=True) if cell}
    inside = [touched(TREES[p]) for m, p in SOURCES.items() if m == room or m.startswith(room + ".")]
    assert said == set().union(*inside)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_floors_of_the_picture_are_the_layers_of_the_contracts_in_their_order(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c.get("containers") == [package]]
    drawn = re.findall(rf"^{package}\b.*\n((?:  \S.*\n)+)", PICTURE, re.M)
    assert [re.split(r"\s{2,}", line.strip())[0] for line in drawn[0].splitlines()] == layers


def test_the_packages_are_drawn_one_above_the_other_as_their_contract_has_them() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert list(PACKAGES) in [c.get("layers") for c in contracts]
    assert [word for word in re.findall(r"^(\w+)", PICTURE, re.M) if word in PACKAGES] == list(PACKAGES)


def found(dotted: str) -> Any:
    """What a dotted name stands for: a module, or what a module or a room's face has."""
    words = dotted.split(".")
    for n in range(len(words), 0, -1):
        if ".".join(words[:n]) in SOURCES:
            thing: Any = importlib.import_module(".".join(words[:n]))
            for word in words[n:]:
                thing = getattr(thing, word)
            return thing
    raise AttributeError(dotted)


def test_every_step_of_the_walk_is_in_the_code() -> None:
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)})\.[\w.]+)`", PAGE.partition("## The rooms")[0])
    assert len(named) > 15
    for name in named:
        assert found(name) is not None
    with pytest.raises(AttributeError):
        found("cmdana_plugin.detector.Absent")


def test_every_file_and_folder_that_the_page_names_is_there() -> None:
    named = re.findall(r"`([\w/]+/[\w./]*)`", PAGE)
    assert len(named) > 2
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_layout_in_the_readme_is_the_tree() -> None:
    layout = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Layout")[2].split("```")[1]
    named: dict[str, set[str]] = {}
    for line in layout.splitlines():
        if not line.strip():
            continue
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if line[0] != " ":
            package = words[0].rstrip("/")
        else:
            named.setdefault(package, set()).update(word.rstrip("/") for word in words)
            words = [f"{package}/{word}" for word in words]
        assert [w for w in words if not (ROOT / w).exists()] == []
    for package in PACKAGES:
        folders = {n for n in entries_of(ROOT / package) if (ROOT / package / n).is_dir()}
        assert {n for n in named[package] if (ROOT / package / n).is_dir()} == folders
