"""The linear head on CLIP's features: its fit by hand, its file, its stage, and what people do with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ccd.artifacts import class_table, features_file, head_file, image_index, text_file
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.head_file import HeadFile, LinearHead
from ccd.deploy.classifier import HeadSpec
from ccd.deploy.load import load_student
from ccd.errors import CcdError
from ccd.labels.debias import nobody_decided
from ccd.labels.scores import sigmoid
from ccd.labels.thresholds import decide
from ccd.student.probe import fit_head
from tests.faults.artifacts import reseal
from tests.toys.chain import COLOURS, artifacts, prepare, run_stage, write_pictures
from tests.toys.commands import invoke
from tests.toys.tiny_clip import checkpoint, save_fp16, tiny_clip

ONCE = {"epochs": 1, "lr": 0.25, "weight_decay": 0.0, "seed": 0}
DATA = Path("data/toy")


def unit_rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width)) + 1.0
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_the_first_step_by_hand() -> None:
    """Two points, whose mean is (1/2, 1/2). At zero the gradient of W is the mean of (1/2 - y)(f - m), (-1/4, 1/4) for
    the first class and 0 for the second; that of o is the mean of 1/2 - y, 0 and -1/2. Adam's first step has the size
    of the learning rate. W m = 0, so that nothing is folded into o."""
    head = fit_head(np.eye(2, dtype=np.float32), np.array([[1.0, 1.0], [0.0, 1.0]]), **ONCE)
    np.testing.assert_allclose(head.weight, [[0.25, -0.25], [0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(head.offset, [0.0, 0.25], atol=1e-6)
    np.testing.assert_allclose(head.logits(np.eye(2)), [[0.25, 0.25], [-0.25, 0.25]], atol=1e-6)


def test_the_mean_goes_into_the_offset() -> None:
    """Points 0 and 1 around 1/2: W = 1/4 after a step, the logits of the centred points are -1/8 and 1/8."""
    head = fit_head(np.array([[0.0], [1.0]], np.float32), np.array([[0.0], [1.0]]), **ONCE)
    assert head.weight[0, 0] == pytest.approx(0.25) and head.offset[0] == pytest.approx(-0.125)


def test_two_points_are_told_apart() -> None:
    head = fit_head(np.eye(2, dtype=np.float32), np.eye(2), epochs=60, lr=0.05, weight_decay=0.1, seed=0)
    probs = sigmoid(head.logits(np.eye(2)))
    assert (probs[[0, 1], [0, 1]] > 0.7).all() and (probs[[0, 1], [1, 0]] < 0.3).all()


def test_a_shift_of_all_features_changes_no_logit() -> None:
    features = unit_rows(300, 8)
    labels = np.random.default_rng(1).random((300, 3))
    usual = {"epochs": 3, "lr": 0.05, "weight_decay": 0.1, "seed": 0}
    head = fit_head(features, labels, **usual)
    moved = fit_head(features + np.float32(0.5), labels, **usual)
    np.testing.assert_allclose(moved.weight, head.weight, atol=1e-4)
    np.testing.assert_allclose(moved.logits(features + np.float32(0.5)), head.logits(features), atol=1e-5)


def test_the_seed_alone_decides_the_order() -> None:
    features = unit_rows(300, 8)  # more than a batch
    labels = np.random.default_rng(1).random((300, 3))
    one, again, other = (fit_head(features, labels, **ONCE | {"epochs": 2, "seed": seed}) for seed in (0, 0, 1))
    assert np.array_equal(one.weight, again.weight) and np.array_equal(one.offset, again.offset)
    assert not np.array_equal(one.weight, other.weight)


def test_probabilities_of_large_logits_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert sigmoid(np.array([4000.0, -4000.0, 0.0])).tolist() == [1.0, 0.0, 0.5]


def content() -> HeadFile:
    linear = LinearHead(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5, -1], np.float32))
    teacher = {"backend": "clip", "model": "ViT-B/32", "sha256": None}
    named = {"teacher": "clip ViT-B/32", "fingerprint": "0123"}
    return HeadFile(("cat", "a dog"), linear, np.array([0.25, 0.5]), "pseudo-labels", 64, teacher, named)


def test_the_file_gives_back_what_was_written_and_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.h5", "two.h5"):
        head_file.write(tmp_path / name, content())
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()
    found = head_file.read(tmp_path / "one.h5", of=("cat", "a dog"), teacher={"fingerprint": "0123"})
    assert np.array_equal(found.linear.weight, content().linear.weight)
    assert found.linear.offset.tolist() == [0.5, -1.0] and found.thresholds.tolist() == [0.25, 0.5]
    rest = {"linear": None, "thresholds": None}
    assert replace(found, **rest) == replace(content(), **rest)  # type: ignore[arg-type]


def nan_in(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["offset"][1] = np.nan
    reseal(path, bytes)


def features_instead(path: Path) -> None:
    rows = features_file.Features(["a"], unit_rows(1, 2), {})
    features_file.write(path, features_file.GLOBAL_SCHEMA, rows)


def one_threshold(path: Path) -> None:
    head_file.write(path, replace(content(), thresholds=np.array([0.5])))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "No such file; run: dvc repro"),
    (lambda path: path.write_bytes(path.read_bytes()[:-7]), "damaged or edited"),
    (lambda path: reseal(path, lambda old: old.replace(b"ccd.head/1", b"ccd.head/0")), "expected 'ccd.head/1'"),
    (features_instead, "its schema is 'ccd.clip_global/1'"),
    (nan_in, "it holds NaN or Inf"),
    (one_threshold, "2 classes, weights, offsets and thresholds of shapes"),
    (lambda path: head_file.write(path, replace(content(), image_size_px=0)), "its image size is 0 px"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "says"), DAMAGE, ids=[says for _, says in DAMAGE])
def test_a_file_that_is_damaged_or_something_else_is_refused(
    spoil: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "head.h5"
    head_file.write(path, content())
    spoil(path)
    with pytest.raises(CcdError, match=r"head\.h5: ") as refused:
        head_file.read(path)
    assert says in str(refused.value) and ("dvc repro -f -s head" in str(refused.value) or "No such" in says)


def test_a_head_of_other_classes_or_another_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.h5"
    head_file.write(path, content())
    with pytest.raises(CcdError, match="its 2 classes are not the 2"):
        head_file.read(path, of=("a dog", "cat"))
    with pytest.raises(CcdError, match="its teacher is 0123"):
        head_file.read(path, teacher={"fingerprint": "4567"})


def fitted(folder: Path, patch: pytest.MonkeyPatch, tower: str, size_px: int) -> None:
    """The stages that need no student, labels by hand, and stage head; ``folder`` is the working directory then."""
    prepare(folder, patch, tower, clip_global__image_size_px=str(size_px))
    (folder / "pictures").mkdir()
    write_pictures(folder / "pictures", tuple(COLOURS), train_count=9)
    for name in ("index", "text", "clip_global"):
        run_stage(name)
    train = image_index.read(DATA / "images.parquet").train()
    label = np.where(np.arange(9)[:, None] % 3 == np.arange(3), 0.9, 0.1)
    columns = dict.fromkeys(("global_prob", "local_prob", "global_label", "local_label", "label"), label)
    columns |= {"box_id": np.full(label.shape, -1), **nobody_decided(label.shape)}
    table = class_table.ClassTable(train.ids, tuple(COLOURS), columns, {"alpha": "0.4"})
    class_table.write(DATA / "pseudo_labels.parquet", PSEUDO_LABELS, table)
    run_stage("head")


@pytest.fixture(scope="module", params=[("vit", 64), ("resnet", 96)], ids=lambda param: param[0])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neither tower reads images of its native size."""
    folder = tmp_path_factory.mktemp(request.param[0])
    with pytest.MonkeyPatch.context() as patch:
        fitted(folder, patch, *request.param)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def scores(folder: Path) -> pd.DataFrame:
    """What stage evaluate measures, of all images, by file name."""
    ids = image_index.read(folder / DATA / "images.parquet").ids
    text = text_file.read(folder / DATA / "text.h5")
    features = features_file.open_global(folder / DATA / "clip_global.h5", ids, text.attributes)
    head = head_file.read(folder / DATA / "head.h5", of=text.classes, teacher=text.attributes)
    probs = sigmoid(head.linear.logits(features.take(np.arange(len(ids))))).astype(np.float32)
    return pd.DataFrame(probs, list(ids), list(text.classes))


