"""Studies: what their file says, how they are wired, their tables and the copy of the project that a run is."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML

from ccd.artifacts import class_table, image_index
from ccd.artifacts.class_table import LABELS
from ccd.errors import CcdError
from ccd.params.file import read_yaml
from ccd.params.presets import override, parameters
from ccd.params.sections import SECTIONS
from studies import figure, table
from studies.corrected import decided, doubtful_order
from studies.inputs import check
from studies.measure import Finding
from studies.spec import (
    PAPER_FILE,
    STUDIES_FILE,
    Corrected,
    Study,
    Variant,
    load_run_params,
    load_study,
    paper_numbers,
    study_names,
)
from studies.study import OUTPUTS, note_seconds

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "studies/dvc.yaml").read_text())["stages"]
NAMES = study_names(ROOT / STUDIES_FILE)


def studies_modules(path: Path) -> set[str]:
    """Modules of `studies` that a file imports, directly or not."""
    text = path.read_text()
    names = set(re.findall(r"^from studies\.(\w+) import", text, re.M))
    for line in re.findall(r"^from studies import (.+)$", text, re.M):
        names |= {name.split(" as ")[0] for name in line.split(", ")}
    return names.union(*(studies_modules(ROOT / f"studies/{name}.py") for name in names)) if names else set()


def test_every_study_is_a_stage_of_its_own_pipeline_with_its_own_parameters() -> None:
    assert list(STAGES) == NAMES
    sections = [model.section for model in SECTIONS if model.section not in ("dataset", "runtime")]
    code = ["study", *sorted(studies_modules(ROOT / "studies/study.py"))]
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"cd .. && python -m studies.study {name}"
        assert stage["params"] == [{"../params.yaml": sections}, {STUDIES_FILE.name: [name]}]
        assert {dep for dep in stage["deps"] if dep.endswith(".py")} == {f"{module}.py" for module in code}
        assert {"../ccd", "../stages", PAPER_FILE.name} < set(stage["deps"])
        assert all((ROOT / "studies" / dep).exists() for dep in stage["deps"] if "${" not in dep)
        made = [Path(out).name for out in stage["outs"] if out.startswith(f"results/${{dataset.name}}/{name}/")]
        assert sorted(made) == sorted(OUTPUTS) and len(made) == len(stage["outs"])


def test_ground_truth_that_studies_read_cannot_reach_the_main_pipeline() -> None:
    sources = [*ROOT.glob("ccd/**/*.py"), *ROOT.glob("stages/*.py")]
    assert not [path for path in sources if re.search(r"^(from|import) studies", path.read_text(), re.M)]
    main = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert not [dep for stage in main.values() for dep in stage["deps"] if "studies" in dep]
    assert all("../data/${dataset.name}/labels.parquet" in stage["deps"] for stage in STAGES.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_changes_parameters_that_exist(name: str) -> None:
    study = load_study(name, ROOT / STUDIES_FILE)
    text = (ROOT / "params.yaml").read_text()
    for variant in study.rows().values():
        changed = YAML(typ="safe").load(override(text, study.settings(variant, 1, parameters(text))))
        for key, value in variant.set.items():
            section, _, knob = key.partition(".")
            assert changed[section][knob] == value, "lists and mappings arrive as they are"
    assert len(study.seeds) > 1


@pytest.mark.parametrize("study", ["ablation", "baselines", "views"])
def test_the_papers_numbers_name_variants_and_their_classes_have_its_mean(study: str) -> None:
    variants = load_study(study, ROOT / STUDIES_FILE).rows()
    for dataset in read_yaml(ROOT / PAPER_FILE)[study]:
        numbers = paper_numbers(study, dataset, ROOT / PAPER_FILE)
        assert set(numbers) <= set(variants)
        for found in numbers.values():
            classes = [value for name, value in found.items() if name != "mean"]
            assert not classes or np.mean(classes) == pytest.approx(found["mean"], abs=0.1)
    assert paper_numbers(study, "demo", ROOT / PAPER_FILE) == {}


def test_a_sweep_is_written_out_as_variants_named_by_the_value(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "run: {jobs: 2, threads: 1}\n"
        "k: {title: t, students: true, seeds: [0], sweep: {key: cam_boxes.boxes_per_class, values: [1, 2]}}\n"
        "both: {title: t, students: true, seeds: [0], variants: {a: {}}, sweep: {key: a.b, values: [1, 2]}}\n"
        "tiles: {title: t, students: true, seeds: [0], variants: {a: {labels: cdul}}}\n"
        "word: {title: t, students: true, seeds: [0], variants: {a: {sets: {}}}}\n"
    )
    assert study_names(path) == ["k", "both", "tiles", "word"] and load_run_params(path).jobs == 2
    study = load_study("k", path)
    assert study.settings(study.rows()["2"], 5, {}) == {
        "warmup.seed": "5",
        "train.seed": "5",
        "head.seed": "5",
        "cam_boxes.boxes_per_class": "2",
    }
    with pytest.raises(CcdError, match="either variants or sweep"):
        load_study("both", path)
    with pytest.raises(CcdError, match="state boxes: grid too"):
        load_study("tiles", path)
    with pytest.raises(CcdError, match=r"'word'.*sets"):
        load_study("word", path)
    with pytest.raises(CcdError, match="has no study 'x'; it has: k, both, tiles, word"):
        load_study("x", path)


FINDINGS = [
    Finding("CCD", 0, {"result": 70.0, "views_per_image": 5.0, "test_other": 1.0}, {"cup": 60.0, "a|b": 80.0}),
    Finding("CCD", 1, {"result": 74.0, "views_per_image": 5.0}, {"cup": 64.0, "a|b": 84.0}),
    Finding("none", 0, {"result": 65.0}, {"cup": 50.0}),
]


def test_means_and_deviations_over_seeds() -> None:
    spread = table.means(FINDINGS)
    assert list(spread["CCD"]) == ["result", "views_per_image"], "only columns that have a title, in its order"
    assert (spread["CCD"]["result"].mean, spread["CCD"]["result"].count) == (72.0, 2)
    assert spread["CCD"]["result"].deviation == pytest.approx(math.sqrt(8))  # of 70 and 74, over n - 1
    assert spread["none"]["views_per_image"].count == 0 and str(spread["none"]["views_per_image"]) == ""
    assert str(spread["CCD"]["result"]) == "72.0 ± 2.8" and str(spread["none"]["result"]) == "65.0"


def test_tables_show_the_difference_to_the_first_variant_and_the_papers_numbers() -> None:
    paper = {"CCD": {"mean": 90.1, "cup": 77.0}}
    rows = table.table_rows(FINDINGS, paper)
    assert rows[0] == {
        "variant": "CCD",
        "seeds": 2,
        "result": 72.0,
        "result_std": 2.828,
        "views_per_image": 5.0,
        "views_per_image_std": 0.0,
        "paper": 90.1,
    }
    assert rows[1]["views_per_image"] == "" and rows[1]["result_std"] == "" and rows[1]["paper"] == ""
    cup, other = table.class_rows(FINDINGS, paper)
    assert (cup["CCD"], cup["none"], cup["none_against_first"], cup["CCD_paper"]) == (62.0, 50.0, -12.0, 77.0)
    assert (other["none"], other["none_against_first"]) == ("", "")
    assert table.run_rows(FINDINGS)[2] == {
        "variant": "none",
        "seed": 0,
        "result": 65.0,
        "views_per_image": "",
        "test_other": "",
    }
    text = table.markdown("Title", "", FINDINGS, paper)
    assert "| CCD | 72.0 ± 2.8 | 5.0 ± 0.0 | 90.1 |" in text
    assert "| cup | 62.0 ± 2.8 | 50.0 (-12.0) | 77.0 |" in text and "| a\\|b | 82.0 ± 2.8 |  |  |" in text


@pytest.mark.parametrize("axis", [None, "aggregate.alpha"])
def test_figures_are_drawn_and_repeat(axis: str | None, tmp_path: Path) -> None:
    findings = [
        Finding(name, seed, {"train_aggregated_raw": 60.0 + seed}, {"cup": 60.0, "mug": 50.0 + 3 * seed})
        for name in ("0.2", "0.4")
        for seed in (0, 1)
    ]
    for name in ("first", "second"):
        figure.draw(tmp_path / name, "Title", findings, {"0.2": {"mean": 70.0}}, axis)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with Image.open(tmp_path / "first") as drawn:
        assert drawn.width > 800 and len(np.unique(np.asarray(drawn.convert("L")))) > 20


def test_corrections_are_drawn_as_a_curve_for_each_order(tmp_path: Path) -> None:
    study = load_study("corrections", ROOT / STUDIES_FILE)
    curves = study.curves()
    assert list(curves) == ["doubtful", "student", "random"] and load_study("alpha", ROOT / STUDIES_FILE).curves() == {}
    assert curves["random"] == {"none": 0, "25 random": 25, "50 random": 50, "100 random": 100, "200 random": 200}
    findings = [
        Finding(name, seed, {"result": 50.0 + seed, "train_aggregated_label": 60.0 + number}, {})
        for number, name in enumerate(study.rows())
        for seed in (0, 1)
    ]
    for name in ("first", "second"):
        figure.draw_curves(tmp_path / name, "Title", findings, curves)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    with Image.open(tmp_path / "first") as drawn:
        assert drawn.width > 800 and len(np.unique(np.asarray(drawn.convert("L")))) > 20


def test_true_labels_of_corrected_images_decide_every_class() -> None:
    truth = {"label": np.array([[1, 0], [0, 1]], np.int8), "difficult": np.array([[False, False], [False, True]])}
    known = class_table.ClassTable(["a", "b"], ("cup", "mug"), truth, {})
    assert decided(["b"], known) == {("b", "cup"): 0, ("b", "mug"): 1}


def test_what_is_in_no_doubt_comes_last() -> None:
    gap = np.array([[0.0, 0.0], [0.2, 0.1], [0.0, 0.0], [0.1, 0.9]])
    assert doubtful_order(gap).tolist() == [3, 1, 0, 2]


def test_seconds_are_appended_to_a_log(tmp_path: Path) -> None:
    for seed in (0, 1):
        note_seconds(tmp_path / "seconds.csv", "alpha", "0.4", seed, {"train": 1.5, "evaluate": 2.0})
    lines = (tmp_path / "seconds.csv").read_text().splitlines()
    assert lines[0] == "study,variant,seed,stage,seconds" and len(lines) == 5
    assert lines[-1] == "alpha,0.4,1,evaluate,2.0"


def test_what_no_run_could_do_is_refused_before_the_first(tmp_path: Path) -> None:
    index = image_index.ImageIndex(
        ["a", "b"], ["a.png", "b.png"], np.ones(2, bool), np.ones((2, 2), np.int32), np.ones(2, np.int64), ["", ""]
    )
    image_index.write(tmp_path / "images.parquet", index)
    truth = {"label": np.ones((1, 1), np.int8), "difficult": np.zeros((1, 1), bool)}
    class_table.write(tmp_path / "labels.parquet", LABELS, class_table.ClassTable(["a"], ("cup",), truth, {}))
    params = tmp_path / "params.yaml"
    params.write_text(override((ROOT / "params.yaml").read_text(), {"index.adapter": "folder"}))

    def of(variant: Variant) -> Study:
        return Study(title="t", students=True, seeds=[0], variants={"plain": Variant(), "it": variant})

    check(of(Variant(boxes="grid", labels="cdul")), tmp_path, params)
    with pytest.raises(CcdError, match="such data sets have no boxes"):
        check(of(Variant(boxes="exact")), tmp_path, params)
    check(of(Variant(corrections=Corrected(images=1))), tmp_path, params)
    with pytest.raises(CcdError, match="corrects 2 training images, and only 1 have known labels"):
        check(of(Variant(corrections=Corrected(images=2))), tmp_path, params)
    with pytest.raises(CcdError, match="no known labels, the first is b"):
        check(of(Variant(labels="truth")), tmp_path, params)
    with pytest.raises(CcdError, match=r"unknown key 'train\.speed'"):
        check(of(Variant(set={"train.speed": 2})), tmp_path, params)


def test_dvc_takes_the_studies_of_a_clone_whose_git_ignores_their_lock(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in (".gitignore", "params.yaml", "studies/dvc.yaml", "studies/params.yaml", "studies/.dvc/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "studies/dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    with Repo(str(tmp_path / "studies")) as repo:
        assert {name.split(":")[-1] for name in repo.status()} == set(
            YAML(typ="safe").load(tmp_path / "studies/dvc.yaml")["stages"]
        )
