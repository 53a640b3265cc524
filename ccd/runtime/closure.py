"""What a result depends on besides data and parameters: the files of code that a module imports, and the libraries' versions."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ccd", "stages")
NO_EFFECT = frozenset(
    {
        "ccd/runtime/console.py",
        "ccd/errors.py",
        "ccd/runtime/launch.py",
        "ccd/errors.py",
        "ccd/params/sections.py",
        "ccd/runtime/closure.py",
    }
)
"""What a stage says, and where it runs, cannot change what it writes; nor can what only these import."""


@lru_cache
def files_of(modules: tuple[str, ...]) -> dict[str, Path]:
    """Name (relative, POSIX) -> file of everything that the dotted ``modules`` reach, sorted; without `NO_EFFECT`."""
    return {name: ROOT / name for name in sorted(closure(path for module in modules for path in _candidates(module)))}


def closure(scripts: Iterable[Path]) -> set[str]:
    """Files (relative, POSIX) that ``scripts`` reach by imports, themselves included.

    Empty files and `NO_EFFECT` are left out.
    """
    found: set[Path] = set()
    waiting = list(scripts)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.relative_to(ROOT).as_posix() not in NO_EFFECT:
            waiting += imported_files(path)
    return {path.relative_to(ROOT).as_posix() for path in found if path.stat().st_size} - NO_EFFECT


@cache
def imported_files(path: Path) -> list[Path]:
    """The project's files that one file imports, anywhere in it. Raises ValueError for a relative import."""
    modules: list[str] = []
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}: relative import")
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [file for module in modules for file in _candidates(module)]


def _candidates(module: str) -> list[Path]:
    """The files of a dotted name and of the packages above it, as far as they are ours."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return []
    prefixes = (ROOT.joinpath(*parts[: end + 1]) for end in range(len(parts)))
    options = (option for prefix in prefixes for option in (prefix.with_suffix(".py"), prefix / "__init__.py"))
    return [option for option in options if option.is_file()]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
