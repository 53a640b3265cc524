"""The house in numbers: how many modules there are, how large, what reaches what, and what must not meet."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for path in (ROOT / "ccd").rglob("*.py") if path.name != "__init__.py" or path.stat().st_size)
STAGE_SCRIPTS = sorted((ROOT / "stages").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def named(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name that an import anywhere in a file may mean, a module or something in one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(name: str) -> Iterator[Path]:
    """The files of the project that an import of ``name`` runs: its module and the packages around it."""
    parts = name.split(".")
    if parts[0] in ("ccd", "stages"):
        for count in range(1, len(parts) + 1):
            module = ROOT.joinpath(*parts[:count])
            yield from (path for path in (module / "__init__.py", module.with_suffix(".py")) if path.is_file())


def reached(script: Path) -> set[Path]:
    """The files with content that ``script`` reaches by imports, itself included."""
    known = {script}
    waiting = [script]
    while waiting:
        new = {path for name in imported_names(waiting.pop()) for path in files_of(name)} - known
        known |= new
        waiting += new
    return {path for path in known if path.stat().st_size}


def test_the_package_is_small_enough_to_know() -> None:
    assert len(MODULES) <= 150
    loose = [path for path in MODULES if path.parent == ROOT / "ccd"]
    assert len(loose) <= 3, named(loose)


def test_no_module_is_long() -> None:
    assert named([path for path in MODULES if line_count(path) > 300]) == []


def test_no_two_modules_share_a_name() -> None:
    counts = Counter(path.stem for path in MODULES if path.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(("stage", "limit"), [("clip_local", 24), ("train", 29)])
def test_few_files_tell_all_about_a_stage(stage: str, limit: int) -> None:
    files = reached(ROOT / f"stages/{stage}.py")
    assert len(files) <= limit, sorted(named(list(files)))


def test_a_stage_is_a_doorway() -> None:
    assert named([path for path in STAGE_SCRIPTS if line_count(path) > 70]) == []


def test_dvc_yaml_is_short() -> None:
    assert line_count(ROOT / "dvc.yaml") <= 450


def test_stages_assign_one_thing_a_line() -> None:
    packed = [
        f"{path.name}:{node.lineno}"
        for path in STAGE_SCRIPTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
        if any(isinstance(target, ast.Tuple) for target in node.targets)
    ]
    assert packed == []


def test_the_student_knows_no_store_no_hardware_to_set_up_and_no_console() -> None:
    for path in sorted((ROOT / "ccd/student").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not {"ccd.runtime.console"} & set(imported_names(path)), path.name
        calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        called = {node.id if isinstance(node, ast.Name) else getattr(node, "attr", "") for node in calls}
        assert not {"open_store", "set_up_hardware"} & called, path.name


def test_no_test_imports_another_test() -> None:
    """What two tests need lies in tests/toys."""
    for path in TESTS:
        assert not [name for name in imported_names(path) if name.startswith("tests.test_")], path
        assert not any(name.startswith("test_") for name in imported_names(path)), path
