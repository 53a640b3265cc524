"""One finished run as aligned arrays, for the report and ``ccd inspect``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from ccd.artifacts import (
    background_file,
    bias_file,
    boxes_file,
    class_table,
    image_index,
    metrics_file,
    text_file,
)
from ccd.artifacts.class_table import LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.artifacts.features_file import read_views
from ccd.artifacts.image_index import rows_of, same_classes, same_ids
from ccd.labels.scores import Scoring
from ccd.runtime.memory import hand_back_memory

Difficult = Literal["ignore", "positive", "negative"]
ZERO_SHOT = "CLIP zero-shot probability"  # the plain softmax over the classes alone


@dataclass(frozen=True)
class RunFiles:
    """Paths of the artifacts of one run."""

    images: Path
    labels: Path
    text: Path
    bias: Path
    boxes: Path
    clip_local: Path
    pseudo_labels: Path
    predictions: Path
    metrics: Path
    per_class: Path
    warmup_curves: Path
    train_curves: Path

    @staticmethod
    def in_folder(folder: Path) -> RunFiles:
        """Return the paths under the pipeline's names in ``folder``, which is ``data/<dataset.name>/``."""
        endings = {"text": ".h5", "clip_local": ".h5", "bias": ".json", "metrics": ".json"}
        csv = {"per_class", "warmup_curves", "train_curves"}
        names = [field.name for field in fields(RunFiles)]
        return RunFiles(
            **{name: folder / f"{name}{'.csv' if name in csv else endings.get(name, '.parquet')}" for name in names}
        )


@dataclass(frozen=True)
class Run:
    """T training and M test images of C classes, every table row-aligned with ``train`` or ``test``.

    ``pseudo_labels``: the columns (T, C) of ``pseudo_labels.parquet``. ``predictions``: the columns (M, C) of
    ``predictions.parquet``.
    ``train_truth`` (T, C) and ``test_truth`` (M, C) int8: 1 present, 0 absent, -1 unknown; see `truth_of`.
    ``none_images``: the number of background images (no class visible) in the training split, None without a rule.
    ``box_rows`` (B,): the training image of each box; ``box_classes`` (B,): the class that asked for it, C for a tile.
    """

    train: image_index.ImageIndex
    test: image_index.ImageIndex
    classes: tuple[str, ...]
    text: text_file.TextEmbeddings
    bias: bias_file.BiasFile
    boxes: boxes_file.BoxTable
    box_rows: np.ndarray
    box_classes: np.ndarray
    pseudo_labels: dict[str, np.ndarray]
    alpha: float
    predictions: dict[str, np.ndarray]
    train_truth: np.ndarray
    test_truth: np.ndarray
    metrics: dict[str, metrics_file.SplitMetrics]
    per_class: dict[str, dict[str, float]]
    curves: list[dict[str, float]]
    warmup_epochs: int
    views_file: Path
    none_images: int | None

    @property
    def score_name(self) -> str:
        """The name of CLIP's probability of training images, see `score_name`."""
        return score_name(self.text, self.bias)

    @property
    def scores_name(self) -> str:
        """The same as a plural: ``CLIP's zero-shot probabilities``."""
        return self.score_name.replace("CLIP ", "CLIP's ", 1).replace("probability", "probabilities", 1)

    @property
    def labelled(self) -> bool:
        """Whether any image has known labels."""
        return bool((self.train_truth >= 0).any() or (self.test_truth >= 0).any())

    def view_probs(self, boxes: Iterable[int]) -> dict[int, np.ndarray]:
        """Return CLIP's probabilities (C,) float64 of each of the ``boxes``; only their embeddings are read.

        A view is a crop of an image that CLIP reads by itself; each box is one.
        """
        rows = sorted(set(boxes))
        embeddings = read_views(self.views_file, rows, len(self.box_rows))
        return dict(zip(rows, Scoring(self.text, self.bias.mean_cosines)(embeddings), strict=True))


def score_name(text: text_file.TextEmbeddings, bias: bias_file.BiasFile) -> str:
    """Name CLIP's probability of training images by how it was scored; that of test images is always `ZERO_SHOT`."""
    additions = {
        "background words": text.background_in_softmax,
        "centring": bias.mean_cosines is not None,
        "standardising": text.standardized_scale is not None,
        "sigmoid": text.logit_bias is not None,
    }
    used = [name for name, is_used in additions.items() if is_used]
    return f"CLIP probability with {' and '.join(used)}" if used else ZERO_SHOT


