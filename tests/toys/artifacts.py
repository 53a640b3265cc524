"""One small example of every artifact, with the function that writes it and the one that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    classes_file,
    features_file,
    image_index,
    sealed,
    text_file,
)
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.files import write_csv

IDS = ["a", "b/ü", "c"]
CLASSES = ("cat", "<script>")


def index() -> image_index.ImageIndex:
    sizes = np.array([[3, 4], [5, 6], [7, 8]], np.int32)
    train = np.array([True, False, True])
    return image_index.ImageIndex(
        IDS, ["a.jpg", "b/ü.jpg", "c.png"], train, sizes, np.array([9, 8, 7]), ["0", "1", "2"]
    )


def pseudo_table() -> class_table.ClassTable:
    columns = {name: np.arange(6, dtype=np.float32).reshape(3, 2) / 7 for name, *_ in PSEUDO_LABELS.columns}
    columns["local_prob"][1] = np.nan
    columns["box_id"] = np.array([[0, 1], [-1, -1], [5, 4]])
    columns["correction"] = np.array([[0, 1], [-1, -1], [-1, 0]], np.int8)
    columns["uncorrected_label"][[1, 2], [0, 0]] = np.nan
    return class_table.ClassTable(IDS, CLASSES, columns, {"alpha": "0.4"})


def box_table() -> boxes_file.BoxTable:
    four = np.array([[0, 0, 4.5, 3], [1, 2, 3, 4]], np.float32)
    return boxes_file.BoxTable(
        ["a", "c"], ["cat", "cat"], np.float32([0.5, 0.6]), np.float32([1, 2]), four, {"tau": "0.1"}
    )


def embeddings() -> text_file.TextEmbeddings:
    phrases = (("cat", "kitten"), ("<script>",))
    return text_file.TextEmbeddings(
        CLASSES, np.eye(2, 3, dtype=np.float32), 100.0, phrases, ("a {}",), {"teacher": "t"}
    )


def bias_content() -> bias_file.BiasFile:
    return bias_file.BiasFile(CLASSES, np.array([0.7, 0.9]), np.array([3, 0]), 0.5, 2.0, 1.0, True, ("<script>",))


def global_features() -> features_file.Features:
    return features_file.Features(IDS, np.arange(12, dtype=np.float32).reshape(3, 4), {"teacher": "t"})


def write_regions(path: Path) -> None:
    """Two, one and no regions of the three images, of at most two, in an order that no image has."""
    boxes_px = np.zeros((3, 2, 4), np.float32)
    boxes_px[[0, 0, 1], [0, 1, 0]] = [[0, 0, 2, 3], [1, 0, 4, 3], [0, 0, 6, 5]]
    features = np.zeros((3, 2, 2), np.float32)
    features[[0, 0, 1], [0, 1, 0]] = [[1, 0], [0, 1], [0.6, 0.8]]
    with boxes_file.writing_regions(path, IDS, 2, 2, {"teacher": "t", "fingerprint": "f"}) as writer:
        writer.write(np.array([2, 0]), boxes_px[[2, 0]], features[[2, 0]])
        writer.write(np.array([1]), boxes_px[1:2], features[1:2])


def weights() -> checkpoint_file.Checkpoint:
    state = {"w": torch.arange(4.0), "n": torch.tensor(3)}
    return checkpoint_file.Checkpoint({"classes": list(CLASSES)}, {"last": state}, "last", {"epochs": 2})


def reseal(path: Path) -> None:
    """Seal a file as it is now, as somebody would who wants to deceive a reader."""
    content = path.read_bytes()
    start = content.index(b"ccd-seal:") + 9
    path.write_bytes(content[:start] + b"0" * 32 + content[start + 32 :])
    sealed.stamp(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "images.parquet": lambda path: image_index.write(path, index()),
    "classes.json": lambda path: classes_file.write(path, classes_file.ClassList(CLASSES, (("cat",), ("s",)))),
    "pseudo_labels.parquet": lambda path: class_table.write(path, PSEUDO_LABELS, pseudo_table()),
    "boxes.parquet": lambda path: boxes_file.write(path, box_table()),
    "clip_global.h5": lambda path: features_file.write(path, features_file.GLOBAL_SCHEMA, global_features()),
    "regions.h5": write_regions,
    "text.h5": lambda path: text_file.write(path, embeddings()),
    "bias.json": lambda path: bias_file.write(path, bias_content()),
    "warmup.pt": lambda path: checkpoint_file.write(path, weights()),
    "curves.csv": lambda path: write_csv(path, [{"epoch": 1, "loss": 0.1 + 0.2}]),
}
READERS: dict[str, Callable[[Path], object]] = {
    "images.parquet": image_index.read,
    "classes.json": classes_file.read,
    "pseudo_labels.parquet": lambda path: class_table.read(path, PSEUDO_LABELS),
    "boxes.parquet": boxes_file.read,
    "clip_global.h5": lambda path: features_file.read(path, features_file.GLOBAL_SCHEMA),
    "regions.h5": lambda path: boxes_file.RegionFile(path, IDS),
    "text.h5": text_file.read,
    "bias.json": bias_file.read,
    "warmup.pt": lambda path: checkpoint_file.read(path, "warmup"),
}
