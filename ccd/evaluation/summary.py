"""From score tables and ground truth to the contents of ``metrics.json`` and ``per_class.csv`` (section 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccd.evaluation.measure import Difficult, Measure, measure


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


def measure_splits(
    train: Scores, test: Scores, truth: Truth, treat_difficult: Difficult, min_positives: int
) -> dict[str, Measure]:
    """Measure both splits' score tables on those of their images that have known labels, matched by id."""
    splits = {"train": train, "test": test}
    return {name: _measure_split(scores, truth, treat_difficult, min_positives) for name, scores in splits.items()}


def _measure_split(scores: Scores, truth: Truth, treat_difficult: Difficult, min_positives: int) -> Measure:
    place = {image_id: row for row, image_id in enumerate(truth.ids)}
    rows = [(own, place[image_id]) for own, image_id in enumerate(scores.ids) if image_id in place]
    own, known = np.asarray(rows, np.int64).reshape(-1, 2).T
    return measure(
        {name: table[own] for name, table in scores.tables.items()},
        truth.label[known], truth.difficult[known], truth.classes,
        treat_difficult=treat_difficult, min_positives=min_positives,
    )  # fmt: skip


def pseudo_tables(columns: Mapping[str, np.ndarray], alpha: float) -> dict[str, np.ndarray]:
    """The (N, C) tables of the pseudo-labels' making.

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


def metrics(splits: Mapping[str, Measure]) -> dict[str, Any]:
    """The content of ``metrics.json``: per split mAP in % to 0.01, and what it was taken over."""
    return {name: _split_metrics(measured) for name, measured in splits.items()}


def _split_metrics(measured: Measure) -> dict[str, Any]:
    rounded = {name: None if value is None else round(value, 2) for name, value in measured.mean_ap.items()}
    return {
        "mAP": rounded,
        "labelled_images": measured.images,
        "classes_counted": len(measured.positives) - len(measured.left_out),
        "classes_left_out": ", ".join(measured.left_out),
    }


def per_class_rows(classes: tuple[str, ...], splits: Mapping[str, Measure]) -> list[dict[str, str | float | int]]:
    """One row per class: for every split its positives and each table's AP in % (empty where undefined)."""
    rows: list[dict[str, str | float | int]] = []
    for place, name in enumerate(classes):
        row: dict[str, str | float | int] = {"class": name}
        for split, measured in splits.items():
            row[f"{split}_positives"] = int(measured.positives[place])
            for table, values in measured.ap.items():
                row[f"{split}_{table}"] = "" if np.isnan(values[place]) else round(float(values[place]), 2)
        rows.append(row)
    return rows


def headline(splits: Mapping[str, Measure]) -> str:
    """One line for the console."""
    train, test = splits["train"].mean_ap, splits["test"].mean_ap
    if train["zero_shot"] is None and test["zero_shot"] is None:
        return "no image has known labels: nothing to compare with"

    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return (
        f"mAP %: train labels {show(train['zero_shot'])} (zero-shot) -> {show(train['aggregated_raw'])} (aggregated);"
        f" test {show(test['zero_shot'])} (zero-shot) -> {show(test['warmup'])} (warm-up)"
        f" -> {show(test['student'])} (student)"
    )
