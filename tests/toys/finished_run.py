"""A tiny finished run: four training and two test images of three classes, with hand-made labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ccd.artifacts import (
    bias_file,
    boxes_file,
    class_table,
    features_file,
    image_index,
    text_file,
)
from ccd.artifacts.class_table import LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.labels.debias import nobody_decided
from ccd.params.presets import apply_preset

EVIL = "<script>alert(1)</script>"
CLASSES = ("cup", "tall lamp", EVIL)
TRAIN = ["train/a", "train/b", "train/c", "train/d"]
TEST = ["test/e", "test/f"]
ALPHA = 0.4
# cup's column of the pseudo-labels, by hand: p, its best view, q = p / 0.5, l = p_view / 0.5, y
CUP = {
    "global_prob": [0.6, 0.25, 0.1, 0.05],
    "local_prob": [0.7, 0.45, 0.425, 0.05],
    "global_label": [1.0, 0.5, 0.2, 0.1],
    "local_label": [1.4, 1.0, 0.85, 0.1],
    "label": [1.0, 0.8, 0.55, 0.1],
}


def write_run(folder: Path, *, labelled: bool = True, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write every artifact that the report reads, and the images, into ``folder``."""
    index = _write_images(folder)
    image_index.write(folder / "images.parquet", index)
    words = np.eye(len(classes), 3, dtype=np.float32)
    words[3:, 0] = 1
    attributes = {"teacher": "toy clip", "fingerprint": "0"}
    texts = tuple((name,) for name in classes)
    text_file.write(
        folder / "text.h5", text_file.TextEmbeddings(classes, words, 100.0, texts, ("a photo of the {}",), attributes)
    )
    counts = np.zeros(len(classes), np.int64)
    counts[0] = 1
    bias_file.write(
        folder / "bias.json", bias_file.BiasFile(classes, np.full(len(classes), 0.5), counts, 0.75, 2.0, 1.0, True, ())
    )
    _write_views(folder, classes)
    _write_tables(folder, classes, labelled)
    _write_measures(folder, classes, labelled)
    return folder


def write_project(classes: tuple[str, ...] = CLASSES) -> None:
    """A finished run of a data set called toy in the working directory, whose images lie beside its artifacts."""
    write_run(Path("data/toy"), classes=classes)
    Path("params.yaml").write_text(_params())


@cache
def _params() -> str:
    """Every section is checked for it, which takes a while."""
    return apply_preset("folder", "data/toy", {"dataset.name": "toy"})


def _write_images(folder: Path) -> image_index.ImageIndex:
    """Noise of 400 x 300 and 300 x 500 pixels, so that thumbnails must be made smaller."""
    rng = np.random.default_rng(0)
    sizes = []
    paths = []
    for number, image_id in enumerate([*TRAIN, *TEST]):
        height, width = ((300, 400), (500, 300))[number % 2]
        pixels = rng.integers(0, 255, (height // 20, width // 20, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        path = folder / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=80)
        sizes.append((height, width))
        paths.append(f"{image_id}.jpg")
    bytes_ = np.array([(folder / path).stat().st_size for path in paths])
    train = np.array([True] * len(TRAIN) + [False] * len(TEST))
    return image_index.ImageIndex([*TRAIN, *TEST], paths, train, np.array(sizes, np.int32), bytes_, [""] * len(paths))


def _write_views(folder: Path, classes: Sequence[str]) -> None:
    """Three views of train/a, one of train/b and train/c, none of train/d; CLIP's look at each."""
    ids = ["train/a", "train/a", "train/a", "train/b", "train/c"]
    names = [*classes[:3], classes[0], classes[1]]
    corners = np.array([[0, 0, 200, 150], [10, 0, 210, 150], [40, 20, 400, 300], [0, 0, 300, 500], [5, 5, 99, 99]])
    scores = np.linspace(0.5, 0.9, 5, dtype=np.float32)
    peaks = np.ones(5, np.float32)
    boxes_file.write(
        folder / "boxes.parquet",
        boxes_file.BoxTable(ids, names, scores, peaks, corners.astype(np.float32), {"tau": "0.4"}),
    )
    rng = np.random.default_rng(1)
    looks = rng.normal(size=(5, 3)).astype(np.float32)
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    features_file.write(
        folder / "clip_local.h5",
        features_file.LOCAL_SCHEMA,
        features_file.Features(np.arange(5), looks, {"teacher": "toy clip"}),
    )


def _write_tables(folder: Path, classes: tuple[str, ...], labelled: bool) -> None:
    shape = (len(TRAIN), len(classes))
    columns = {name: np.full(shape, 0.1, np.float32) for name in CUP}
    for name, values in CUP.items():
        columns[name][:, 0] = values
    columns["local_prob"][3] = np.nan
    columns["box_id"] = np.repeat(np.array([[0], [3], [4], [-1]]), len(classes), axis=1)
    columns["box_id"][0, 1] = 1
    columns |= nobody_decided(shape)
    class_table.write(
        folder / "pseudo_labels.parquet",
        PSEUDO_LABELS,
        class_table.ClassTable(TRAIN, classes, columns, {"alpha": repr(ALPHA)}),
    )
    said = {name: np.full((2, len(classes)), 0.1, np.float32) for name in ("zero_shot_prob", "student_prob")}
    said["student_prob"][:, 1] = (0.3, 0.9)
    class_table.write(folder / "predictions.parquet", PREDICTIONS, class_table.ClassTable(TEST, classes, said, {}))
    known = [*TRAIN, *TEST] if labelled else []
    truth = np.zeros((len(known), len(classes)), np.int8)
    if labelled:
        truth[:, 0] = (1, 1, 0, 1, 0, 1)
    table = {"label": truth, "difficult": np.zeros(truth.shape, bool)}
    class_table.write(folder / "labels.parquet", LABELS, class_table.ClassTable(known, classes, table, {}))


def _write_measures(folder: Path, classes: Sequence[str], labelled: bool) -> None:
    made = {"zero_shot": 50.0, "local_raw": 60.0, "aggregated_raw": 75.0}
    made |= {"global_label": 45.0, "local_label": 55.0, "aggregated_label": 70.0}
    said = {"zero_shot": 40.0, "head": 35.0, "warmup": 20.0, "student": 30.0}
    content = {}
    row = {}
    for split, values in (("train", made), ("test", said)):
        content[split] = {
            "mAP": {name: value if labelled else None for name, value in values.items()},
            "labelled_images": (4 if split == "train" else 2) * labelled,
            "classes_counted": int(labelled),
            "classes_left_out": ", ".join(classes[1:]),
        }
        row |= {f"{split}_positives": 3, **{f"{split}_{name}": value for name, value in values.items()}}
    (folder / "metrics.json").write_text(json.dumps(content))
    with (folder / "per_class.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["class", *row])
        writer.writeheader()
        for name in classes:
            known = row if labelled and name == "cup" else dict.fromkeys(row, "") | {"train_positives": 0}
            writer.writerow({"class": name, **known})
    (folder / "warmup_curves.csv").write_text("epoch,loss,bce,label_map\n1,0.6,0.6,nan\n")
    (folder / "train_curves.csv").write_text(
        "epoch,loss,bce,consistency,label_map\n1,0.5,0.3,0.2,40\n2,0.4,0.2,0.2,50\n"
    )
