"""A run of a study: the copy of the project, the files that it replaces, and its seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccd.artifacts.corrections_file import path_of
from ccd.errors import CcdError
from ccd.params.file import read_yaml
from ccd.params.presets import apply_preset
from ccd.runtime.console import TIMINGS_LOG, record_timing
from studies.run import project_copy, stage_seconds

ROOT = Path(__file__).resolve().parent.parent


def test_seconds_of_a_run_are_those_that_the_stages_recorded(tmp_path: Path) -> None:
    assert stage_seconds(tmp_path) == {}, "everything came from the cache"
    log, weights, curves = (tmp_path / name for name in (TIMINGS_LOG, "w.pt", "c.csv"))
    log.parent.mkdir(parents=True)
    for seconds, content in ((9.0, "before"), (2.5, "after")):
        weights.write_text(content)
        curves.write_text("same in both")
        record_timing("train", seconds, [weights, curves], log)
    record_timing("evaluate", 1.04, [curves], log)
    assert stage_seconds(tmp_path) == {"train": 2.5, "evaluate": 1.0}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Just enough of a project to be copied, its weights in a folder beside it."""
    folder = tmp_path / "home" / "project"
    for name in ("ccd", "stages", ".dvc", "pictures"):
        (folder / name).mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / ".dvc/config").write_text("")
    (tmp_path / "home/weights.pt").write_text("weights")
    (folder / "corrections").mkdir()
    (folder / path_of("toy")).write_text("image_id,class,label\na,cup,1\n")
    settings = {"dataset.name": "toy", "dataset.root": "pictures", "warmup.weights": "../weights.pt"}
    (folder / "params.yaml").write_text(apply_preset("demo", None, settings, recipe="paper"))
    return folder


def test_a_run_is_a_copy_with_other_parameters_whose_relative_paths_hold(project: Path, tmp_path: Path) -> None:
    folder = project / "studies/results/toy/.runs/alpha.0"
    with project_copy(project, folder, tmp_path / "cache", {"aggregate.alpha": "0.6"}, threads=3) as run:
        params = read_yaml(run.folder / "params.yaml")
        assert params["aggregate"]["alpha"] == 0.6
        assert params["warmup"]["weights"] == "../weights.pt", "another value would be another run for DVC"
        assert (run.folder / "../weights.pt").read_text() == "weights"
        assert (run.folder / path_of("toy")).read_text() == "image_id,class,label\na,cup,1\n"
        assert (run.folder / "pictures").is_dir() and run.data == folder / "data/toy"
        assert run.environment["OMP_NUM_THREADS"] == "3"
    assert not folder.exists() and (tmp_path / "home/weights.pt").exists() and (project / "pictures").exists()


def test_a_given_artifact_takes_the_place_of_the_stage_that_makes_it(project: Path, tmp_path: Path) -> None:
    with project_copy(project, project / "data/x/y/z", tmp_path, {}, threads=0) as run:
        before = read_yaml(run.folder / "dvc.yaml")["stages"]
        assert run.replace_output("boxes.parquet") == run.data / "boxes.parquet"
        after = read_yaml(run.folder / "dvc.yaml")["stages"]
        assert after == {name: stage for name, stage in before.items() if name != "cam_boxes"}
        with pytest.raises(CcdError, match=r"no stage makes boxes\.parquet"):
            run.replace_output("boxes.parquet")
    assert "cam_boxes" in read_yaml(project / "dvc.yaml")["stages"]


def test_a_stage_may_read_another_file(project: Path, tmp_path: Path) -> None:
    with project_copy(project, project / "data/x/y/z", tmp_path, {}, threads=0) as run:
        before = read_yaml(run.folder / "dvc.yaml")["stages"]
        assert run.replace_input("cam_boxes", "warmup.pt", "first_student.pt") == run.data / "first_student.pt"
        after = read_yaml(run.folder / "dvc.yaml")["stages"]
        old, new = (before.pop("cam_boxes"), after.pop("cam_boxes"))
        assert after == before, "the others, train too, read the warmed-up student"
        assert new["cmd"].split() == [word.replace("warmup.pt", "first_student.pt") for word in old["cmd"].split()]
        assert "--warmup data/${dataset.name}/first_student.pt" in new["cmd"]
        assert new["deps"] == [dep.replace("warmup.pt", "first_student.pt") for dep in old["deps"]]
        with pytest.raises(CcdError, match=r"stage cam_boxes does not read labels\.parquet"):
            run.replace_input("cam_boxes", "labels.parquet", "x")


def test_a_wrong_setting_leaves_no_copy_behind(project: Path, tmp_path: Path) -> None:
    folder = project / "data/runs"
    with (
        pytest.raises(CcdError, match=r"unknown key 'aggregate\.beta'"),
        project_copy(project, folder, tmp_path, {"aggregate.beta": "1"}, 0),
    ):
        raise AssertionError("not reached")
    assert not folder.exists()
