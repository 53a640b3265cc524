"""Read the labels of a finished run, image by image, for exports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ccd.artifacts import boxes_file, checkpoint_file, class_table, image_index
from ccd.artifacts.class_table import PREDICTIONS, PSEUDO_LABELS
from ccd.artifacts.image_index import same_classes, same_ids
from ccd.labels.thresholds import LABELLED

Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Box:
    """A view: a crop of an image that CLIP read by itself to label a class.

    ``class_index``: the class; ``score``: its probability by the warmed-up student. Corners are in pixels of the
    upright original image; right and bottom are exclusive.
    """

    class_index: int
    score: float
    x0_px: float
    y0_px: float
    x1_px: float
    y1_px: float


@dataclass(frozen=True)
class LabelledImage:
    """An image and its labels.

    ``path``: relative to dataset.root; ``values`` (C,) float32: label or probability of each class; ``present``:
    indices of the classes decided present; ``boxes`` of these classes.
    """

    image_id: str
    path: str
    split: str
    width_px: int
    height_px: int
    values: np.ndarray
    present: tuple[int, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class LabelledSet:
    """The names of C classes, and N images."""

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    def names(self, image: LabelledImage) -> list[str]:
        """Return the names of the classes decided present."""
        return [self.classes[index] for index in image.present]


def read_labelled(folder: Path, split: Split, min_label: float | None) -> LabelledSet:
    """Read the labels in a data folder.

    Args:
        split: ``train``: the pseudo-labels. ``test``: the student's probabilities. ``all``: both, ``train`` first.
        min_label: smallest value at which a class is present; None: 0.5 for pseudo-labels, and the student's own
            threshold of each class for probabilities.

    Raises:
        CcdError: an artifact is missing, damaged, or about other images.
    """
    index = image_index.read(folder / "images.parquet")
    parts: list[LabelledImage] = []
    classes: tuple[str, ...] = ()
    if split in ("train", "all"):
        pseudo_labels = class_table.read(folder / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
        same_ids(folder / "pseudo_labels.parquet", "aggregate", pseudo_labels.ids, index.train().ids)
        classes = pseudo_labels.classes
        cuts = np.full(len(classes), LABELLED if min_label is None else min_label)
        boxes = _boxes_by_image(folder / "boxes.parquet", classes)
        parts += _images(index.train(), pseudo_labels.columns["label"], cuts, boxes)
    if split in ("test", "all"):
        predictions = class_table.read(folder / "predictions.parquet", PREDICTIONS, ["student_prob"])
        same_ids(folder / "predictions.parquet", "evaluate", predictions.ids, index.test().ids)
        classes = predictions.classes
        cuts = _student_cuts(folder / "student.pt", classes, min_label)
        parts += _images(index.test(), predictions.columns["student_prob"], cuts, {})
    return LabelledSet(classes, tuple(parts))


def _student_cuts(path: Path, classes: tuple[str, ...], min_label: float | None) -> np.ndarray:
    if min_label is not None:
        return np.full(len(classes), min_label)
    checkpoint = checkpoint_file.read(path, "train")
    same_classes(path, "train", checkpoint.spec["classes"], classes)
    return np.asarray(checkpoint_file.thresholds(checkpoint)[0])


def _boxes_by_image(path: Path, classes: tuple[str, ...]) -> dict[str, list[Box]]:
    boxes = boxes_file.read(path)
    index_of = {name: index for index, name in enumerate(classes)}
    by_image: dict[str, list[Box]] = defaultdict(list)
    for row, image_id in enumerate(boxes.image_ids):
        corners = (float(side) for side in boxes.boxes_px[row])
        by_image[image_id].append(Box(index_of[boxes.classes[row]], float(boxes.scores[row]), *corners))
    return by_image


def _images(
    index: image_index.ImageIndex, values: np.ndarray, cuts: np.ndarray, boxes: dict[str, list[Box]]
) -> Iterator[LabelledImage]:
    decided = values.astype(np.float64) >= cuts
    for row, image_id in enumerate(index.ids):
        present = tuple(int(class_index) for class_index in np.flatnonzero(decided[row]))
        image_boxes = tuple(box for box in boxes.get(image_id, []) if box.class_index in present)
        height_px, width_px = (int(side) for side in index.sizes_px[row])
        split = "train" if index.is_train[row] else "test"
        yield LabelledImage(image_id, index.paths[row], split, width_px, height_px, values[row], present, image_boxes)
