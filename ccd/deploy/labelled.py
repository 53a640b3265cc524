"""The labels of a finished run, image by image, as every export writes them."""

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
    """``place``: the class, as a column; ``score``: the warmed-up student's probability of it; corners in pixels of the
    original image, upright, right and bottom exclusive."""

    place: int
    score: float
    x0_px: float
    y0_px: float
    x1_px: float
    y1_px: float


@dataclass(frozen=True)
class LabelledImage:
    """``path`` relative to dataset.root; ``values`` (C,) float32: label or probability of each class; ``present``: the
    columns of those that are decided present; ``boxes`` of these classes."""

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
    """``classes`` (C) and N images."""

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]

    def names(self, image: LabelledImage) -> list[str]:
        """The classes decided present."""
        return [self.classes[place] for place in image.present]


def read_labelled(folder: Path, split: Split, min_label: float | None) -> LabelledSet:
    """The labels in a data folder.

    Args:
        split: ``train``: the pseudo-labels, present from ``min_label`` on (None: 0.5). ``test``: the student's
            probabilities, present from ``min_label`` on (None: the student's own thresholds). ``all``: first these,
            then those.
        min_label: one limit for all classes.

    Raises:
        CcdError: an artifact is missing, damaged, or not of these images.
    """
    index = image_index.read(folder / "images.parquet")
    parts: list[LabelledImage] = []
    classes: tuple[str, ...] = ()
    if split in ("train", "all"):
        made = class_table.read(folder / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
        same_ids(folder / "pseudo_labels.parquet", "aggregate", made.ids, index.train().ids)
        classes = made.classes
        cuts = np.full(len(made.classes), LABELLED if min_label is None else min_label)
        boxes = _boxes_by_image(folder / "boxes.parquet", classes)
        parts += _images(index.train(), made.columns["label"], cuts, boxes)
    if split in ("test", "all"):
        said = class_table.read(folder / "predictions.parquet", PREDICTIONS, ["student_prob"])
        same_ids(folder / "predictions.parquet", "evaluate", said.ids, index.test().ids)
        classes = said.classes
        cuts = _student_cuts(folder / "student.pt", said.classes, min_label)
        parts += _images(index.test(), said.columns["student_prob"], cuts, {})
    return LabelledSet(classes, tuple(parts))


def _student_cuts(path: Path, classes: tuple[str, ...], min_label: float | None) -> np.ndarray:
    if min_label is not None:
        return np.full(len(classes), min_label)
    found = checkpoint_file.read(path, "train")
    same_classes(path, "train", found.spec["classes"], classes)
    return np.asarray(checkpoint_file.thresholds(found)[0])


def _boxes_by_image(path: Path, classes: tuple[str, ...]) -> dict[str, list[Box]]:
    found = boxes_file.read(path)
    place = {name: column for column, name in enumerate(classes)}
    by_image: dict[str, list[Box]] = defaultdict(list)
    for row, image_id in enumerate(found.image_ids):
        corners = (float(side) for side in found.boxes_px[row])
        by_image[image_id].append(Box(place[found.classes[row]], float(found.scores[row]), *corners))
    return by_image


def _images(
    index: image_index.ImageIndex, values: np.ndarray, cuts: np.ndarray, boxes: dict[str, list[Box]]
) -> Iterator[LabelledImage]:
    decided = values.astype(np.float64) >= cuts
    for row, image_id in enumerate(index.ids):
        present = tuple(int(place) for place in np.flatnonzero(decided[row]))
        mine = tuple(box for box in boxes.get(image_id, []) if box.place in present)
        height_px, width_px = (int(side) for side in index.sizes_px[row])
        split = "train" if index.is_train[row] else "test"
        yield LabelledImage(image_id, index.paths[row], split, width_px, height_px, values[row], present, mine)