def read_run(files: RunFiles, treat_difficult: Difficult = "ignore") -> Run:
    """Read all artifacts of a run and align their rows; ``treat_difficult`` as in `truth_of`.

    Raises:
        CcdError: an artifact is missing, damaged or of another run; the message names it.
    """
    text = text_file.read(files.text)
    bias = bias_file.read(files.bias)
    boxes = boxes_file.read(files.boxes)
    index = image_index.read(files.images)
    train = index.train()
    test = index.test()
    classes = text.classes
    labels = class_table.read(files.labels, LABELS)
    del index  # freed before the largest table is read, like the memory that reading the boxes took
    truths = truth_of(labels, train.ids, treat_difficult), truth_of(labels, test.ids, treat_difficult)
    images = rows_of(files.boxes, "cam_boxes", boxes.image_ids, train.ids)
    pseudo_labels = read_labels(files.pseudo_labels)
    hand_back_memory()
    predictions = class_table.read(files.predictions, PREDICTIONS)
    for path, stage, found_classes in (
        (files.bias, "bias", bias.classes),
        (files.pseudo_labels, "aggregate", pseudo_labels.classes),
        (files.predictions, "evaluate", predictions.classes),
        (files.labels, "index", labels.classes),
    ):
        same_classes(path, stage, found_classes, classes)
    same_ids(files.pseudo_labels, "aggregate", pseudo_labels.ids, train.ids)
    same_ids(files.predictions, "evaluate", predictions.ids, test.ids)
    warmup = metrics_file.read_curve(files.warmup_curves, "warmup")
    final = metrics_file.read_curve(files.train_curves, "train")
    return Run(
        train,
        test,
        classes,
        text,
        bias,
        boxes,
        images,
        rows_of(files.boxes, "cam_boxes", boxes.classes, (*classes, "")),
        pseudo_labels.columns,
        float(pseudo_labels.metadata["alpha"]),
        predictions.columns,
        *truths,
        metrics_file.read_metrics(files.metrics),
        metrics_file.read_per_class(files.per_class),
        [*warmup, *({**row, "epoch": row["epoch"] + len(warmup)} for row in final)],
        len(warmup),
        files.clip_local,
        background_file.count_in(pseudo_labels.metadata),
    )


def read_labels(pseudo_labels: Path) -> class_table.ClassTable:
    """Read ``pseudo_labels.parquet`` in little memory.

    ``box_id`` becomes int32, and ``uncorrected_label`` is left out where nobody decided anything; see
    `before_corrections`.
    """
    uncorrected = "uncorrected_label"
    box_id = "box_id"
    columns = [name for name, *_ in PSEUDO_LABELS.columns if name not in (uncorrected, box_id)]
    table = class_table.read(pseudo_labels, PSEUDO_LABELS, columns)
    box_ids = np.empty(table.columns["label"].shape, np.int32)
    start = 0
    for piece in class_table.pieces(pseudo_labels, PSEUDO_LABELS, [box_id]):
        box_ids[start : start + len(piece.ids)] = piece.columns[box_id]
        start += len(piece.ids)
    table.columns[box_id] = box_ids
    if (table.columns["correction"] >= 0).any():
        table.columns.update(class_table.read(pseudo_labels, PSEUDO_LABELS, [uncorrected]).columns)
    return table


def truth_of(labels: class_table.ClassTable, ids: Sequence[str], treat_difficult: Difficult = "ignore") -> np.ndarray:
    """Return the ground truth of the images ``ids`` (N) from the table of ``labels.parquet``.

    ``treat_difficult`` is ``evaluate.difficult``: where all objects of a class are difficult, the class is unknown
    (ignore), present (positive) or absent (negative). So the report counts as ``per_class.csv`` does.

    Returns:
        (N, C) int8: 1 present, 0 absent, -1 unknown.
    """
    truth = np.full((len(ids), len(labels.classes)), -1, np.int8)
    row_of = {image_id: row for row, image_id in enumerate(labels.ids)}
    rows, label_rows = (
        np.asarray([(row, row_of[image_id]) for row, image_id in enumerate(ids) if image_id in row_of], np.int64)
        .reshape(-1, 2)
        .T
    )
    value = {"ignore": -1, "positive": 1, "negative": 0}[treat_difficult]
    truth[rows] = np.where(labels.columns["difficult"][label_rows], value, labels.columns["label"][label_rows])
    return truth
