"""Measures a finished run against the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np

from ccd.artifacts import boxes_file, class_table
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS
from ccd.artifacts.metrics_file import read_metrics, read_per_class
from ccd.errors import CcdError
from ccd.evaluation.metrics import Measure
from ccd.evaluation.summary import Scores, Truth, measure_splits, pseudo_tables
from ccd.params.file import load
from ccd.params.sections import EvaluateParams
from studies.background import measure_background
from studies.baselines import TrainingFree, training_free_scores
from studies.spec import Study

RANKINGS = {"raw": "aggregated_raw", "final": "aggregated_label"}
"""The result of a study without students: labels as scores before floor and clip, which make ties, or after."""


@dataclass(frozen=True)
class Finding:
    """The measures of one run.

    ``means``: column -> mAP in %, or another figure of `studies.table.TITLES`; ``per_class``: class -> AP in % of the
    result.
    """

    variant: str
    seed: int
    means: dict[str, float]
    per_class: dict[str, float]


def measure(data: Path, params: Path, study: Study, name: str, seed: int, ids: frozenset[str] | None) -> Finding:
    """Measure the run of variant ``name`` of a study.

    Labels that are the ground truth are not measured, nor are students that the variant does not show.

    Args:
        data: the run's artifacts.
        params: its ``params.yaml``.
        ids: training images to measure on; None: all.

    Raises:
        CcdError: no image has known labels, or no class has enough of them, for the study's result.
    """
    variant = study.rows()[name]
    if variant.shows in get_args(TrainingFree):
        scores = training_free_scores(data, params, cast(TrainingFree, variant.shows))
        means, per_class = measure_part(data, params, scores, variant.shows)
        return Finding(name, seed, {"result": means[variant.shows]}, per_class)
    means, per_class = ({}, {}) if variant.labels == "truth" else measure_labels(data, params, ids, study)
    if not study.students and not per_class:
        raise CcdError(
            "a study of labels needs training images with known labels, and a class that evaluate.min_positives ="
            f" {load(EvaluateParams, params).min_positives} of them have; lower it, or take more images"
        )
    if study.students:
        of_test, per_class = read_students(data, params, variant.shows)
        means |= of_test
    if variant.shows != "student":
        means = {key: value for key, value in means.items() if key.endswith((variant.shows, "result"))}
    return Finding(name, seed, means, per_class)


def measure_labels(
    data: Path, params: Path, ids: frozenset[str] | None, study: Study
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the pseudo-labels in ``data`` on the training images (all, or ``ids``) with ground truth.

    The section ``evaluate`` of ``params`` applies.

    Returns:
        Means, and per class the AP of the study's ``ranking``; both empty where no class is counted.
    """
    table = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS)
    truth = truth_of(data)
    rows = np.asarray([row for row, image in enumerate(table.ids) if ids is None or image in ids], np.int64)
    columns = {name: values[rows] for name, values in table.columns.items()}
    tables = pseudo_tables(columns, float(table.metadata["alpha"]))
    evaluate = load(EvaluateParams, params)
    train = Scores([table.ids[row] for row in rows], tables)
    empty = Scores([], {})
    measured = measure_splits(train, empty, truth, evaluate.difficult, evaluate.min_positives)["train"]
    means = {f"train_{name}": value for name, value in measured.mean_ap.items() if value is not None}
    views = _views_per_image(data, frozenset(table.ids[row] for row in rows))
    background = measure_background(data, ids, wanted=study.drop_classes > 0)
    return means | views | background, counted(measured, RANKINGS[study.ranking], truth.classes)


def read_students(data: Path, params: Path, shows: str) -> tuple[dict[str, float], dict[str, float]]:
    """Read the means of stage ``evaluate`` on the test split, and per class the AP of ``shows``."""
    test = read_metrics(data / "metrics.json")["test"]
    if not any(value is not None for value in test.mean_ap.values()):
        raise CcdError(
            "a study of students needs test images with known labels, and a class that evaluate.min_positives of them"
            " have"
        )
    means = {f"test_{name}": value for name, value in test.mean_ap.items() if value is not None}
    fewest = load(EvaluateParams, params).min_positives
    column = f"test_{shows}"
    rows = {name: row for name, row in read_per_class(data / "per_class.csv").items() if column in row}
    per_class = {name: row[column] for name, row in rows.items() if row["test_positives"] >= fewest}
    return means | ({"result": means[column]} if column in means else {}), per_class


def measure_part(
    data: Path, params: Path, scores: Scores, wanted: str | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure score tables against the truth, as section ``evaluate`` of ``params`` says.

    Args:
        wanted: the table whose AP per class is returned, which must have one; None: no table.

    Returns:
        Table -> mAP in %, without those that no class counts for; class -> AP in % of the table ``wanted``.

    Raises:
        CcdError: no class has enough positives for ``wanted``.
    """
    truth = truth_of(data)
    evaluate = load(EvaluateParams, params)
    empty = Scores([], {})
    measured = measure_splits(empty, scores, truth, evaluate.difficult, evaluate.min_positives)["test"]
    means = {name: value for name, value in measured.mean_ap.items() if value is not None}
    if wanted is None:
        return means, {}
    if wanted not in means:
        raise CcdError(
            f"no class has evaluate.min_positives = {evaluate.min_positives} positives among the {len(scores.ids)}"
            " images that a study measures on; lower it, or take more images"
        )
    return means, counted(measured, wanted, truth.classes)


def truth_of(data: Path) -> Truth:
    labels = class_table.read(data / "labels.parquet", LABELS)
    return Truth(labels.ids, labels.classes, **labels.columns)


def counted(measure: Measure, table: str, classes: tuple[str, ...]) -> dict[str, float]:
    pairs = zip(classes, measure.ap[table], strict=True)
    return {name: float(value) for name, value in pairs if name not in measure.left_out and not np.isnan(value)}


def _views_per_image(data: Path, ids: frozenset[str]) -> dict[str, float]:
    """Return the mean number of views; empty where the run needed no boxes."""
    if not (data / "boxes.parquet").exists():
        return {}
    boxes = boxes_file.read(data / "boxes.parquet")
    return {"views_per_image": sum(image in ids for image in boxes.image_ids) / max(1, len(ids))}
