"""Sources as a fuzzer wants them: every branch that is taken leaves a mark, and compiled loops take no index below 0.

Modules are compiled from a changed syntax tree: a mark at the head of each function, branch, loop and handler, and
between the operands of `and` and `or`. In Python a mark is an item set in a bytearray; in what numba compiles it is one
store to the same bytes. Marks say which branches were taken since `Marks.clear`, not how often.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parents[1]
MOST: Final = 1 << 15  # marks
_LONGEST_TOKEN: Final = 64


class Marks:
    """Which branches were taken: now, and ever."""

    def __init__(self) -> None:
        self.bytes = bytearray(MOST)
        self.now: NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.ever: NDArray[np.uint8] = np.zeros(MOST, np.uint8)
        self.used = 0
        self.lines: list[str] = []  # where each mark stands

    def new(self, where: str) -> int:
        assert self.used < MOST, "more branches than marks"
        self.used += 1
        self.lines.append(where)
        return self.used - 1

    def clear(self) -> None:
        self.now[: self.used] = 0

    def fresh(self) -> bool:
        """Whether a branch was taken that never was before."""
        return bool((self.now[: self.used] > self.ever[: self.used]).any())

    def taken(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.now[: self.used])

    def learn(self) -> None:
        np.maximum(self.ever[: self.used], self.now[: self.used], out=self.ever[: self.used])


class Covered(MetaPathFinder, Loader):
    """Finds modules by the name they shall have and loads them with marks.

    A name that begins with `covered.` stands beside the module it is made of: it imports its like, not the originals.
    """

    def __init__(self, marks: Marks, python: Sequence[str] = (), compiled: Sequence[str] = ()) -> None:
        """`python` and `compiled`: names below `feature_extractors`; the former are loaded as `covered.NAME`."""
        self.marks = marks
        self.tokens: dict[str, set[bytes]] = {}  # constants of each module, by its last name
        self._paths = {f"covered.{n}": _path(n) for n in python}
        self._paths |= {f"feature_extractors.{n}": _path(n) for n in compiled}
        self._packages = {"covered", *(f"covered.{n.rpartition('.')[0]}" for n in python if "." in n)}
        self._aside = {f"feature_extractors.{n}" for n in python}
        if compiled:
            _uncached()
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._packages:
            return ModuleSpec(fullname, self, is_package=True)
        source = self._paths.get(fullname)
        return None if source is None else spec_from_file_location(fullname, source, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        source = self._paths.get(module.__name__)
        if source is None:
            return  # a package without code
        tree = ast.parse(source.read_text(), str(source))
        self.tokens[source.stem] = set(_tokens(tree))
        compiled = not module.__name__.startswith("covered.")
        tree = _Marking(self.marks, source.stem, compiled).visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in self._aside and not compiled:
                node.module = "covered" + node.module.removeprefix("feature_extractors")
        module.__dict__.update(_numba_marks(self.marks) if compiled else _python_marks(self.marks))
        exec(compile(ast.fix_missing_locations(tree), str(source), "exec"), module.__dict__)


def _path(name: str) -> Path:
    return ROOT.joinpath("feature_extractors", *name.split(".")).with_suffix(".py")


def _uncached() -> None:
    """Has numba keep nothing of what is compiled with marks, whose place differs from run to run."""
    from feature_extractors.compiled import wake

    side = wake()
    side.entry = side.njit(nogil=True)


def _python_marks(marks: Marks) -> dict[str, Any]:
    return {"_marks": marks.bytes, "_mark": marks.bytes.__setitem__}


def _numba_marks(marks: Marks) -> dict[str, Any]:
    from llvmlite import ir  # type: ignore[import-untyped,unused-ignore]
    from numba import njit, types
    from numba.extending import intrinsic

    base = int(marks.now.ctypes.data)

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator,unused-ignore]
    def mark(_context: Any, which: Any) -> Any:
        place = base + which.literal_value

        def code(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
            byte = ir.IntType(8)
            pointer = builder.inttoptr(ir.Constant(ir.IntType(64), place), ir.PointerType(byte))
            builder.store(ir.Constant(byte, 1), pointer)
            return context.get_constant(types.boolean, True)

        return types.boolean(which), code

    @njit(inline="never")  # type: ignore[untyped-decorator,unused-ignore]
    def index(i: Any) -> Any:
        if i < 0:
            raise IndexError("an index below 0")
        return i

    return {"_mark": mark, "_index": index}


class _Marking(ast.NodeTransformer):
    def __init__(self, marks: Marks, name: str, compiled: bool) -> None:
        self._marks = marks
        self._name = name
        self._compiled = compiled
        self._function = 0

    def _new(self, line: int) -> ast.Constant:
        return ast.Constant(self._marks.new(f"{self._name}.py:{line}"))

    def _statement(self, line: int) -> ast.stmt:
        if self._compiled:
            return ast.Expr(_call("_mark", self._new(line)))
        place = ast.Subscript(ast.Name("_marks", ast.Load()), self._new(line), ast.Store())
        return ast.Assign([place], ast.Constant(1))

    def _truth(self, line: int) -> ast.expr:
        """An expression that leaves a mark and is true."""
        if self._compiled:
            return _call("_mark", self._new(line))
        return ast.UnaryOp(ast.Not(), _call("_mark", self._new(line), ast.Constant(1)))

    def _headed(self, body: list[ast.stmt], line: int) -> list[ast.stmt]:
        has_docstring = (
            bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        )
        return [*body[:has_docstring], self._statement(line), *body[has_docstring:]]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        decorators = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
        if self._compiled and not decorators & {"entry", "helper", "njit"}:
            return node  # Python, beside what is compiled
        self._function += 1
        node.body = self._headed([self.visit(s) for s in node.body], node.lineno)
        self._function -= 1
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._function:
            node.body = self._headed(node.body, node.lineno)
            node.orelse = self._headed(node.orelse, node.lineno)
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        return self._loop(node)

    def visit_While(self, node: ast.While) -> ast.AST:
        return self._loop(node)

    def _loop(self, node: ast.For | ast.While) -> ast.AST:
        self.generic_visit(node)
        if self._function:
            node.body = self._headed(node.body, node.lineno)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self.generic_visit(node)
        node.body = self._headed(node.body, node.lineno)
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        self.generic_visit(node)
        node.body = self._headed(node.body, node.pattern.lineno)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if not self._function:
            return node
        first, *others = node.values
        node.values = [first]
        for value in others:
            if isinstance(node.op, ast.And):
                node.values += [self._truth(value.lineno), value]
            else:
                node.values.append(ast.BoolOp(ast.And(), [self._truth(value.lineno), value]))
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        plain = not isinstance(node.slice, ast.Constant | ast.Slice | ast.Tuple)
        if self._compiled and self._function and plain:
            node.slice = _call("_index", node.slice)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])


def _tokens(tree: ast.AST) -> list[bytes]:
    """The constants of a source, as the bytes in which traffic may hold them."""
    found: list[bytes] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant):
            continue
        value = node.value
        if isinstance(value, bytes) and 0 < len(value) <= _LONGEST_TOKEN:
            found += [value, *(p for p in value.split(b"|") if p)]
        elif isinstance(value, str) and value.isascii() and value.isupper() and len(value) < _LONGEST_TOKEN:
            found.append(value.encode())
        elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32:
            size = 1 if value < 1 << 8 else 2 if value < 1 << 16 else 4
            found += [value.to_bytes(size, "big"), value.to_bytes(size, "little")]
    return found
