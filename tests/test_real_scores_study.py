"""The study of given scores: the file, the split, the labels, and what a study without a file does."""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from ccd.artifacts import class_table, image_index
from ccd.artifacts.class_table import LABELS
from ccd.artifacts.corrections_file import ensure, path_of
from ccd.errors import CcdError
from ccd.evaluation.summary import Scores
from ccd.params.presets import apply_preset
from ccd.params.sections import AggregateParams, BiasParams, GlobalLabelsParams
from studies import table
from studies.given_run import check_given, photos_of
from studies.given_scores import (
    GivenScores,
    Recipe,
    bias_of,
    held_out,
    labels_of,
    read_scores,
    split_again,
    untrained,
)
from studies.measure import Finding, measure_part
from studies.spec import Given, Study, Variant
from studies.study import OUTPUTS, main

ROOT = Path(__file__).resolve().parent.parent
LETTERS = list("abcdef")  # md5 modulo 100: a 97, b 43, c 43, d 53, e 66, f 59


def write_scores(path: Path, ids: list[str], classes: list[str], logits: np.ndarray, tiles: np.ndarray) -> Path:
    np.savez(path, ids=ids, classes=classes, global_logits=logits.astype(np.float32), tile_max_probs=tiles)
    return path


def test_scores_are_read_in_the_order_of_the_data_sets_classes(tmp_path: Path) -> None:
    logits = np.log([[0.2, 0.8], [0.5, 0.5]])
    path = write_scores(tmp_path / "s.npz", ["a", "b"], ["dog", "cat"], logits, np.array([[0.1, 0.9], [0.3, 0.4]]))
    found = read_scores(path, ["cat", "dog"])
    np.testing.assert_allclose(found.probs, [[0.8, 0.2], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(found.of(["b", "a"]).tile_probs, [[0.4, 0.3], [0.9, 0.1]])
    assert (found.ids, found.classes) == (("a", "b"), ("cat", "dog")) and read_scores(path).classes == ("dog", "cat")


def test_a_file_that_does_not_fit_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"none\.npz: No such file; state another as given\.scores"):
        read_scores(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(CcdError, match=r"text\.npz: no file of scores"):
        read_scores(tmp_path / "text.npz")
    good = write_scores(tmp_path / "s.npz", ["a"], ["cat"], np.zeros((1, 1)), np.ones((1, 1)))
    with pytest.raises(CcdError, match="1 classes are not the 2 of the data set"):
        read_scores(good, ["cat", "dog"])
    short = write_scores(tmp_path / "short.npz", ["a", "b"], ["cat"], np.zeros((2, 1)), np.ones((1, 1)))
    with pytest.raises(CcdError, match=r"of shape \(2, 1\)"):
        read_scores(short)


def index_of(ids: list[str], train: list[bool]) -> image_index.ImageIndex:
    count = len(ids)
    sizes = np.ones((count, 2), np.int32)
    return image_index.ImageIndex(
        ids, [f"{i}.png" for i in ids], np.array(train), sizes, np.ones(count, np.int64), [""] * count
    )


def test_held_out_images_are_drawn_by_the_md5_of_their_ids() -> None:
    assert held_out(LETTERS, 54).tolist() == [False, True, True, True, False, False]
    assert held_out(LETTERS, 43).sum() == 0 and held_out(LETTERS, 98).all()


def test_scored_training_images_are_dealt_and_test_images_stay() -> None:
    index = index_of(LETTERS, [True, True, True, True, True, False])
    dealt, out = split_again(index, ["a", "b", "d", "f"], 50)  # c and e have no scores; f is a test image
    assert list(dealt.ids) == ["a", "b", "d", "f"] and out == {"b"}
    assert dealt.is_train.tolist() == [True, False, True, False]
    with pytest.raises(CcdError, match="0 of 5 training images of the data set have scores"):
        split_again(index, ["x"], 50)


def recipe(
    floor: float,
    alpha: float,
    *,
    rule: str = "off",
    width: float | None = None,
    at: float | Literal["prevalence"] = 0.5,
) -> Recipe:
    return Recipe(
        BiasParams(center_scores=False, enabled=True, max_entropy_nats=2.0, shrinkage=0.0),
        GlobalLabelsParams(floor=floor, none_rule=rule, none_threshold=0.7, none_weight=0.5),  # type: ignore[arg-type]
        AggregateParams(
            alpha=alpha, contest=False, contest_iou=0.7, sharpen_width=width, sharpen_at=at, correction_weight=1.0
        ),
    )


SCORES = GivenScores(("a",), ("cat", "dog"), np.array([[0.6, 0.4]]), np.array([[0.9, 0.2]]))


def test_labels_of_scores_by_hand() -> None:
    """q = (.6 / .8, .4 / .5) = (.75, .8); l = (.9 / .8, .2 / .5) = (1.125, .4); y = .4 q + .6 l."""
    labels = labels_of(SCORES, np.array([0.8, 0.5]), recipe(0.05, 0.4))
    final = labels.final
    np.testing.assert_allclose(labels.whole_image["label"], [[0.75, 0.8]])
    np.testing.assert_allclose(final["label"], [[0.975, 0.56]])
    assert final["box_id"].tolist() == [[-1, -1]] and final["correction"].tolist() == [[-1, -1]]
    floored = labels_of(SCORES, np.ones(2), recipe(0.5, 0.4)).final
    np.testing.assert_allclose(floored["label"], [[0.4 * 0.6 + 0.6 * 0.9, 0.5]])
    whole = labels_of(SCORES, np.ones(2), recipe(0.0, 1.0)).final
    np.testing.assert_allclose(whole["label"], SCORES.probs)


def test_sharpening_and_the_rule_for_background_images_apply() -> None:
    sharp = labels_of(SCORES, np.ones(2), recipe(0.0, 0.4, width=0.1)).final
    np.testing.assert_allclose(sharp["label"], [[1 / (1 + math.exp(-2.8)), 1 / (1 + math.exp(2.2))]])  # of .78, .28
    own = labels_of(SCORES, np.ones(2), recipe(0.0, 0.4, width=0.1, at="prevalence")).final  # t = .78 / 2, 1.28 / 2
    np.testing.assert_allclose(own["label"], [[1 / (1 + math.exp(-3.9)), 1 / (1 + math.exp(3.6))]], rtol=0.01)
    labels = labels_of(SCORES, np.ones(2), recipe(0.0, 0.4, rule="max_prob"))  # .6 < .7: half of all labels
    np.testing.assert_allclose(labels.whole_image["label"], [[0.3, 0.2]])
    assert labels.background.is_background.tolist() == [True] and labels.background.rule == "max_prob"
    np.testing.assert_allclose(labels.final["label"], [[0.39, 0.14]])


def test_bias_and_rankings_of_the_teacher_itself() -> None:
    scores = GivenScores(("a", "b"), ("cat", "dog"), np.array([[0.6, 0.4], [0.2, 0.8]]), np.array([[0.9, 0.2], [0, 0]]))
    params = recipe(0.0, 0.4).bias
    np.testing.assert_allclose(bias_of(scores, params), [0.6, 0.8])
    np.testing.assert_allclose(bias_of(scores, params.model_copy(update={"enabled": False})), [1, 1])
    tables = untrained(scores, 0.4)
    np.testing.assert_allclose(tables["mixed"], [[0.78, 0.28], [0.08, 0.32]])
    assert tables["zero_shot"] is scores.probs


def test_gains_are_paired_by_seed() -> None:
    findings = [
        Finding(name, seed, {"result": value}, {})
        for name, values in (("paper", (70.0, 74.0)), ("other", (71.0, 76.0)))
        for seed, value in enumerate(values)
    ]
    paired = table.paired(findings)
    assert ["gain" in each.means for each in paired] == [False, False, True, True]
    gain = table.means(paired)["other"]["gain"]
    assert (gain.mean, gain.count) == (1.5, 2) and gain.deviation == pytest.approx(0.5**0.5)  # of 1 and 2


def test_a_part_is_measured_on_classes_with_enough_positives(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(apply_preset("demo", None, {"evaluate.min_positives": "2"}))
    truth = {"label": np.array([[1, 1], [1, 0], [0, 0]], np.int8), "difficult": np.zeros((3, 2), bool)}
    class_table.write(
        tmp_path / "labels.parquet", LABELS, class_table.ClassTable(["a", "b", "c"], ("cat", "dog"), truth, {})
    )
    scores = Scores(["c", "b", "a"], {"it": np.array([[0.5, 0.1], [0.9, 0.1], [0.3, 0.1]])})
    means, per_class = measure_part(tmp_path, tmp_path / "params.yaml", scores, "it")
    assert means == {"it": pytest.approx(100 * (1 + 2 / 3) / 2)} and list(per_class) == ["cat"]
    with pytest.raises(CcdError, match="min_positives = 2 positives among the 1 images"):
        measure_part(tmp_path, tmp_path / "params.yaml", Scores(["a"], {"it": np.ones((1, 2))}), "it")


def study(**changed: object) -> Study:
    content = {"title": "t", "students": True, "seeds": [0], "given": Given(), "variants": {"a": Variant()}, **changed}
    return Study(**content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"students": False}, "trains students"),
        ({"images": 5}, "all images and classes"),
        ({"variants": {"a": Variant(boxes="exact")}}, "no CLIP runs"),
        ({"variants": {"a": Variant(shows="sparc")}}, "no embeddings"),
        ({"variants": {"a": Variant(shows="head")}}, "no embeddings"),
        ({"given": None, "variants": {"a": Variant(shows="mixed")}}, "needs given scores"),
    ],
)
def test_a_study_states_only_what_scores_can_give(changed: dict[str, object], reason: str) -> None:
    study()
    with pytest.raises(ValueError, match=reason):
        study(**changed)


