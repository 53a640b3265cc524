"""One finished run as aligned arrays: what the report and ``ccd inspect`` look at."""

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
from ccd.labels.scores import clip_probs
from ccd.runtime.memory import hand_back_memory

Difficult = Literal["ignore", "positive", "negative"]


@dataclass(frozen=True)
class RunFiles:
    """Where the artifacts of one run lie."""

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
        """The names that the pipeline gives them, in ``data/<dataset.name>/``."""
        endings = {"text": ".h5", "clip_local": ".h5", "bias": ".json", "metrics": ".json"}
        csv = {"per_class", "warmup_curves", "train_curves"}
        names = [field.name for field in fields(RunFiles)]
        return RunFiles(
            **{name: folder / f"{name}{'.csv' if name in csv else endings.get(name, '.parquet')}" for name in names}
        )


@dataclass(frozen=True)
class Run:
    """T training and M test images of C classes, every table row-aligned with ``train`` or ``test``.

    ``made``: the columns (T, C) of ``pseudo_labels.parquet``. ``tested``: those (M, C) of ``predictions.parquet``.
    ``train_truth`` (T, C) and ``test_truth`` (M, C) int8: 1 present, 0 absent, -1 unknown; see `truth_of`.
    ``none_images``: how many training images were found to show no class, None where none was looked for.
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
    made: dict[str, np.ndarray]
    alpha: float
    tested: dict[str, np.ndarray]
    train_truth: np.ndarray
    test_truth: np.ndarray
    metrics: dict[str, metrics_file.SplitMetrics]
    per_class: dict[str, dict[str, float]]
    curves: list[dict[str, float]]
    warmup_epochs: int
    views_file: Path
    none_images: int | None

    @property
    def labelled(self) -> bool:
        """Whether any image has known labels."""
        return bool((self.train_truth >= 0).any() or (self.test_truth >= 0).any())

    def view_probs(self, boxes: Iterable[int]) -> dict[int, np.ndarray]:
        """Box -> (C,) float64 CLIP's probabilities of that view; of all views, only these are read."""
        rows = sorted(set(boxes))
        looks = read_views(self.views_file, rows, len(self.box_rows))
        return dict(zip(rows, clip_probs(looks, self.text.values, self.text.logit_scale), strict=True))


def read_run(files: RunFiles, treat_difficult: Difficult = "ignore") -> Run:
    """Read and align everything; ``treat_difficult`` as in `truth_of`. Raises CcdError for a missing, damaged or
    foreign artifact, naming it."""
    words = text_file.read(files.text)
    bias = bias_file.read(files.bias)
    boxes = boxes_file.read(files.boxes)
    index = image_index.read(files.images)
    train = index.train()
    test = index.test()
    classes = words.classes
    known = class_table.read(files.labels, LABELS)
    del index  # gone before the largest table comes, like what was needed to read boxes and to find their images
    truths = truth_of(known, train.ids, treat_difficult), truth_of(known, test.ids, treat_difficult)
    images = rows_of(files.boxes, "cam_boxes", boxes.image_ids, train.ids)
    made = read_labels(files.pseudo_labels)
    hand_back_memory()
    tested = class_table.read(files.predictions, PREDICTIONS)
    for path, stage, found in (
        (files.bias, "bias", bias.classes),
        (files.pseudo_labels, "aggregate", made.classes),
        (files.predictions, "evaluate", tested.classes),
        (files.labels, "index", known.classes),
    ):
        same_classes(path, stage, found, classes)
    same_ids(files.pseudo_labels, "aggregate", made.ids, train.ids)
    same_ids(files.predictions, "evaluate", tested.ids, test.ids)
    warmup = metrics_file.read_curve(files.warmup_curves, "warmup")
    final = metrics_file.read_curve(files.train_curves, "train")
    return Run(
        train,
        test,
        classes,
        words,
        bias,
        boxes,
        images,
        rows_of(files.boxes, "cam_boxes", boxes.classes, (*classes, "")),
        made.columns,
        float(made.metadata["alpha"]),
        tested.columns,
        *truths,
        metrics_file.read_metrics(files.metrics),
        metrics_file.read_per_class(files.per_class),
        [*warmup, *({**row, "epoch": row["epoch"] + len(warmup)} for row in final)],
        len(warmup),
        files.clip_local,
        background_file.count_in(made.metadata),
    )


def read_labels(pseudo_labels: Path) -> class_table.ClassTable:
    """The table in little memory: ``box_id`` is int32, and there is no ``uncorrected_label`` where nobody decided
    anything; see `before_corrections`."""
    before = "uncorrected_label"
    best = "box_id"
    most = [name for name, *_ in PSEUDO_LABELS.columns if name not in (before, best)]
    made = class_table.read(pseudo_labels, PSEUDO_LABELS, most)
    boxes = np.empty(made.columns["label"].shape, np.int32)
    start = 0
    for piece in class_table.pieces(pseudo_labels, PSEUDO_LABELS, [best]):
        boxes[start : start + len(piece.ids)] = piece.columns[best]
        start += len(piece.ids)
    made.columns[best] = boxes
    if (made.columns["correction"] >= 0).any():
        made.columns.update(class_table.read(pseudo_labels, PSEUDO_LABELS, [before]).columns)
    return made


def truth_of(known: class_table.ClassTable, ids: Sequence[str], treat_difficult: Difficult = "ignore") -> np.ndarray:
    """(len(ids), C) int8 from the table of ``labels.parquet``: 1 present, 0 absent, -1 unknown.

    ``treat_difficult`` is ``evaluate.difficult``: where all objects of a class are difficult it is unknown (ignore),
    present (positive) or absent (negative), so that counts here are those of ``per_class.csv``.
    """
    truth = np.full((len(ids), len(known.classes)), -1, np.int8)
    place = {image_id: row for row, image_id in enumerate(known.ids)}
    own, there = (
        np.asarray([(row, place[image_id]) for row, image_id in enumerate(ids) if image_id in place], np.int64)
        .reshape(-1, 2)
        .T
    )
    value = {"ignore": -1, "positive": 1, "negative": 0}[treat_difficult]
    truth[own] = np.where(known.columns["difficult"][there], value, known.columns["label"][there])
    return truth
