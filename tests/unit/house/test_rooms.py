"""The house stands as its plan says: a room is entered through its face, and no face offers what nobody takes."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
PACKAGES: Final = ("cmdana_plugin", "feature_extractors")
MOST_LINES: Final = 600
MOST_ENTRIES: Final = 16

# Modules above `MOST_LINES`, each with the reason. What has become shorter is struck off; nothing is added.
LONG: Final[dict[str, str]] = {}
# Rooms above `MOST_ENTRIES`.
WIDE: Final = {
    "cmdana_plugin": "the rooms themselves, and what stands beside them",
    "feature_extractors.content.analyzers": "a module for each protocol",
}
UNSEEN: Final = (".so", ".typed")  # what compiling leaves, and the mark that annotations are to be read
NOTEBOOK: Final = "cmdana_plugin"  # whose face is for people


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES: Final = {module_of(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}
FACES: Final = {
    module_of(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("__init__.pyi"))
}
ROOMS: Final = [m for m, p in SOURCES.items() if p.name == "__init__.py" and m.count(".") == 1]
TREES: Final = {p: ast.parse(p.read_text(encoding="utf-8")) for p in (*SOURCES.values(), *FACES.values())}


def room_of(module: str) -> str:
    """The room in which a module stands; a module outside all rooms is one of its own."""
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), module)


def outside(module: str, source: str) -> bool:
    """Whether `source` stands neither in the room of `module` nor beside the rooms in the same package."""
    same_package = source.partition(".")[0] == module.partition(".")[0]
    beside = same_package and source in SOURCES and source.count(".") <= 1 and source not in ROOMS
    return room_of(source) != room_of(module) and not beside


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of what a source takes from our packages; "" for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] in PACKAGES:
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name, "") for a in node.names if a.name.partition(".")[0] in PACKAGES)


def offered(face: str) -> dict[str, str]:
    """Name -> module that has it, of a face; a module is offered by itself."""
    names: dict[str, str] = {}
    for node in TREES[FACES[face]].body:
        assert isinstance(node, ast.ImportFrom), f"{face}: a face holds imports alone"
        assert node.level == 1, f"{face}: a face offers what is in its own room"
        for alias in node.names:
            assert alias.name == alias.asname, f"{face}: {alias.name} is not offered again by its own name"
            names[alias.name] = f"{face}.{node.module}" if node.module else f"{face}.{alias.name}"
    return names


def defined(module: str) -> set[str]:
    """The names at a module's top level."""
    names: set[str] = set()
    for node in TREES[SOURCES[module]].body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
    return names


def through_a_wall(module: str, tree: ast.AST) -> list[str]:
    """What a module takes from another room, or from the other package, past its face."""
    found = []
    for source, name in imported(tree):
        # `from package import thing`: a module that stands beside the rooms, or what the face offers
        taken = f"{source}.{name}" if f"{source}.{name}" in SOURCES else source
        if source in PACKAGES and name and taken == source and module.startswith(source + "."):
            found.append(f"{module}: {source} offers {name} to others, not to its own rooms")
            continue
        if not outside(module, source) and (taken == source or not outside(module, taken)):
            continue
        if source in PACKAGES and not name:
            continue  # the package itself: where its files are
        if source not in FACES:
            found.append(f"{module}: {source} is behind a face, which offers what others may use")
        elif taken in ROOMS and source in PACKAGES:
            continue  # `from package import room` is the room's face
        elif name not in offered(source):
            found.append(f"{module}: {source} does not offer {name or 'itself'}")
    return found


@pytest.mark.parametrize("line", [
    "from cmdana_plugin.detector.cross_modal import CrossModal",
    "from cmdana_plugin.detector import mixture",
    "from cmdana_plugin.detector import absent",
    "import cmdana_plugin.detector.cross_modal",
    "from feature_extractors.observations import Windows",
    "from feature_extractors import observations",
    "from cmdana_plugin import judge",
    "def late():\n    from cmdana_plugin.detector.cross_modal import CrossModal",
])  # fmt: skip
def test_an_import_past_a_face_is_seen(line: str) -> None:
    assert through_a_wall("cmdana_plugin.decision.judge", ast.parse(line)) != []