def test_settings_of_the_study_hold_for_all_variants_and_yield_to_their_own() -> None:
    one = study(set={"train.epochs": 6, "train.lr": 0.5}, variants={"a": Variant(set={"train.epochs": 2})})
    assert one.settings(one.rows()["a"], 3, {}) == {
        "warmup.seed": "3",
        "train.seed": "3",
        "head.seed": "3",
        "train.epochs": "2",
        "train.lr": "0.5",
    }


def test_variants_that_need_boxes_or_background_texts_are_refused_before_the_first_run(tmp_path: Path) -> None:
    path = write_scores(tmp_path / "s.npz", ["a"], ["cat"], np.zeros((1, 1)), np.ones((1, 1)))
    params = tmp_path / "params.yaml"
    params.write_text(apply_preset("demo", None, {}))
    given = Given(scores=str(path))
    check_given(study(given=given), params)
    with pytest.raises(CcdError, match=r"'b': given scores have no boxes"):
        check_given(study(given=given, variants={"b": Variant(set={"aggregate.contest": True})}), params)
    rule = {"global_labels.none_rule": "background", "global_labels.none_threshold": 0.5}
    with pytest.raises(CcdError, match="no background texts"):
        check_given(study(given=given, variants={"b": Variant(set=rule)}), params)
    with pytest.raises(CcdError, match="No such file"):
        check_given(study(given=Given(scores=str(tmp_path / "none.npz"))), params)


