"""One bad input: how a good project is spoilt, which stage meets it, and what must be said."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import working_in
from ccd.artifacts.corrections_file import ensure, path_of
from ccd.params.presets import apply_preset
from tests.toys.chain import run_stage

SETTINGS = {"dataset.name": "toy", "runtime.workers": "0", "runtime.device": "cpu"}
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Case:
    """``spoil`` gets the folder of a good project. ``says``: what the message holds, `ACCEPTED` if all is well."""

    group: str
    name: str
    stage: str
    spoil: Callable[[Path], object]
    says: tuple[str, ...]
    possible: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Outcome:
    """``code`` of the process, ``message`` on stderr without progress bars, files that the stage left in data/."""

    code: int
    message: str
    written: set[str]


def fresh(folder: Path, **changed: str) -> Path:
    """A good project: three small pictures of two classes, two of them to train on, labels for all."""
    pictures = folder / "pictures"
    (pictures / "test").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "test/c.png")):
        picture(number).save(pictures / name)
    (pictures / "classes.txt").write_text("cat\ndog\n")
    (pictures / "labels.csv").write_text("path,classes\na.png,cat\nb.png,dog\ntest/c.png,cat;dog\n")
    set_params(folder, **changed)
    ensure(folder / path_of("toy"))
    return folder


def picture(seed: int = 9, width: int = 40, height: int = 30) -> Image.Image:
    """Coloured noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def set_params(folder: Path, **changed: str) -> None:
    """params.yaml of the preset ``folder`` with ``section__key`` changed, values as in YAML."""
    values = SETTINGS | {key.replace("__", "."): value for key, value in changed.items()}
    (folder / "params.yaml").write_text(params_text(tuple(values.items())))


@lru_cache
def params_text(settings: tuple[tuple[str, str], ...]) -> str:
    """Every section is checked for it, which takes a while."""
    return apply_preset("folder", "pictures", dict(settings))


def run(stage: str, folder: Path) -> Outcome:
    """Run a stage's command of dvc.yaml in ``folder``, in this process."""
    before = files(folder)
    said = io.StringIO()
    code = 0
    with working_in(folder), redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            run_stage(stage)
        except SystemExit as stop:
            code = int(stop.code or 0)
    text = said.getvalue()
    message = text[text.index("error: ") :] if "error: " in text else ""
    return Outcome(code, message.strip(), files(folder) - before)


def meet(case: Case, folder: Path) -> Outcome:
    """Make a good project in ``folder``, spoil it, and run the stage."""
    fresh(folder)
    with working_in(folder):
        case.spoil(folder)
    return run(case.stage, folder)


def files(folder: Path) -> set[str]:
    """What lies in data/."""
    return {path.relative_to(folder).as_posix() for path in (folder / "data").rglob("*")}
