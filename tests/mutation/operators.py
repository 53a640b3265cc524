"""The changes: one node of a module's syntax tree at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
Change = Callable[[ast.AST], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """``path`` with node number ``place`` (in `ast.walk`'s order) changed by the ``way``-th of its changes."""

    path: Path
    place: int
    way: int
    line: int
    before: str
    after: str

    def tree(self) -> ast.Module:
        """The changed module."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        node = nodes[self.place]
        changed = changes(node)[self.way](copy.deepcopy(node))
        for parent in nodes:
            for name, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, name, changed)
                elif isinstance(value, list) and any(each is node for each in value):
                    setattr(parent, name, [changed if each is node else each for each in value])
        return ast.fix_missing_locations(tree)

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before}  ->  {self.after}"


def mutants(path: Path) -> Iterator[Mutant]:
    """All of a module, in order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    spared = {id(inner) for node in ast.walk(tree) for part in _spared(node) for inner in ast.walk(part)}
    for place, node in enumerate(ast.walk(tree)):
        for way, change in enumerate([] if id(node) in spared else changes(node)):
            before, after = ast.unparse(node), ast.unparse(change(copy.deepcopy(node)))
            yield Mutant(path, place, way, getattr(node, "lineno", 0), before, after)


def _spared(node: ast.AST) -> Iterator[ast.AST]:
    """What does nothing at run time, or only words a message: annotations, decorators, docstrings, raised texts."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield from node.decorator_list
    if isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield node.returns
    if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
        yield node.annotation
    if isinstance(node, (ast.FormattedValue, ast.ImportFrom)):
        yield node


def changes(node: ast.AST) -> list[Change]:
    """The ways to change a node."""
    if isinstance(node, ast.Compare):
        return [_compared(place) for place, each in enumerate(node.ops) if type(each) in COMPARISONS]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return [_with_operator]
    if isinstance(node, ast.BoolOp):
        return [_other_logic]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        return [lambda each: each.operand]  # type: ignore[attr-defined]
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        return [_other_constant]
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return [lambda each: ast.Pass()]
    return []


def _compared(place: int) -> Change:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.Compare)
        node.ops[place] = COMPARISONS[type(node.ops[place])]()
        return node

    return change


def _with_operator(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BinOp)
    node.op = OPERATORS[type(node.op)]()
    return node


def _other_logic(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return node


def _other_constant(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Constant)
    node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    return node
