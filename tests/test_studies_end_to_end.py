"""Studies through their real entry points, on a small demo: 24 images, one epoch each of warm-up and training."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from ccd.artifacts.corrections_file import ensure, path_of
from ccd.demo.backdrops import TARGETS
from ccd.demo.scenes import render_scene, scene_rng
from ccd.params.presets import apply_preset
from studies.study import OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "index.demo_train": "24", "index.demo_test": "12", "clip_global.image_size_px": "64",
    "clip_local.image_size_px": "64", "clip_local.resized_px": "64", "warmup.image_size_px": "64",
    "warmup.epochs": "1", "cam_boxes.image_size_px": "64", "train.image_size_px": "64", "train.epochs": "1",
    "runtime.workers": "0", "runtime.device": "cpu",
}  # fmt: skip
STUDIES = """\
run: {jobs: 1, threads: 1}
alpha: {title: Alpha, students: false, seeds: [0], sweep: {key: aggregate.alpha, values: [0.4, 1.0]}}
views: {title: Views, students: false, seeds: [0], images: 8, variants: {true boxes: {boxes: exact}}}
second_round:
  title: Second round
  students: true
  seeds: [0]
  variants:
    one round: {}
    two rounds: {boxes: second_round}
prompts:
  title: Prompts
  students: false
  seeds: [0]
  variants:
    one: {set: {text.templates: ['a photo of the {}']}}
    two, synonyms: {synonyms: true, set: {text.templates: ['a photo of the {}', '{}']}}
none_images:
  title: None
  students: false
  seeds: [0]
  drop_classes: 9
  ranking: final
  variants:
    'off': {}
    all: {set: {global_labels.none_rule: entropy, global_labels.none_threshold: 0.0}}
    background:
      set:
        global_labels.none_rule: background
        global_labels.none_threshold: 0.5
        text.background_texts: [a photo of the room]
co_occurrence:
  title: Shared views
  students: false
  seeds: [0]
  variants:
    keep: {}
    merge: {set: {cam_boxes.shared_views: merge, cam_boxes.shared_iou: 0.2}}
    contest: {set: {aggregate.contest: true, aggregate.contest_iou: 0.2}}
baselines:
  title: Baselines
  students: true
  seeds: [0]
  variants:
    CDUL: {boxes: grid, labels: cdul, set: {train.consistency_weight: 0.0, train.label_update_sigma: 1.0}}
    dense regions: {shows: dense, set: {clip_global.regions: 2}}
    supervised: {labels: truth, set: {train.consistency_weight: 0.0}}
corrections:
  title: Corrections
  students: false
  ranking: final
  seeds: [0]
  variants:
    none: {corrections: {images: 0}}
    all doubtful: {corrections: {images: 24, order: doubtful}}
    6 by student: {corrections: {images: 6, order: student}}
    6 random: {corrections: {images: 6, order: random}}
