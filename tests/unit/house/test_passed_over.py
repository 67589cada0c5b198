"""Every counter of what was passed over has a line in docs/passed-over.md, and no line is of a counter that is not."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

from cmdana_plugin.logs.tables import APPLICATION
from feature_extractors.readers.native import _REASONS as OF_READER
from feature_extractors.tracker.reasons import REASONS as OF_TRACKER

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = (ROOT / "docs/passed-over.md").read_text(encoding="utf-8")
NAMED: Final = {
    name
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])
}
_ROOTS: Final = ("feature_extractors", "cmdana_plugin")
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+|esp|mobility")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def counted() -> set[str]:
    """The names that the program's code counts under: literals, and the tables of the compiled parts."""
    found = {name for name in (*OF_TRACKER, *OF_READER) if not name.startswith("_")}
    for path in (ROOT / "feature_extractors").rglob("*.py"):
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="add" | "_drop" | "_end"),
                    args=[ast.Constant(value=str(word)), *_],
                ) if _NAME.fullmatch(word):
                    found.add(word)
                case ast.AnnAssign(target=ast.Name(id="_REASONS"), value=ast.Dict(values=values)):
                    found |= {
                        v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
                    }
    return found - APPLICATION.keys()


def texts() -> set[str]:
    """The reasons in words: constants that are handed to `PassedOver.add`, and its literals."""
    found: set[str] = set()
    for package in _ROOTS:
        trees = [tree(p) for p in (ROOT / package).rglob("*.py")]
        of = {
            node.target.id: node.value.value
            for each in trees
            for node in ast.walk(each)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        for each in trees:
            for node in ast.walk(each):
                match node:
                    case ast.Call(func=ast.Attribute(attr="add", value=owner), args=[_, reason, *_]) if (
                        "passed" in ast.unparse(owner)
                    ):
                        if isinstance(reason, ast.Name):
                            found.add(of.get(reason.id, ""))
                        elif isinstance(reason, ast.Constant) and isinstance(reason.value, str):
                            found.add(reason.value)
                    case ast.Call(func=ast.Name(id="BadRecord"), args=[ast.Constant(value=str(word))]):
                        found.add(word)
                    case ast.Call(
                        func=ast.Name(id="BadRecord") | ast.Attribute(attr="_bad"),
                        args=[ast.Name(id=word), *_],
                    ):
                        found.add(of.get(word, ""))
    return found - {""}


def test_every_counter_of_captures_and_logs_is_on_the_page() -> None:
    names = counted()
    assert len(names) > 50
    assert sorted(names - NAMED) == []


def test_every_reason_in_words_is_on_the_page() -> None:
    words = texts()
    assert len(words) > 12
    assert sorted(words - NAMED) == []


def test_the_page_names_no_counter_that_is_not_there() -> None:
    code = "".join(p.read_text(encoding="utf-8") for f in _ROOTS for p in (ROOT / f).rglob("*.py"))
    gone = {n for n in NAMED if _NAME.fullmatch(n) and f'"{n}"' not in code}
    assert gone == set()