@pytest.mark.parametrize(("module", "line"), [
    ("cmdana_plugin.decision.judge", "from cmdana_plugin.detector import CrossModal"),
    ("cmdana_plugin.cli.app", "from cmdana_plugin.analyst import terminal"),
    ("cmdana_plugin.detector.checkpoint", "from cmdana_plugin.detector.cross_modal import CrossModal"),
    ("cmdana_plugin.cli.app", "from cmdana_plugin import keyfile"),
    ("cmdana_plugin.notebook", "from cmdana_plugin import detector"),
    ("cmdana_plugin.cli.app", "from feature_extractors import Windows"),
    ("feature_extractors.tracker.tracker", "from feature_extractors.observations import MAX_PACKETS"),
])  # fmt: skip
def test_an_import_through_a_face_or_within_a_room_is_let_be(module: str, line: str) -> None:
    assert through_a_wall(module, ast.parse(line)) == []


def test_a_room_is_entered_through_its_face_alone() -> None:
    assert [wrong for m, p in SOURCES.items() for wrong in through_a_wall(m, TREES[p])] == []


def test_every_room_has_a_face_but_the_command_line_which_nobody_imports() -> None:
    assert [room for room in ROOMS if room not in FACES] == ["cmdana_plugin.cli"]
    assert [m for m, p in SOURCES.items() for s, _ in imported(TREES[p]) if s.startswith("cmdana_plugin.cli")
            and room_of(m) != "cmdana_plugin.cli"] == []  # fmt: skip


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_where_the_face_says(face: str) -> None:
    for name, module in offered(face).items():
        assert module in SOURCES, f"{face} names {module}, which does not exist"
        assert module == f"{face}.{name}" or name in defined(module), f"{module} has no {name}"


@pytest.mark.parametrize("face", [face for face in FACES if face != NOTEBOOK])
def test_every_name_of_a_face_is_used_outside_its_room(face: str) -> None:
    used = {
        name
        for module, path in SOURCES.items()
        if (room_of(module) != face if face in ROOMS else not module.startswith(face))
        for source, name in imported(TREES[path])
        if source == face
    }
    assert sorted(offered(face).keys() - used) == []


def floors(package: str) -> list[list[str]]:
    """The layers of a package's import contract, top first, each with what stands on it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c.get("containers") == [package]]
    assert contract["type"] == "layers"
    assert contract["exhaustive"]
    assert "exhaustive_ignores" not in contract
    return [layer.replace("|", " ").replace(":", " ").split() for layer in contract["layers"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_and_every_module_outside_the_rooms_stands_on_a_floor(package: str) -> None:
    there = {m.split(".")[1] for m in SOURCES if m.startswith(f"{package}.")}
    on_floors = [name for floor in floors(package) for name in floor]
    assert sorted(on_floors) == sorted(there)


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    lines = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in SOURCES.items()}
    assert sorted(m for m, n in lines.items() if n > MOST_LINES) == sorted(LONG)  # shorter now: strike it off


def entries_of(folder: Path) -> list[str]:
    """Modules and folders; not what compiling leaves, nor a folder that an older checkout has left behind."""
    names = [e for e in folder.iterdir() if not e.name.startswith(("__", ".")) and e.suffix not in UNSEEN]
    return [e.name for e in names if e.is_file() or any(f.name != "__pycache__" for f in e.iterdir())]


def test_no_room_has_more_entries_than_can_be_seen_at_once() -> None:
    entries = {m: len(entries_of(p.parent)) for m, p in SOURCES.items() if p.name == "__init__.py"}
    assert sorted(m for m, n in entries.items() if n > MOST_ENTRIES) == sorted(WIDE)
