"""What people made stays: every command twice into the same place, with its files changed by hand in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from ccd.artifacts.corrections_file import path_of
from ccd.cli.main import main
from ccd.project import create
from tests.toys.commands import PREDICT, TUNE, a_model, contents, invoke, labelled_photos
from tests.toys.finished_run import write_project
from tests.toys.tiny_clip import checkpoint
from tests.toys.ui_project import write_ui_project

BINARY = {".parquet", ".pt", ".onnx", ".pt2", ".safetensors", ".png", ".jpg"}
HEADER = "image_id,class,label\n"

CORRECTIONS = path_of("toy").as_posix()
SET_ASIDE = path_of("toy").with_suffix(".set_aside.csv").as_posix()


@dataclass(frozen=True)
class Case:
    """``prepare`` makes what the commands read, in an empty working directory; ``first`` writes, ``again`` (None: the
    same) writes into the same place after every file that ``first`` wrote was changed by hand: text gets a line more,
    or the line that ``lines`` has for it; other files get other bytes."""

    prepare: Callable[[], None]
    first: tuple[str, ...]
    again: tuple[str, ...] | None = None
    lines: Mapping[str, str] = field(default_factory=lambda: {CORRECTIONS: "train/d,cup,1"})


def a_model_for_onnx() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    a_model()


def photos_to_label() -> None:
    """Pictures of two colours, their classes, and a teacher."""
    for number in range(4):
        path = Path(f"photos/{'test/' * (number == 3)}{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 60 * number, np.uint8)).save(path)
    Path("names.txt").write_text("red\ngreen\n")
    Path("vit.pt").write_bytes(checkpoint("vit"))


def nothing() -> None:
    """An empty folder."""


def a_run_without_params() -> None:
    write_project()
    Path("params.yaml").unlink()


def an_answered_sheet() -> None:
    write_project()
    Path("answers.csv").write_text(HEADER + "train/a,cup,1\ntrain/b,cup,0\n")


def unusable_corrections() -> None:
    write_project()
    path_of("toy").parent.mkdir()
    path_of("toy").write_text(HEADER + "train/a,cup,1\ngone,cup,0\n")
    Path("data/toy/classes.txt").write_text("cup\ntall lamp\n")


INIT = ("init", "project", "--images", "photos", "--classes", "names.txt", "--teacher", "vit.pt")
INIT += ("--set", "warmup.weights=none", "--no-estimate")
USE = ("use", "folder", "--root", "data/toy", "--set", "dataset.name=toy")
WRITING: dict[str, list[Case]] = {
    "init": [
        Case(photos_to_label, INIT),
        Case(photos_to_label, INIT, (*INIT, "--force")),
        Case(photos_to_label, INIT, ("init", "project", "--upgrade")),
    ],
    "demo": [Case(nothing, ("demo", "project")), Case(nothing, ("demo", "project"), ("demo", "project", "--force"))],
    "use": [Case(a_run_without_params, USE), Case(a_run_without_params, USE, ("use", "demo"))],
    "inspect": [
        Case(write_project, ("inspect", "train/a")),
        Case(write_project, ("inspect", "train/a", "--out", "seen/a.png")),
    ],
    "predict": [
        *(Case(a_model, (*PREDICT, "--out", f"out/said.{ending}")) for ending in ("csv", "jsonl", "parquet")),
        Case(a_model, (*PREDICT, "--cam", "seen", "--threshold", "0")),
        Case(a_model, (*PREDICT, "--cam", "seen", "--out", "said.csv"), (*PREDICT, "--cam", "seen", "--out", "2.csv")),
        Case(a_model, (*PREDICT, "--out", "said.csv", "--resume")),
    ],
    "thresholds": [
        Case(labelled_photos, ("thresholds", "student.pt", *TUNE)),
        Case(labelled_photos, ("thresholds", "model", *TUNE)),
        Case(labelled_photos, ("thresholds", "student.pt", *TUNE, "--out", "new/tuned.pt")),
    ],
    "export model": [Case(a_model, ("export", "model", "model", "--student", "student.pt"))],
    "export onnx": [Case(a_model_for_onnx, ("export", "onnx", "s.onnx", "--student", "student.pt"))],
    "export torch": [Case(a_model, ("export", "torch", "s.pt2", "--student", "student.pt"))],
    "export labels": [
        *(
            Case(write_project, ("export", "labels", "out", "--format", kind))
            for kind in ("csv", "hf", "coco", "labelstudio", "cvat", "fiftyone")
        ),
        Case(write_project, ("export", "labels", "out", "--format", "hf", "--copy-images")),
        Case(write_project, ("export", "labels", "out", "--format", "cvat", "--copy-images")),
        Case(
            write_project,
            ("export", "labels", "out", "--format", "hf", "--copy-images"),
            ("export", "labels", "out", "--format", "coco", "--copy-images"),
        ),
    ],
    "preview": [
        Case(write_ui_project, ("preview",)),
        Case(write_ui_project, ("preview", "--out", "mine.html")),
    ],
    "review export": [
        Case(write_project, ("review", "export", "--top", "3")),
        Case(write_project, ("review", "export", "--top", "3", "--format", "label-studio")),
        Case(write_project, ("review", "export", "--top", "3", "--out", "mine")),
    ],
    "review import": [Case(an_answered_sheet, ("review", "import", "answers.csv"))],
    "review tidy": [
        Case(
            unusable_corrections,
            ("review", "tidy"),
            lines={CORRECTIONS: "other,cup,1", SET_ASIDE: "# mine"},
        ),
    ],
}  # fmt: skip
WRITES_NOTHING: dict[str, tuple[str, tuple[str, ...]]] = {
    "artifacts": ("it lists", ("artifacts",)),
    "open": ("it serves until Ctrl-C and writes what people answer, see tests/test_ui.py", ("open", "--help")),
    "teachers": ("it lists", ("teachers",)),
    "store": ("it lists, and deletes what is computed again", ("store", "--prune", "0")),
}
SLOW = ("export onnx", "export torch")
CASES = [
    pytest.param(case, id=f"{name} {number}", marks=[pytest.mark.slow] if name in SLOW else [])
    for name, cases in WRITING.items()
    for number, case in enumerate(cases, start=1)
]


def leaves(group: click.Group, *words: str) -> list[str]:
    """All commands that are no groups, as they are called."""
    found = []
    for name, command in group.commands.items():
        found += leaves(command, *words, name) if isinstance(command, click.Group) else [" ".join((*words, name))]
    return found


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; git and DVC, whose start takes seconds, are left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(create, "prepare_version_control", lambda folder: [])
    return tmp_path


def test_every_command_is_tried_here() -> None:
    assert sorted(leaves(main)) == sorted([*WRITING, *WRITES_NOTHING])


@pytest.mark.parametrize("case", CASES)
def test_what_was_changed_by_hand_is_still_there_after_the_command_ran_again(case: Case) -> None:
    case.prepare()
    before = contents()
    done = invoke(*case.first)
    assert done.exit_code == 0, done.output
    written = [path for path, content in contents().items() if before.get(path) != content]
    assert written
    marks = {path: change_by_hand(path, case.lines.get(path.as_posix(), "# mine")) for path in written}
    changed = contents()
    done = invoke(*(case.again or case.first))
    after = contents()
    assert done.exit_code in (0, 2), done.output
    for path, mark in marks.items():
        beside = [content for other, content in after.items() if other.name.startswith(path.stem)]
        assert any(mark in content for content in beside), f"what was written into {path} is gone"
    if done.exit_code == 2:
        assert "--force" in done.stderr and after == changed, "a refusal leaves all as it was"


def change_by_hand(path: Path, line: str) -> bytes:
    """Change a file as a person would; returns the bytes that must not be lost."""
    if path.suffix in BINARY:
        path.write_bytes(mark := f"somebody's own {path}".encode())
        return mark
    path.write_bytes(path.read_bytes() + f"{line}\n".encode())
    return line.encode()


@pytest.mark.parametrize("name", WRITES_NOTHING)
def test_what_only_reads_changes_nothing(name: str) -> None:
    write_project()
    before = contents()
    done = invoke(*WRITES_NOTHING[name][1])
    assert done.exit_code == 0, done.output
    assert contents() == before


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in ("predict", "thresholds", "export model", "export labels") for case in WRITING[name]],
)
def test_force_replaces_what_the_same_command_wrote(name: str, case: Case) -> None:
    """But for what --resume finds complete."""
    case.prepare()
    assert invoke(*case.first).exit_code == 0
    first = contents()
    again = tuple(word for word in case.first if word != "--resume")
    done = invoke(*again, "--force")
    assert done.exit_code == 0 and contents() == first, done.output
