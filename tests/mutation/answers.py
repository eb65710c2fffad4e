"""Mutants of what judges an answer: the table of verdicts, the reader, needs, and the fit check.

Each is a module in which one part of an expression, or one statement, is another one or is gone.
The words and numbers of the tables are parts too: a rule loses each of its statuses in turn.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each with the tests that must see it: those of its own, and those of who uses it.
TESTS = {
    "answers": ("answers", "classify", "fit"),
    "classify": ("classify",),
    "fit": ("fit",),
    "needs": ("needs", "fit"),
    "schemas": ("schemas", "fit"),
}
_OTHER_WAY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_SUM: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
# Options of classes, and names.
_UNCHANGED = {(ast.ClassDef, "keywords"), (ast.AnnAssign, "target")}
# What only a type checker reads.
_UNREAD = frozenset({"annotation", "returns", "decorator_list", "type_params"})


Path_ = tuple[tuple[str, "int | None"], ...]  # from the module: a field, and where in its list


@dataclass(frozen=True)
class Mutant:
    """A module of fallback_chain that is another one. was, text: of the part that differs."""

    module: str
    place: int  # among its module's mutants
    number: int  # of the line, from 1
    function: str  # what it is in; empty outside of all
    line: str
    was: str
    text: str
    path: Path_
    other: ast.AST

    def tree(self) -> ast.Module:
        """Return the whole module."""
        tree = ast.parse(path_of(self.module).read_text())
        holder, (field, i) = _at(tree, self.path[:-1]), self.path[-1]
        if i is None:
            setattr(holder, field, self.other)
        else:
            getattr(holder, field)[i] = self.other
        return ast.fix_missing_locations(tree)

    @property
    def name(self) -> str:
        return " ".join(f"{self.module}.py:{self.number}: {self.was} -> {self.text}".split())

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it, wherever its line lies now."""
        part = f"{self.was} -> {self.text}"
        return f"{self.module}.py:{self.function}", self.line, " ".join(part.split())

    @property
    def tests(self) -> list[str]:
        """Return the files of the tests that must see it."""
        return [tests_of(name) for name in TESTS[self.module]]


def tests_of(name: str) -> str:
    """Return the file of a module's tests."""
    return f"tests/unit/fallback_chain/test_{name}.py"


def mutants() -> list[Mutant]:
    """Return all of them, in the modules' order."""
    return [mutant for module in TESTS for mutant in mutants_of(module)]


@cache
def path_of(module: str) -> Path:
    """Return where a module's file is, without its import."""
    spec = importlib.util.find_spec("fallback_chain")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / f"{module}.py"


def mutants_of(module: str) -> list[Mutant]:
    """Return those of a module, each in its place."""
    source = path_of(module).read_text()
    tree, lines = ast.parse(source), source.split("\n")
    found: list[Mutant] = []
    for path in _places(tree, ()):
        node, seen = _at(tree, path), set()
        for other in _others(node):
            text = "(nothing)" if isinstance(other, ast.Pass) else ast.unparse(other)
            number = getattr(node, "lineno", 0) or node.target.lineno
            was = ast.unparse(node)
            if was == text or text in seen:
                continue
            seen.add(text)
            about = number, _function(tree, number), lines[number - 1].strip()
            found.append(Mutant(module, len(found), *about, was, text, path, other))
    return found


def _places(node: ast.AST, path: Path_) -> Iterator[Path_]:
    """Yield each part of a module that may be another one."""
    for field, value in ast.iter_fields(node):
        if field in _UNREAD or (type(node), field) in _UNCHANGED:
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, child in children:
            if not isinstance(child, ast.AST):
                continue
            if _is_docstring(child) or _is_for_types(child):
                continue
            here = (*path, (field, i))
            # An element of a collection is left out, which is as good as another one.
            if isinstance(child, ast.Constant) and isinstance(node, ast.Tuple | ast.Set):
                continue
            if isinstance(child, ast.expr | ast.stmt | ast.comprehension):
                yield here
            yield from _places(child, here)


def _function(tree: ast.Module, number: int) -> str:
    """Return the innermost function that has a line in it."""
    names = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.lineno <= number <= (node.end_lineno or number)
    ]
    return names[-1] if names else ""


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _at(tree: ast.AST, path: Path_) -> Any:
    node = tree
    for field, i in path:
        value = getattr(node, field)
        node = value if i is None else value[i]
    return node


def _others(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in a part's place."""
    yield from _shorter(node)
    if isinstance(node, ast.Constant):
        yield from _other_values(node.value)
    match node:
        case ast.Compare(ops=[op]) if type(op) in _OTHER_WAY:
            yield _with(node, ops=[_OTHER_WAY[type(op)]()])
        case ast.BinOp(op=ast.BitOr()):  # of sets, and of the types of isinstance
            yield node.left
            yield node.right
        case ast.BinOp(op=op) if type(op) in _OTHER_SUM:
            yield _with(node, op=_OTHER_SUM[type(op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.If() | ast.IfExp():
            yield _with(node, test=ast.Constant(value=True))
            yield _with(node, test=ast.Constant(value=False))
        case ast.Return(value=value) if value and ast.unparse(value) not in {"None", "False"}:
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.AugAssign() | ast.Raise():
            yield ast.Pass()


def _other_values(value: object) -> Iterator[ast.AST]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int() | float():
            yield ast.Constant(value + 1)
        case str():
            yield ast.Constant(f"{value}~")


def _shorter(node: ast.AST) -> Iterator[ast.AST]:
    """Yield it without one of its parts, each in turn."""
    match node:
        case ast.BoolOp(values=values):
            for rest in _without_one(values):
                yield rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.Tuple(elts=elts, ctx=ast.Load()) | ast.List(elts=elts, ctx=ast.Load()):
            yield from (_with(node, elts=rest) for rest in _without_one(elts))
        case ast.Set(elts=elts) if len(elts) > 1:
            yield from (_with(node, elts=rest) for rest in _without_one(elts))
        case ast.Dict(keys=keys, values=values):
            for i in range(len(keys)):
                yield ast.Dict(keys[:i] + keys[i + 1 :], values[:i] + values[i + 1 :])
        case ast.Call(keywords=keywords):
            yield from (_with(node, keywords=rest) for rest in _without_one(keywords))
        case ast.comprehension(ifs=ifs):
            yield from (_with(node, ifs=rest) for rest in _without_one(ifs))


def _without_one(parts: list[ast.expr]) -> Iterator[list[ast.expr]]:
    return (parts[:i] + parts[i + 1 :] for i in range(len(parts)))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