def agree(table: pd.DataFrame, folder: Path) -> None:
    expected = scores(folder)
    table = table.rename(index=lambda path: Path(path).name)
    assert len(table) == len(expected) == 12
    np.testing.assert_allclose(table.loc[expected.index, list(COLOURS)], expected, atol=1e-5)


def test_the_stage_tells_the_training_images_apart_and_repeats_itself(here: Path) -> None:
    head = head_file.read(DATA / "head.h5")
    assert head.image_size_px == (64 if here.name.startswith("vit") else 96)
    assert head.teacher["model"] in ("vit.pt", "resnet.pt") and head.teacher["precision"] == "fp32"
    train = image_index.read(DATA / "images.parquet").train().ids
    probs = scores(here).loc[list(train)].to_numpy()
    assert decide(probs, head.thresholds).sum(axis=0).tolist() == [3, 3, 3]  # as often as the labels say
    before = artifacts(here)["head.h5"]
    run_stage("head")
    assert artifacts(here)["head.h5"] == before


def test_predict_gives_what_evaluate_measures(here: Path) -> None:
    assert invoke("predict", DATA / "head.h5", "pictures", "--out", "said.parquet", "--workers", 0).exit_code == 0
    agree(pd.read_parquet("said.parquet").set_index("path"), here)
    model = load_student(DATA / "head.h5")
    assert isinstance(model.description.spec, HeadSpec) and model.classes == tuple(COLOURS)
    agree(model.predict(sorted((here / "pictures").glob("*.png"))), here)
    Path("said.parquet").unlink()


