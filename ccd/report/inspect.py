"""Reads an image's story from the artifacts and ranks the images to look at, for ``ccd inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts import (
    background_file,
    bias_file,
    boxes_file,
    class_table,
    image_index,
    text_file,
)
from ccd.artifacts.bias_file import BiasFile
from ccd.artifacts.class_table import LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.artifacts.features_file import read_views
from ccd.artifacts.text_file import TextEmbeddings
from ccd.errors import CcdError, listed
from ccd.labels.scores import Scoring
from ccd.report.doubt import (
    Choice,
    coinciding_pairs,
    doubtful_test,
    doubtful_train,
    strongest_classes,
    view_labels,
    worst_of_class,
)
from ccd.report.run_data import ZERO_SHOT, score_name, truth_of


@dataclass(frozen=True)
class View:
    """A local view: a crop of an image that CLIP reads by itself.

    ``requested_by``: the class that asked for it, with the student's ``score`` (a tile or region: empty, NaN).
    ``corners_px``: x0, y0, x1, y1 in pixels of the original image. ``probs`` (C,) float32: CLIP's probabilities.
    ``labels`` (C,): the local labels that it gives, see `ccd.report.doubt.view_labels`.
    """

    box_id: int
    requested_by: str
    score: float
    corners_px: tuple[float, float, float, float]
    probs: np.ndarray
    labels: np.ndarray

    @property
    def first(self) -> int:
        """Row of the class with the largest local label."""
        return strongest_classes(self.labels)[0]


@dataclass(frozen=True)
class ImageStory:
    """One image in all artifacts.

    ``size_px``: height, width. ``columns``: name -> (C,), as in ``pseudo_labels.parquet`` for a training image and
    ``predictions.parquet`` for a test image. ``truth`` (C,): 1 present, 0 absent, -1 unknown.
    ``has_background_rule``: whether a rule looked for background images among the training images. ``middles`` (C,): t
    of ``aggregate.sharpen_at: prevalence``; None: one for all classes, or a test image. ``score_name``: what CLIP's
    probabilities in ``columns`` are, see `ccd.report.run_data.score_name`.
    """

    image_id: str
    path: str
    split: str
    size_px: tuple[int, int]
    file_bytes: int
    classes: tuple[str, ...]
    bias: np.ndarray
    columns: dict[str, np.ndarray]
    views: tuple[View, ...]
    truth: np.ndarray
    has_background_rule: bool
    middles: np.ndarray | None
    score_name: str


@dataclass(frozen=True)
class Example:
    """A training image to look at for a class, with its labels and ``why`` it was chosen."""

    image_id: str
    class_name: str
    global_label: float
    local_label: float
    label: float
    truth: int
    why: str


@dataclass(frozen=True)
class Doubt:
    """A test image on which the teacher's ``debiased`` probability min(p / b, 1) and the student's disagree."""

    image_id: str
    class_name: str
    debiased: float
    student: float
    truth: int


@dataclass(frozen=True)
class Doubts:
    """The most doubtful training images (whole image against local views) and test images (teacher against student)."""

    train: list[Example]
    test: list[Doubt]


@dataclass(frozen=True)
class Overlap:
    """Two classes whose boxes coincide on ``images`` training images, with the mean IoU and an ``example`` image."""

    first: str
    second: str
    images: int
    mean_iou: float
    example: str


def image_story(data_dir: Path, image_id: str, index: image_index.ImageIndex | None = None) -> ImageStory:
    """Read one image from the artifacts in ``data_dir``, with its ground truth where ``labels.parquet`` has it.

    Of the large tables only the row groups that may hold the image are decoded.

    Args:
        index: content of ``images.parquet``; None: it is read.

    Raises:
        CcdError: no such image, or an artifact is missing or damaged.
    """
    index = image_index.read(data_dir / "images.parquet") if index is None else index
    row = _row_of(index, image_id)
    name = index.ids[row]
    train = bool(index.is_train[row])
    file, spec = ("pseudo_labels.parquet", PSEUDO_LABELS) if train else ("predictions.parquet", PREDICTIONS)
    table = class_table.read_image(data_dir / file, spec, name)
    bias = bias_file.read(data_dir / "bias.json")
    text = text_file.read(data_dir / "text.h5")
    if not len(table.ids):
        raise CcdError(f"{data_dir / file} does not know {name}; rebuild it with: dvc repro {spec.stage}")
    height_px, width_px = (int(side) for side in index.sizes_px[row])
    columns = {column: values[0] for column, values in table.columns.items()}
    return ImageStory(
        name,
        index.paths[row],
        "train" if train else "test",
        (height_px, width_px),
        int(index.file_bytes[row]),
        table.classes,
        bias.bias,
        columns,
        _views(data_dir, name, columns, bias, text) if train else (),
        truth_of(class_table.read_image(data_dir / "labels.parquet", LABELS, name), [name])[0],
        background_file.count_in(table.metadata) is not None,
        class_table.middles_of(table),
        score_name(text, bias) if train else ZERO_SHOT,
    )


def image_ids(data_dir: Path) -> list[str]:
    """Return the ids of all images. Raises CcdError if ``images.parquet`` is missing or damaged."""
    return list(image_index.read(data_dir / "images.parquet").ids)


def _row_of(index: image_index.ImageIndex, wanted: str) -> int:
    """Find an image by id, by path under dataset.root, or by a file name that only one image has."""
    for names in (index.ids, index.paths):
        if (row := image_index.Names(names).find(wanted)) >= 0:
            return row
    rows = [row for row, path in enumerate(index.paths) if wanted in (Path(path).name, Path(path).stem)]
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise CcdError(f"{wanted} is the name of {len(rows)} images: {listed(index.ids[row] for row in rows)}")
    raise CcdError(f"{wanted} is no image of this data set; ids look like {listed(index.ids, 3)}")


def _views(
    data_dir: Path, image_id: str, columns: dict[str, np.ndarray], bias: BiasFile, text: TextEmbeddings
) -> tuple[View, ...]:
    """Return the image's boxes with CLIP's probabilities, computed as stage ``aggregate`` does."""
    box_ids, boxes, count = boxes_file.read_image(data_dir / "boxes.parquet", image_id)
    embeddings = read_views(data_dir / "clip_local.h5", box_ids, count)
    probs = Scoring(text, bias.mean_cosines)(embeddings).astype(np.float32)
    views = []
    for at, (box, row) in enumerate(zip(box_ids.tolist(), probs, strict=True)):
        x0, y0, x1, y1 = (float(side) for side in boxes.boxes_px[at])
        labels = view_labels(columns, bias.bias, box, row)
        views.append(View(box, boxes.classes[at], float(boxes.scores[at]), (x0, y0, x1, y1), row, labels))
    return tuple(views)


def worst(data_dir: Path, class_name: str, count: int) -> list[Example]:
    """Return the ``count`` training images whose label of the class is furthest from the truth.

    Without ground truth, those whose whole image and local views disagree most. Raises CcdError for an unknown class.
    """
    table = class_table.read(data_dir / "pseudo_labels.parquet", PSEUDO_LABELS)
    if class_name not in table.classes:
        raise CcdError(f"{class_name!r} is no class of this data set; there are: {listed(table.classes, 100)}")
    truth = truth_of(class_table.read(data_dir / "labels.parquet", LABELS), table.ids)
    choices = worst_of_class(table.columns, truth, table.classes.index(class_name), count)
    return [_example(table, truth, choice) for choice in choices]


def doubtful(data_dir: Path, count: int) -> Doubts:
    """Return per split the ``count`` images whose steps disagree most, as in the report.

    Only test images have predictions of the student, and only training images have local views.
    """
    labels = class_table.read(data_dir / "labels.parquet", LABELS)
    pseudo_labels = class_table.read(data_dir / "pseudo_labels.parquet", PSEUDO_LABELS)
    truth = truth_of(labels, pseudo_labels.ids)
    train = [_example(pseudo_labels, truth, choice) for choice in doubtful_train(pseudo_labels.columns, count)]
    predictions = class_table.read(data_dir / "predictions.parquet", PREDICTIONS)
    bias = bias_file.read(data_dir / "bias.json").bias
    debiased = np.minimum(predictions.columns["zero_shot_prob"] / bias, 1)
    truth = truth_of(labels, predictions.ids)
    test = []
    for choice in doubtful_test(predictions.columns, bias, count):
        at = choice.row, choice.class_row
        student = float(predictions.columns["student_prob"][at])
        name = predictions.classes[choice.class_row]
        test.append(Doubt(predictions.ids[choice.row], name, float(debiased[at]), student, int(truth[at])))
    return Doubts(train, test)


def _example(table: class_table.ClassTable, truth: np.ndarray, choice: Choice) -> Example:
    row = choice.row
    class_row = choice.class_row
    global_label, local_label, label = (
        float(table.columns[name][row, class_row]) for name in ("global_label", "local_label", "label")
    )
    return Example(
        table.ids[row],
        table.classes[class_row],
        global_label,
        local_label,
        label,
        int(truth[row, class_row]),
        choice.why,
    )


def box_overlap(data_dir: Path, count: int, min_images: int = 3) -> list[Overlap]:
    """Return the ``count`` pairs of classes whose boxes coincide most; see `ccd.report.doubt.coinciding_pairs`."""
    boxes = boxes_file.read(data_dir / "boxes.parquet")
    requested = boxes.requested
    images, image_rows = np.unique(np.asarray(boxes.image_ids, object)[requested], return_inverse=True)
    classes, class_rows = np.unique(np.asarray(boxes.classes, object)[requested], return_inverse=True)
    pairs = coinciding_pairs(image_rows, class_rows, boxes.boxes_px[requested], count, min_images)
    return [
        Overlap(classes[pair.first], classes[pair.second], len(pair.images), pair.mean_iou, images[pair.example])
        for pair in pairs
    ]