def test_without_a_file_the_study_says_so_and_leaves_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(apply_preset("demo", None, {}))
    Path("studies").mkdir()
    shutil.copy(ROOT / "studies/params.yaml", "studies/params.yaml")
    folder = Path("studies/results/demo/real_scores")
    folder.mkdir(parents=True)
    (folder / "table.md").write_text("an earlier result")
    done = CliRunner().invoke(main, ["real_scores"], catch_exceptions=False)
    assert done.exit_code == 0 and done.output.count("\n") == 1 and "given.scores is empty" in done.output
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS), "DVC wants them"
    assert (folder / "table.md").read_text() == "an earlier result"
    assert "given.scores is empty" in (folder / "runs.csv").read_text()


@pytest.mark.shared
def test_the_real_photos_are_dealt_as_documented(shared_dir: Path, tmp_path: Path) -> None:
    lists = shared_dir / "data/voc_photos/ImageSets/Main"
    ids = [*(lists / "train.txt").read_text().split(), *(lists / "val.txt").read_text().split()]
    image_index.write(tmp_path / "images.parquet", index_of(ids, [True] * 1697 + [False] * 940))
    path = shared_dir / "data/voc12_rn50x64/scores.npz"
    classes = read_scores(path).classes[::-1]
    empty = {"label": np.zeros((0, 20), np.int8), "difficult": np.zeros((0, 20), bool)}
    class_table.write(tmp_path / "labels.parquet", LABELS, class_table.ClassTable([], classes, empty, {}))
    photos = photos_of(tmp_path, Given(scores=str(path)))
    assert photos.scores.classes == classes
    assert len(photos.held_out) == photos.index.test_rows.size - 940
    assert (len(photos.index.train_rows), len(photos.held_out)) == (1191, 506)