@pytest.mark.slow
def test_onnx_gives_what_evaluate_measures(here: Path, tmp_path: Path) -> None:
    """With its description, but no maps."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "head.onnx"
    done = invoke("export", "onnx", out, "--student", DATA / "head.h5", "--licence", "CC0-1.0", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["largest_difference"] <= 1e-4
    model = load_student(out)
    agree(model.predict(sorted((here / "pictures").glob("*.png"))), here)
    own = load_student(DATA / "head.h5").description
    assert (model.description.spec, model.description.thresholds) == (own.spec, own.thresholds)
    assert model.description.licence == "CC0-1.0" and model.description.provenance["teacher"].startswith("clip ")
    refused = invoke("predict", out, "pictures", "--out", tmp_path / "said.csv", "--cam", tmp_path / "seen")
    assert refused.exit_code == 2 and "without class activation maps" in refused.stderr


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    with pytest.MonkeyPatch.context() as patch:
        fitted(folder, patch, "vit", 64)
    return folder


def test_what_needs_maps_or_a_student_is_refused(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vit)
    for words, says in (
        (("predict", DATA / "head.h5", "pictures", "--out", "said.csv", "--cam", "seen"), "leave --cam out"),
        (("export", "model", "model", "--student", DATA / "head.h5"), "a head on CLIP's features, no student"),
    ):
        done = invoke(*words)
        assert done.exit_code == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert not Path("said.csv").exists() and not Path("seen").exists() and not Path("model").exists()


def test_its_thresholds_can_be_tuned(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vit)
    done = invoke("thresholds", DATA / "head.h5", "--labels", "pictures/labels.csv", "--images", "pictures", "--force")
    assert done.exit_code == 0, done.output
    tuned = head_file.read(Path("head.tuned.h5"))
    assert tuned.thresholds_from == "labelled images"
    assert tuned.thresholds.tolist() != head_file.read(DATA / "head.h5").thresholds.tolist()
    assert load_student("head.tuned.h5").description.thresholds == tuple(tuned.thresholds.tolist())


def test_its_clip_is_found_in_the_project_and_beside_it_and_checked(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agree(load_student(vit / DATA / "head.h5").predict(sorted((vit / "pictures").glob("*.png"))), vit)
    shutil.copy(vit / DATA / "head.h5", "head.h5")
    with pytest.raises(CcdError, match=r"needs that CLIP: teacher\.model 'vit\.pt'.*may lie beside the head"):
        load_student("head.h5")
    Path("vit.pt").write_bytes(checkpoint("vit"))
    monkeypatch.chdir(vit.parent)
    agree(load_student(tmp_path / "head.h5").predict(sorted((vit / "pictures").glob("*.png"))), vit)
    save_fp16(tiny_clip("vit", vision_layers=1), tmp_path / "vit.pt")
    with pytest.raises(CcdError, match="fitted to another CLIP"):
        load_student(tmp_path / "head.h5")
