"""From score tables and ground truth to the contents of ``metrics.json`` and ``per_class.csv`` (section 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccd.errors import listed
from ccd.evaluation.metrics import Decisions, Difficult, Measure, measure, measure_decisions, resolve

NAMED = 5  # classes that metrics.json names as left out: `dvc metrics show` makes a column of them
STEPS = ("global_prob", "local_prob", "global_label", "local_label", "label")  # of the pseudo-labels, what is measured


@dataclass(frozen=True)
class Scores:
    """``ids`` (M) images and ``tables``: name -> (M, C) scores."""

    ids: Sequence[str]
    tables: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Truth:
    """Ground truth of the labelled images: ``ids`` (L), ``label`` (L, C) int8, ``difficult`` (L, C) bool."""

    ids: Sequence[str]
    classes: tuple[str, ...]
    label: np.ndarray
    difficult: np.ndarray


@dataclass(frozen=True)
class Results:
    """The content of ``metrics.json``, the rows of ``per_class.csv``, and a line for the console."""

    metrics: dict[str, Any]
    rows: list[dict[str, str | float | int]]
    headline: str


def evaluate(
    train: Scores,
    test: Scores,
    truth: Truth,
    thresholds: Sequence[float],
    treat_difficult: Difficult,
    min_positives: int,
) -> Results:
    """Measure both splits' scores, and the student's decisions on the test images at its (C,) ``thresholds``."""
    splits = measure_splits(train, test, truth, treat_difficult, min_positives)
    decisions = decide_split(test, truth, thresholds, treat_difficult, min_positives)
    return Results(metrics(splits, decisions), per_class_rows(truth.classes, splits, decisions), headline(splits))


def measure_splits(
    train: Scores, test: Scores, truth: Truth, treat_difficult: Difficult, min_positives: int
) -> dict[str, Measure]:
    """Measure both splits' score tables on those of their images that have known labels, matched by id."""
    splits = {"train": train, "test": test}
    return {name: _measure_split(scores, truth, treat_difficult, min_positives) for name, scores in splits.items()}


def _measure_split(scores: Scores, truth: Truth, treat_difficult: Difficult, min_positives: int) -> Measure:
    own, known = _matched(scores.ids, truth.ids)
    return measure(
        {name: table[own] for name, table in scores.tables.items()},
        truth.label[known],
        truth.difficult[known],
        truth.classes,
        treat_difficult=treat_difficult,
        min_positives=min_positives,
    )


def _matched(ids: Sequence[str], known_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, in both lists, of the images that both have, in the order of the first list."""
    row_of = {image_id: row for row, image_id in enumerate(known_ids)}
    rows = [(own, row_of[image_id]) for own, image_id in enumerate(ids) if image_id in row_of]
    own, known = np.asarray(rows, np.int64).reshape(-1, 2).T
    return own, known


def decide_split(
    test: Scores, truth: Truth, thresholds: Sequence[float], treat_difficult: Difficult, min_positives: int
) -> Decisions:
    """Measure F1 and calibration of the tables ``student`` and ``zero_shot`` on the images with known labels."""
    own, known = _matched(test.ids, truth.ids)
    positives, ignored = resolve(truth.label[known], truth.difficult[known], treat_difficult)
    student, teacher = (test.tables[name][own] for name in ("student", "zero_shot"))
    return measure_decisions(student, teacher, np.asarray(thresholds), positives, ignored, min_positives)


def pseudo_tables(columns: Mapping[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    """Return the (N, C) score table of every step of the pseudo-labels, from the columns `STEPS`.

    ``*_raw`` is before floor and clip, where division by the class bias cannot change an order within a class and is
    left out: the floor and the clip make ties, and average precision pays for ties.
    """
    zero_shot = columns["global_prob"]
    local = np.where(np.isnan(columns["local_prob"]), zero_shot, columns["local_prob"])
    return {
        "zero_shot": zero_shot,
        "local_raw": local,
        "aggregated_raw": alpha * zero_shot + (1 - alpha) * local,
        "global_label": columns["global_label"],
        "local_label": np.clip(columns["local_label"], 0, 1),
        "aggregated_label": columns["label"],
    }


def metrics(splits: Mapping[str, Measure], decisions: Decisions) -> dict[str, Any]:
    """Return the content of ``metrics.json``: per split mAP in % to 0.01 and its base; of the test images also
    mean F1 in % at the label-free thresholds and at 0.5, and mean ECE in %."""
    content = {name: _split_metrics(measured) for name, measured in splits.items()}
    if splits["test"].images:
        content["test"] |= {"F1": _rounded(decisions.mean_f1), "ECE": _rounded(decisions.mean_ece)}
    return content


def _rounded(means: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in means.items()}


def _split_metrics(measured: Measure) -> dict[str, Any]:
    if (
        not measured.images
    ):  # a row of nothing, as wide as there are classes, would be all that `dvc metrics show` shows
        return {"mAP": {}, "labelled_images": 0, "classes_counted": 0, "classes_left_out": "all"}
    return {
        "mAP": _rounded(measured.mean_ap),
        "labelled_images": measured.images,
        "classes_counted": len(measured.positives) - len(measured.left_out),
        "classes_left_out": listed(measured.left_out, NAMED) if measured.images else "",
    }


def per_class_rows(
    classes: tuple[str, ...], splits: Mapping[str, Measure], decisions: Decisions
) -> list[dict[str, str | float | int]]:
    """Return one row per class.

    It has, for every split, its positives and each table's AP in % (empty where undefined); then the student's
    threshold, F1 and ECE on the test images in %.
    """
    rows: list[dict[str, str | float | int]] = []
    for column, name in enumerate(classes):
        row: dict[str, str | float | int] = {"class": name}
        for split, measured in splits.items():
            row[f"{split}_positives"] = int(measured.positives[column])
            for table, values in measured.ap.items():
                row[f"{split}_{table}"] = _cell(values[column])
        row["threshold"] = float(decisions.thresholds[column])
        row |= {f"test_f1_{name}": _cell(values[column]) for name, values in decisions.f1.items()}
        row |= {f"test_ece_{name}": _cell(values[column]) for name, values in decisions.ece.items()}
        rows.append(row)
    return rows


def _cell(value: float) -> float | str:
    return "" if np.isnan(value) else round(float(value), 2)


def headline(splits: Mapping[str, Measure]) -> str:
    """Return one line for the console: the mAP of the steps of each split that has known labels."""
    headlines = [_split_headline(name, splits[name]) for name in ("train", "test")]
    known = [each for each in headlines if each]
    return f"mAP in %: {'; '.join(known)}" if known else "no image has known labels: nothing to compare with"


def _split_headline(split: str, measured: Measure) -> str:
    """Return "" without known labels. The labels are those trained on, whose floor and clip cost precision."""
    means = _rounded(measured.mean_ap)  # as metrics.json's reader sees them
    if means["zero_shot"] is None:
        return ""
    clip = "CLIP zero-shot probability"
    if split == "train":
        clip = "CLIP's probability"  # background words may share it
        aggregated = _shown(means.get("aggregated_label"))
        raw = _shown(means.get("aggregated_raw"))
        steps = f"aggregated labels, as trained on {aggregated} (before floor and clip {raw})"
    else:
        student = f"student after warm-up {_shown(means.get('warmup'))}, finished {_shown(means.get('student'))}"
        steps = f"head on its features {_shown(means['head'])}, {student}" if "head" in means else student
    where = "training" if split == "train" else "test"
    base = f"{measured.images:,} {where} image{'' if measured.images == 1 else 's'} with known labels"
    return f"on {base}: {clip} {_shown(means['zero_shot'])}, {steps}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
