"""Inputs at the edge, whose results are defined: one image, half precision, weights that are no numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ccd.artifacts import checkpoint_file
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles
from ccd.labels.scores import clip_probs
from ccd.runtime.hardware import Hardware
from ccd.student.inference import score
from ccd.teacher.encode import class_embeddings, encode_images, load_teacher
from tests.toys.chain import CHAIN, prepare, run_stage, write_pictures
from tests.toys.student import tiny_student
from tests.toys.tiny_clip import save_fp16, tiny_clip

CPU = torch.device("cpu")


@pytest.mark.slow
def test_one_image_goes_through_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of one image train without their own BatchNorm statistics."""
    prepare(tmp_path, monkeypatch, "vit", index__test_split="null", train__epochs="1")
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", ("red",), 1, 0)
    (tmp_path / "pictures/classes.txt").write_text("red\ngreen\n")
    for name in CHAIN:
        run_stage(name)
    labels = pd.read_parquet(tmp_path / "data/toy/pseudo_labels.parquet")
    assert len(labels) == 2 and labels["label"].between(0, 1).all()
    for file, stage in (("warmup.pt", "warmup"), ("student.pt", "train")):
        found = checkpoint_file.read(tmp_path / "data/toy" / file, stage)
        for weights in found.weights.values():
            assert all(torch.isfinite(values).all() for values in weights.values())
            assert int(weights["backbone.bn1.num_batches_tracked"]) == 0, "one image has no statistics"


@pytest.mark.slow
def test_a_last_batch_of_one_image_among_images_of_one_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch, "vit", train__epochs="1")  # batches of 4
    folder = tmp_path / "pictures"
    (folder / "test").mkdir(parents=True)
    (folder / "classes.txt").write_text("red\ngreen\n")
    for number in range(5):
        Image.new("RGB", (40, 30), (200, 30 * number, 0)).save(folder / f"{number}.png")
    Image.new("RGB", (40, 30)).save(folder / "test/black.png")
    for name in CHAIN:
        run_stage(name)
    found = checkpoint_file.read(tmp_path / "data/toy/warmup.pt", "warmup")
    assert int(found.weights["last"]["backbone.bn1.num_batches_tracked"]) == 1, "the fifth image is dropped"
    labels = pd.read_parquet(tmp_path / "data/toy/pseudo_labels.parquet")
    assert len(labels) == 10 and labels["label"].between(0, 1).all()
    assert pd.read_parquet(tmp_path / "data/toy/predictions.parquet")["student_prob"].between(0, 1).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_are_computed_in_float64_whatever_the_teachers_precision(precision: str, tmp_path: Path) -> None:
    """exp(100) is beyond half precision (65504) and beyond what a float32 sum of a few could resolve."""
    path = save_fp16(tiny_clip("vit"), tmp_path / "vit.pt")
    teacher = load_teacher("clip", str(path), None, precision=precision, device=CPU)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ((_, features),) = encode_images(teacher, [(torch.arange(3), pixels)], ["a", "b", "c"])
    words = class_embeddings(teacher, [["a dog"], ["two cats"], ["red"]], ["{}"]).numpy()
    assert features.dtype == words.dtype == np.float32
    probs = clip_probs(features, words, 100.0)
    assert probs.dtype == np.float64 and np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)
    by_hand = [math.exp(100 * float(features[0].astype(np.float64) @ word.astype(np.float64))) for word in words]
    np.testing.assert_allclose(probs[0], np.array(by_hand) / sum(by_hand), rtol=1e-9)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_scale_100_overflows_neither_half_precision_nor_single(kind: type) -> None:
    same = np.full((2, 4), 0.5, kind)  # unit rows; the cosine is 1, the logit 100
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(np.float16(100)))
    probs = clip_probs(same, np.stack([same[0], -same[0]]), 100.0)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs, [[1, math.exp(-200)]] * 2, rtol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_teacher_in_fp16_gives_finite_scores(tmp_path: Path) -> None:
    path = save_fp16(tiny_clip("resnet"), tmp_path / "clip.pt")
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    half, whole = (
        load_teacher("clip", str(path), None, precision=precision, device=torch.device("cuda"))
        for precision in ("fp16", "fp32")
    )
    features = half.encode_image(pixels).numpy()
    np.testing.assert_allclose(features, whole.encode_image(pixels).numpy(), atol=2e-2)
    probs = clip_probs(features, class_embeddings(half, [["dog"], ["cat"]], ["{}"]).numpy(), 100.0)
    assert np.isfinite(probs).all() and np.allclose(probs.sum(axis=1), 1)


def test_a_student_that_gives_no_numbers_names_the_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.new("RGB", (32, 32), (200, 10, 10)).save(path)
    student = tiny_student()
    with torch.no_grad():
        student.head.bias[0] = math.nan  # type: ignore[index]
    with pytest.raises(CcdError, match=r"warmup.*NaN for \S+/a\.png, \S+/b\.png"):
        score({"warmup": student}, ImageFiles(paths), 32, Hardware(CPU, 0, 2))


def test_a_text_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    model = tiny_clip("vit")
    with torch.no_grad():
        model.text_projection[0, 0] = math.nan
    teacher = load_teacher("clip", str(save_fp16(model, tmp_path / "nan.pt")), None, device=CPU)
    with pytest.raises(CcdError, match="NaN or Inf for the text of cat, dog"):
        class_embeddings(teacher, [["cat"], ["dog"]], ["a {}"])
