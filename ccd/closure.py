"""Which of the project's own files a module imports, directly or not: what DVC follows, and what the store is named by.

Imports are read from the text of the files, anywhere in them; nothing is imported, and an installed copy will do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ccd", "stages")
NO_EFFECT = frozenset(
    {"ccd/console.py", "ccd/errors.py", "ccd/launch.py", "ccd/machine.py", "ccd/params/runtime.py", "ccd/closure.py"}
)
"""What a stage says, and where it runs, cannot change what it writes; nor can what only these import."""


@lru_cache
def files_of(modules: tuple[str, ...]) -> dict[str, Path]:
    """Name (relative, POSIX) -> file of everything that the dotted ``modules`` reach, sorted; without `NO_EFFECT`."""
    return {name: ROOT / name for name in sorted(closure(path for module in modules for path in _candidates(module)))}


def closure(scripts: Iterable[Path]) -> set[str]:
    """Files (relative, POSIX) that ``scripts`` reach by imports, themselves included.

    Packages without code and `NO_EFFECT` are left out; a folder ``templates`` beside a file counts.
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
    templates = {path.parent / "templates" for path in found if (path.parent / "templates").is_dir()}
    names = {path.relative_to(ROOT).as_posix() for path in found if _has_code(path)}
    return (names - NO_EFFECT) | {path.relative_to(ROOT).as_posix() for path in templates}


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


def _has_code(path: Path) -> bool:
    body = _parsed(path).body
    version = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"]
    return any(not isinstance(node, ast.Expr) and node not in version for node in body) or path.name != "__init__.py"
