"""Writes artifacts of any size without images or models, to measure the label stages alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ccd.artifacts import boxes_file, class_table, features_file, image_index, text_file
from ccd.artifacts.class_table import LABELS, PREDICTIONS

ROWS = 8192
SIZE_PX = (48, 64)
TEACHER = {"teacher": "synthetic", "fingerprint": "0"}


def write_artifacts(folder: Path, images: int, classes: int, width: int, views: float, seed: int = 0) -> None:
    """Write ``images.parquet``, ``text.h5``, ``clip_global.h5``, ``boxes.parquet`` and ``clip_local.h5``.

    Args:
        images: N, all of them training images.
        classes: C; every image and every view leans on one class drawn at random.
        width: D of the embeddings.
        views: mean number of local views per image (crops that CLIP reads by themselves), Poisson distributed.
    """
    rng = np.random.default_rng(seed)
    text = _units(rng.standard_normal((classes, width), np.float32))
    names = tuple(f"class {number}" for number in range(classes))
    scale = 100.0
    templates = ("a photo of the {}",)
    text_file.write(
        folder / "text.h5",
        text_file.TextEmbeddings(names, text, scale, tuple((n,) for n in names), templates, TEACHER),
    )
    ids = [f"train/{number:08}" for number in range(images)]
    index = image_index.ImageIndex(
        ids,
        [f"{name}.jpg" for name in ids],
        np.ones(images, bool),
        np.full((images, 2), SIZE_PX, np.int32),
        np.full(images, 1, np.int64),
        [f"{number:032x}" for number in range(images)],
    )
    image_index.write(folder / "images.parquet", index)
    _write_features(folder / "clip_global.h5", features_file.GLOBAL_SCHEMA, ids, text, rng)
    owners = np.repeat(np.arange(images), rng.poisson(views, images))
    height_px, width_px = SIZE_PX
    shares = np.concatenate([rng.uniform(0, 0.4, (len(owners), 2)), rng.uniform(0.6, 1, (len(owners), 2))], axis=1)
    corners = (shares * [width_px, height_px, width_px, height_px]).astype(np.float32)
    requested_by = [names[class_row] for class_row in rng.integers(0, classes, len(owners))]
    scores = rng.random(len(owners), np.float32)
    boxes = boxes_file.BoxTable([ids[row] for row in owners], requested_by, scores, scores, corners, {"tau": "0.05"})
    boxes_file.write(folder / "boxes.parquet", boxes)
    _write_features(folder / "clip_local.h5", features_file.LOCAL_SCHEMA, range(len(owners)), text, rng)


def write_report_inputs(data: Path, root: Path, photo: str) -> None:
    """Write the report's other inputs, beside those of `write_artifacts` and the label stages.

    The run has no known labels and no test images. Every image becomes the file ``photo``, of `SIZE_PX` (height,
    width), under ``root``.
    """
    index = image_index.read(data / "images.parquet")
    paths = [photo] * len(index)
    lengths = np.full(len(index), (root / photo).stat().st_size)
    image_index.write(data / "images.parquet", replace(index, paths=paths, file_bytes=lengths))
    classes = text_file.read(data / "text.h5").classes
    empty = np.zeros((0, len(classes)))
    for spec, name in ((LABELS, "labels"), (PREDICTIONS, "predictions")):
        columns = {column: empty for column, *_ in spec.columns}
        class_table.write(data / f"{name}.parquet", spec, class_table.ClassTable([], classes, columns, {}))
    no_metrics = {"mAP": {}, "labelled_images": 0, "classes_counted": 0, "classes_left_out": ""}
    (data / "metrics.json").write_text(json.dumps({"train": no_metrics, "test": no_metrics}))
    (data / "per_class.csv").write_text("class\n" + "".join(f"{name}\n" for name in classes))
    for name in ("warmup_curves", "train_curves"):
        (data / f"{name}.csv").write_text("epoch,loss,bce,label_map\n1,0.5,0.5,40\n")


def _write_features(
    path: Path, schema: str, ids: list[str] | range, text: np.ndarray, rng: np.random.Generator
) -> None:
    with features_file.writing(path, schema, ids, text.shape[1], TEACHER) as writer:
        for rows in pieces(len(ids), ROWS):
            noise = _units(rng.standard_normal((len(rows), text.shape[1]), np.float32))
            writer.write(rows, _units(noise + 0.13 * text[rng.integers(0, len(text), len(rows))]))


def pieces(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield 0 .. count - 1, ``size`` at a time."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _units(values: np.ndarray) -> np.ndarray:
    unit: np.ndarray = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit
