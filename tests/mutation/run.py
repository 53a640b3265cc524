"""One mutant in one forked process, whose heavy imports are done already; the sources on the disk stay as they are."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from tests.faults.child import Ended, run
from tests.mutation.operators import Mutant, mutants

PACKAGES = (Path("ccd/labels"), Path("ccd/artifacts"))
LIMIT_S = 1800
LABELS = ("test_labels.py", "test_labels_properties.py")
# what covers a module beside the tests of its package
MORE = {
    "cdul": ("test_studies_cdul.py",),
    "corrections": ("test_corrections.py",),
    "none_images": ("test_none_images.py",),
    "thresholds": ("test_thresholds.py",),
    "atomic": ("test_machine.py", "test_store.py"),
    "boxes": ("test_propose.py",),
    "hdf5": ("test_machine.py", "test_concurrency.py"),
    "features": ("test_machine.py",),
    "seal": ("test_faults_hostile.py",),
    "checkpoint": ("test_concurrency.py",),
    "csv_files": ("test_csv_files.py", "test_faults_hostile.py"),
    "image_keys": ("test_image_keys.py",),
    "feature_rows": ("test_inspect.py",),
    "listing": ("test_cli.py", "test_inspect.py"),
    "timings": ("test_cli.py", "test_inspect.py"),
    "measured": ("test_report.py",),
}
HEAVY = ("clip", "h5py", "hypothesis", "numpy", "pandas", "pyarrow.parquet", "PIL.Image", "pydantic", "torch",
         "torchvision", "ruamel.yaml", "matplotlib")  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """``end``: killed (a test failed), hung (which somebody would notice; counts as killed) or SURVIVED."""

    mutant: Mutant
    end: str
    seconds: float


def tests_of(path: Path) -> list[str]:
    """The quick test files that cover a module, the most telling first."""
    own = LABELS if path.parent.name == "labels" else ("test_artifacts.py", "test_artifacts_refused.py")
    return [f"tests/{name}" for name in [*own, "test_pieces.py", *MORE.get(path.stem, ())]]


def drawn(count: int, seed: int) -> list[Mutant]:
    """A sample of all mutants, in the sources' order."""
    everything = [each for package in PACKAGES for path in sorted(package.glob("*.py")) for each in mutants(path)]
    return sorted(Random(seed).sample(everything, min(count, len(everything))), key=lambda each: str(each))


def judge(chosen: Sequence[Mutant], folder: Path, say: Callable[[str], object]) -> list[Fate]:
    """Run the tests of each, in the repository's folder.

    Raises:
        AssertionError: the tests fail without any change.
    """
    for name in HEAVY:
        importlib.import_module(name)
    assert not any(name.split(".")[0] == "ccd" for name in sys.modules), "the package must be imported anew by each"
    limits_s: dict[tuple[str, ...], float] = {}
    fates = []
    for mutant in chosen:
        names = tuple(tests_of(mutant.path))
        if names not in limits_s:
            ended = _tested(mutant.path, None, folder, LIMIT_S)
            assert ended.code == 0, f"the tests of {mutant.path} fail as it is:\n{ended.said[-3000:]}"
            limits_s[names] = 30 + 10 * ended.seconds
        start = time.monotonic()
        try:
            end = "killed" if _tested(mutant.path, mutant.tree(), folder, limits_s[names]).code else "SURVIVED"
        except AssertionError:
            end = "hung"
        fates.append(Fate(mutant, end, time.monotonic() - start))
        say(f"{end:8} {fates[-1].seconds:5.1f} s  {mutant}")
    return fates


def _tested(path: Path, tree: ast.Module | None, folder: Path, limit_s: float) -> Ended:
    def test() -> None:
        os.environ.update(HYPOTHESIS_STORAGE_DIRECTORY=str(folder / "hypothesis"), HYPOTHESIS_MAX_EXAMPLES="20")
        if tree is not None:
            sys.meta_path.insert(0, _Replaced(path, tree))
        words = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
        raise SystemExit(int(pytest.main([*words, *tests_of(path), *_cases(path)])))

    return run(test, Path.cwd(), folder / "log", limit_s)


def _cases(path: Path) -> list[str]:
    """For artifacts, also the damaged files of tests/faults."""
    if path.parent.name == "labels":
        return []
    from tests.faults.artifacts import CASES

    return [f"tests/test_faults.py::test_bad_input[{case.group}: {case.name}]" for case in CASES]


class _Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path, self._tree = path.resolve(), tree
        self._name = ".".join(path.with_suffix("").parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """For that module alone."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        """From the tree."""
        exec(compile(self._tree, str(self._path), "exec"), module.__dict__)