@pytest.mark.slow
def test_a_study_of_given_scores_through_its_entry_point(tmp_path: Path) -> None:
    """24 + 12 demo scenes, one epoch each; the scores are the truth, so that their rankings are perfect."""
    small = {
        "index.demo_train": "24", "index.demo_test": "12", "warmup.image_size_px": "64", "warmup.epochs": "1",
        "train.image_size_px": "64", "train.epochs": "1", "runtime.workers": "0", "runtime.device": "cpu",
    }  # fmt: skip
    for name in ("ccd", "stages", "studies"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock", "results")
        )
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "params.yaml").write_text(apply_preset("demo", None, small))
    ensure(tmp_path / path_of("demo"))

    def said(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said("dvc", "init", "-q", "--no-scm")
    said("dvc", "repro", "index")
    labels = class_table.read(tmp_path / "data/demo/labels.parquet", LABELS)
    truth = labels.columns["label"].astype(float)
    write_scores(tmp_path / "scores.npz", list(labels.ids), list(labels.classes), 5 * truth, 0.1 + 0.8 * truth)
    variants = {
        "paper": {},
        "truth": {"labels": "truth", "set": {"train.consistency_weight": 0.0}},
        "teacher": {"shows": "mixed"},
    }
    given = {"scores": "scores.npz", "held_out_percent": 40}
    content = {"title": "Given", "students": True, "seeds": [0], "given": given, "variants": variants}
    with (tmp_path / "studies/params.yaml").open("w") as file:
        YAML().dump({"run": {"jobs": 1, "threads": 1}, "real_scores": content}, file)
    said("studies.study", "real_scores")
    folder = tmp_path / "studies/results/demo/real_scores"
    assert sorted(path.name for path in folder.iterdir()) == sorted(OUTPUTS)
    with (folder / "runs.csv").open() as file:
        runs = {row["variant"]: row for row in csv.DictReader(file)}
    assert list(runs) == ["paper", "truth", "teacher"] and float(runs["teacher"]["result"]) == 100
    assert 0 < float(runs["paper"]["result"]) < 100 and float(runs["paper"]["other_result"]) > 0
    assert runs["paper"]["test_student"] == runs["paper"]["result"] and float(runs["paper"]["train_zero_shot"]) > 50
    gain = float(runs["truth"]["result"]) - float(runs["paper"]["result"])
    assert float(runs["truth"]["gain"]) == pytest.approx(gain) and runs["truth"]["train_zero_shot"] == ""
    assert not list((tmp_path / "studies/results/demo/.runs").iterdir())
    with (tmp_path / "studies/results/demo/seconds.csv").open() as file:
        stages = [(row["variant"], row["stage"]) for row in csv.DictReader(file)]
    assert stages == [(name, stage) for name in ("paper", "truth") for stage in ("warmup", "train")]