"""
STAGES = ("alpha", "views", "second_round", "baselines", "corrections", "prompts", "none_images", "co_occurrence")
pytestmark = pytest.mark.slow


def said(folder: Path, *words: str) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("ccd", "stages", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(apply_preset("demo", None, SMALL))
    (folder / "studies/params.yaml").write_text(STUDIES)
    ensure(folder / path_of("demo"))
    pipeline = folder / "studies/dvc.yaml"
    yaml = YAML()
    content = yaml.load(pipeline.read_text())
    content["stages"] = {name: content["stages"][name] for name in STAGES}
    with pipeline.open("w") as file:
        yaml.dump(content, file)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)  # as in a clone, whose .gitignore has to suit DVC
    said(folder, "dvc", "init", "-q")
    said(folder, "dvc", "repro", "global_labels")
    return folder


def computed(folder: Path, study: str) -> list[tuple[str, str]]:
    log = pd.read_csv(folder / "studies/results/demo/seconds.csv", dtype=str)
    return list(log[log["study"] == study][["variant", "stage"]].itertuples(index=False, name=None))


def test_a_study_reuses_what_the_main_pipeline_and_its_own_runs_made(project: Path) -> None:
    said(project, "dvc", "--cd", "studies", "repro", "alpha")
    folder = project / "studies/results/demo/alpha"
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    assert list((project / "studies/results/demo/.runs").iterdir()) == [], "no copy is left"
    runs = pd.read_csv(folder / "runs.csv").set_index("variant")
    assert list(runs.index) == [0.4, 1.0] and (runs["train_zero_shot"] > 0).all()
    assert runs.loc[1.0, "train_aggregated_raw"] == pytest.approx(runs.loc[1.0, "train_zero_shot"], abs=1e-6)
    assert runs.loc[0.4, "train_aggregated_raw"] != runs.loc[1.0, "train_aggregated_raw"]
    made = computed(project, "alpha")
    assert made == [("0.4", stage) for stage in ("warmup", "cam_boxes", "clip_local", "aggregate")] + [
        ("1", "aggregate")
    ]
    assert "didn't change, skipping" in said(project, "dvc", "--cd", "studies", "repro", "alpha").splitlines()[-2]
    assert computed(project, "alpha") == made


def test_views_around_true_boxes_are_measured_on_the_drawn_images(project: Path) -> None:
    said(project, "dvc", "--cd", "studies", "repro", "views")
    (run,) = pd.read_csv(project / "studies/results/demo/views/runs.csv").to_dict("records")
    assert run["views_per_image"] >= 1 and run["train_local_raw"] > 0
    assert computed(project, "views") == [("true boxes", "clip_local"), ("true boxes", "aggregate")]


def test_baselines_train_on_the_labels_that_they_are_given(project: Path) -> None:
    said(project, "dvc", "--cd", "studies", "repro", "baselines")
    folder = project / "studies/results/demo/baselines"
    runs = pd.read_csv(folder / "runs.csv").set_index("variant")
    assert runs.loc["CDUL", "views_per_image"] == 9
    assert runs["result"].between(0, 100).all() and runs["result"].nunique() == 3
    trained = runs.drop("dense regions")
    assert trained["result"].tolist() == trained["test_student"].tolist()
    stages = {name: ["warmup", "train", "head", "evaluate"] for name in runs.index} | {"dense regions": ["clip_global"]}
    made = [(name, stage) for name in runs.index for stage in stages[name]]
    assert sorted(row for row in computed(project, "baselines") if row[1] != "clip_local") == sorted(made)
    assert "| CDUL |" in (folder / "table.md").read_text()


def test_a_second_round_takes_the_views_of_the_finished_student(project: Path) -> None:
    runs = runs_of(project, "second_round")
    assert runs["test_warmup"].nunique() == 1 and runs["train_local_raw"].nunique() == 2
    stages = [stage for variant, stage in computed(project, "second_round") if variant == "two rounds"]
    assert sorted(stages) == ["aggregate", "cam_boxes", "clip_local", "evaluate", "head", "train"], (
        "the first round is in the cache"
    )


def runs_of(folder: Path, study: str) -> pd.DataFrame:
    said(folder, "dvc", "--cd", "studies", "repro", study)
    return pd.read_csv(folder / f"studies/results/demo/{study}/runs.csv").set_index("variant")


def test_prompts_change_text_and_never_look_at_a_whole_image_again(project: Path) -> None:
    runs = runs_of(project, "prompts")
    assert runs["train_zero_shot"].nunique() == 2
    stages = [stage for variant, stage in computed(project, "prompts") if variant == "two, synonyms"]
    assert stages == ["text", "bias", "global_labels", "warmup", "cam_boxes", "clip_local", "aggregate"]


def test_images_whose_classes_are_dropped_are_found_and_lose_their_labels(project: Path) -> None:
    """The renderer knows every object, so the share of images without a class is known beforehand."""
    runs = runs_of(project, "none_images")
    every = list(TARGETS)
    kept = set(np.delete(list(TARGETS), np.random.default_rng(0).choice(14, 9, replace=False)))
    assert len(every) == 14 and len(kept) == 5
    scenes = [{one.name for one in render_scene(scene_rng(0, "train", number)).objects} for number in range(24)]
    truly = 100 * sum(not names & kept for names in scenes) / 24
    assert 0 < truly < 100 and runs["none_true"].to_list() == pytest.approx([truly] * 3)
    assert runs["none_found"].tolist()[:2] == [0, 100] and 0 <= runs.loc["background", "none_found"] <= 100
    assert runs.loc["all", "none_precision"] == pytest.approx(truly) and runs.loc["all", "none_recall"] == 100
    assert runs.loc["off", "none_labels"] > runs.loc["all", "none_labels"] == 0
    assert runs.loc["all", "train_zero_shot"] == runs.loc["off", "train_zero_shot"], "rules change labels, not scores"
    table = pd.read_csv(project / "studies/results/demo/none_images/per_class.csv")
    assert set(table["class"]) <= kept
    assert not [stage for _, stage in computed(project, "none_images") if stage in ("index", "clip_global")]


def test_merged_views_are_fewer_and_a_contest_is_decided_in_aggregate_alone(project: Path) -> None:
    runs = runs_of(project, "co_occurrence")
    assert runs.loc["merge", "views_per_image"] < runs.loc["keep", "views_per_image"]
    assert runs.loc["contest", "views_per_image"] == runs.loc["keep", "views_per_image"]
    assert runs.loc["contest", "train_local_raw"] != runs.loc["keep", "train_local_raw"]
    made = computed(project, "co_occurrence")
    assert [row for row in made if row[0] != "keep"] == [
        ("merge", "cam_boxes"),
        ("merge", "clip_local"),
        ("merge", "aggregate"),
        ("contest", "aggregate"),
    ]


def test_corrected_images_have_true_labels_in_the_runs_and_nowhere_else(project: Path) -> None:
    before = (project / path_of("demo")).read_text()
    said(project, "dvc", "--cd", "studies", "repro", "corrections")
    folder = project / "studies/results/demo/corrections"
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    runs = pd.read_csv(folder / "runs.csv").set_index("variant")
    final = runs["train_aggregated_label"]
    assert final["all doubtful"] == 100.0, "every label is the truth"
    assert final["none"] < final["6 random"] < 100 and final["none"] < final["6 by student"] < 100
    assert runs["train_aggregated_raw"].nunique() == 1, "what the method itself says stays"
    made = computed(project, "corrections")
    own_student = ("6 by student", "train")  # the uncorrected one, which another study may have trained before
    assert [row for row in made if row[0] != "none" and row != own_student] == [
        ("all doubtful", "aggregate"),
        ("6 by student", "aggregate"),
        ("6 random", "aggregate"),
    ]
    per_class = pd.read_csv(folder / "per_class.csv")
    assert (per_class["all doubtful"] == 100).all() and (per_class["none"] < 100).any()
    assert (project / path_of("demo")).read_text() == before


def test_a_mistake_in_a_run_is_told_without_a_traceback(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("min_positives: 1", "min_positives: 1000"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studies.study", "alpha"], cwd=project, capture_output=True, text=True, check=False
        )
    finally:
        (project / "params.yaml").write_text(text)
    assert done.returncode == 2 and "evaluate.min_positives = 1000" in done.stderr
    assert "Traceback" not in done.stderr and list((project / "studies/results/demo/.runs").iterdir()) == []
