"""What a finished run found, against the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
from studies.spec import Study, Variant

RANKINGS = {"raw": "aggregated_raw", "final": "aggregated_label"}
"""The result of a study without students: the labels as scores before floor and clip make ties, or as they are."""


@dataclass(frozen=True)
class Finding:
    """``means``: column -> mAP in %, or views an image; ``per_class``: class -> AP in % of the result shown."""

    variant: str
    seed: int
    means: dict[str, float]
    per_class: dict[str, float]


def measure(
    data: Path, params: Path, name: str, variant: Variant, seed: int, study: Study, ids: frozenset[str] | None
) -> Finding:
    """What the run with its artifacts in ``data`` and its parameters in ``params`` found; of labels that are the truth
    nothing is measured, nor of students where they are not what the ``variant`` shows.

    Raises:
        CcdError: no image with known labels, or no class with enough of them, to measure the study's result on.
    """
    means, per_class = ({}, {}) if variant.labels == "truth" else measured_labels(data, params, ids, study)
    if not study.students and not per_class:
        raise CcdError(
            "a study of labels needs training images with known labels, and a class that evaluate.min_positives ="
            f" {load(EvaluateParams, params).min_positives} of them have; lower it, or take more images"
        )
    if study.students:
        of_test, per_class = measured_students(data, params, variant.shows)
        means |= of_test
    if variant.shows != "student":
        means = {key: value for key, value in means.items() if key.endswith((variant.shows, "result"))}
    return Finding(name, seed, means, per_class)


def measured_labels(
    data: Path, params: Path, ids: frozenset[str] | None, study: Study
) -> tuple[dict[str, float], dict[str, float]]:
    """Means, and per class the AP of the study's ``ranking``, of the pseudo-labels in ``data`` on those training images
    (all, or ``ids``) whose truth is known, under the ``evaluate`` section of the file ``params``; nothing where no
    class is counted."""
    made = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS)
    known = _truth(data)
    rows = np.asarray([row for row, image in enumerate(made.ids) if ids is None or image in ids], np.int64)
    columns = {name: values[rows] for name, values in made.columns.items()}
    tables = pseudo_tables(columns, float(made.metadata["alpha"]))
    wanted = load(EvaluateParams, params)
    train = Scores([made.ids[row] for row in rows], tables)
    empty = Scores([], {})
    found = measure_splits(train, empty, known, wanted.difficult, wanted.min_positives)["train"]
    means = {f"train_{name}": value for name, value in found.mean_ap.items() if value is not None}
    views = _views_per_image(data, frozenset(made.ids[row] for row in rows))
    none = measure_background(data, ids, wanted=study.drop_classes > 0)
    return means | views | none, _counted(found, RANKINGS[study.ranking], known.classes)


def measured_students(data: Path, params: Path, shows: str) -> tuple[dict[str, float], dict[str, float]]:
    """Means of everything that ``evaluate`` measured on the test split, and per class the AP of ``shows``."""
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


def _truth(data: Path) -> Truth:
    known = class_table.read(data / "labels.parquet", LABELS)
    return Truth(known.ids, known.classes, **known.columns)


def _counted(found: Measure, table: str, classes: tuple[str, ...]) -> dict[str, float]:
    pairs = zip(classes, found.ap[table], strict=True)
    return {name: float(value) for name, value in pairs if name not in found.left_out and not np.isnan(value)}


def _views_per_image(data: Path, ids: frozenset[str]) -> dict[str, float]:
    """None where the run needed no boxes."""
    if not (data / "boxes.parquet").exists():
        return {}
    boxes = boxes_file.read(data / "boxes.parquet")
    return {"views_per_image": sum(image in ids for image in boxes.image_ids) / max(1, len(ids))}
