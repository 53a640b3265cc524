"""In the copies that `dvc exp run --temp` and `--queue` make, relative paths lead to what git did not copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccd.params.file import copied_project, load
from ccd.params.presets import apply_preset
from ccd.params.sections import DatasetParams, IndexParams, TeacherParams, WarmupParams
from stages.index import main as index

VALUES = {
    "index.classes_file": "lists/classes.txt",
    "teacher.model": "weights/clip.pt",
    "warmup.weights": "weights/b.pt",
}


def copied(project: Path, *inside: str) -> Path:
    """A copy as DVC makes it, of the parameters alone; ``inside``: where the DVC project lies in git's."""
    copy = project.joinpath(".dvc/tmp/exps/standalone/tmpabc", *inside)
    (copy / ".dvc").mkdir(parents=True)
    (copy / "params.yaml").write_text(apply_preset("folder", "photos", {}, values=VALUES))
    return copy


def index_demo() -> None:
    outputs = {"images": "images.parquet", "classes": "classes.json", "labels": "labels.parquet"}
    words = [word for name, file in outputs.items() for word in (f"--{name}", f"data/demo/{file}")]
    index.main(words, standalone_mode=False)


@pytest.fixture()
def project(tmp_path: Path) -> Path:
    for name in ("photos/a.jpg", "weights/clip.pt", "weights/b.pt", "lists/classes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("inside", [(), ("sub", "project")])
def test_what_is_not_in_the_copy_is_the_projects(
    project: Path, inside: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied(project, *inside))
    assert load(DatasetParams).root == str(project / "photos")
    assert load(IndexParams).classes_file == str(project / "lists/classes.txt")
    assert load(TeacherParams).model == str(project / "weights/clip.pt")
    assert load(WarmupParams).weights == str(project / "weights/b.pt")
    assert load(DatasetParams, as_written=True).root == "photos"


def test_what_is_in_the_copy_or_nowhere_or_a_name_stays(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copied(project)
    (copy / "photos").mkdir()
    named = {**VALUES, "teacher.model": "RN50", "warmup.weights": "imagenet", "index.classes_file": "gone.txt"}
    (copy / "params.yaml").write_text(apply_preset("folder", "photos", {}, values=named))
    monkeypatch.chdir(copy)
    assert (load(DatasetParams).root, load(TeacherParams).model) == ("photos", "RN50")
    assert (load(WarmupParams).weights, load(IndexParams).classes_file) == ("imagenet", "gone.txt")


def test_a_stage_in_a_folder_of_the_copy_looks_in_that_folder_of_the_project(project: Path) -> None:
    copy = copied(project)
    (copy / "studies").mkdir()
    assert copied_project(copy / "studies") == project / "studies"
    assert copied_project(project) is None and copied_project(project / ".dvc/tmp/exps") is None


def test_elsewhere_paths_are_as_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "params.yaml").write_text(apply_preset("folder", "photos", {}))
    monkeypatch.chdir(project)
    assert load(DatasetParams).root == "photos"


def test_the_demo_is_rendered_in_the_copy_and_the_projects_scenes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"index.demo_train": "2", "index.demo_test": "1", "runtime.workers": "0"}
    (tmp_path / "params.yaml").write_text(apply_preset("demo", None, small))
    monkeypatch.chdir(tmp_path)
    index_demo()
    before = {path: path.read_bytes() for path in Path("datasets").absolute().rglob("*") if path.is_file()}
    copy = copied(tmp_path)
    (copy / "params.yaml").write_text(apply_preset("demo", None, {**small, "index.demo_train": "3"}))
    monkeypatch.chdir(copy)
    index_demo()
    assert len(list(Path("datasets/demo").rglob("*.jpg"))) + len(list(Path("datasets/demo").rglob("*.png"))) == 4
    assert {path: path.read_bytes() for path in before} == before and os.listdir(copy / "datasets") == ["demo"]  # noqa: PTH208
