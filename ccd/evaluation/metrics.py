"""Average precision, F1 and calibration of score tables against ground truth (method section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Return the AP of each class: the sum over score thresholds of (recall step) * precision.

    Args:
        scores: (N, C), larger means more likely. Equal scores form one threshold, so their order cannot matter.
        positives: (N, C) bool.
        ignored: (N, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without positives.
    """
    keep = np.ones(scores.shape, bool) if ignored is None else ~ignored
    columns = zip(scores.T, positives.T, keep.T, strict=True)
    return np.asarray([_ap_of_class(score[use], positive[use]) for score, positive, use in columns])


def _ap_of_class(scores: np.ndarray, positives: np.ndarray) -> float:
    if not positives.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positives[order])[ends]
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


BINS = 15


def calibration_error(
    probs: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None, bins: int = BINS
) -> np.ndarray:
    """Return each class's ECE: the sum over bins of (images in it / M) * |mean probability - share present|.

    Args:
        probs: (M, C) in [0, 1]; bins have equal width, 1 belongs to the last.
        positives: (M, C) bool.
        ignored: (M, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN where no image is left.
    """
    keep = np.ones(probs.shape, bool) if ignored is None else ~ignored
    columns = zip(probs.astype(np.float64).T, positives.T, keep.T, strict=True)
    return np.asarray([_ece_of_class(prob[use], there[use], bins) for prob, there, use in columns], np.float64)


def _ece_of_class(probs: np.ndarray, positives: np.ndarray, bins: int) -> float:
    if not len(probs):
        return float("nan")
    bin_rows = np.minimum((probs * bins).astype(np.int64), bins - 1)
    predicted = np.bincount(bin_rows, weights=probs, minlength=bins)
    present = np.bincount(bin_rows, weights=positives, minlength=bins)
    return float(np.abs(predicted - present).sum() / len(probs))


@dataclass(frozen=True)
class Decisions:
    """``thresholds`` (C,) of the student; ``f1`` and ``ece``: name -> (C,) in %, NaN where undefined. ``mean_f1`` and
    ``mean_ece``: the means over the counted classes, None if there is none."""

    thresholds: np.ndarray
    f1: dict[str, np.ndarray]
    ece: dict[str, np.ndarray]
    mean_f1: dict[str, float | None]
    mean_ece: dict[str, float | None]


def measure_decisions(
    student: np.ndarray,
    teacher: np.ndarray,
    thresholds: np.ndarray,
    positives: np.ndarray,
    ignored: np.ndarray | None,
    min_positives: int,
) -> Decisions:
    """Measure F1 and calibration; no threshold is chosen here.

    Args:
        student, teacher: (M, C) probabilities.
        thresholds: (C,) found without ground truth; compared with a plain 0.5.
        positives, ignored: see `ccd.evaluation.metrics.resolve`.
        min_positives: classes with fewer positives are left out of the means.
    """
    counted = positives.sum(axis=0) >= min_positives
    exact = student.astype(np.float64)
    decided = {"thresholds": exact >= thresholds, "half": exact >= 0.5}
    f1_of = {name: 100 * f1(decisions, positives, ignored) for name, decisions in decided.items()}
    probs = {"zero_shot": teacher, "student": student}
    ece_of = {name: 100 * calibration_error(table, positives, ignored) for name, table in probs.items()}
    return Decisions(thresholds, f1_of, ece_of, _means(f1_of, counted), _means(ece_of, counted))


def _means(values: dict[str, np.ndarray], counted: np.ndarray) -> dict[str, float | None]:
    return {name: float(per_class[counted].mean()) if counted.any() else None for name, per_class in values.items()}


def f1(decided: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each class.

    Args:
        decided, positives: (M, C) bool, decisions and truth.
        ignored: (M, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without positives, 0 for one that is never predicted.
    """
    keep = np.ones(decided.shape, bool) if ignored is None else ~ignored
    hits = (decided & positives & keep).sum(axis=0)
    predicted = (decided & keep).sum(axis=0)
    there = (positives & keep).sum(axis=0)
    value: np.ndarray = np.where(there > 0, 2 * hits / np.maximum(predicted + there, 1), np.nan)
    return value


Difficult = Literal["ignore", "positive", "negative"]


@dataclass(frozen=True)
class Measure:
    """``ap``: name of the scores -> (C,) AP in %, NaN without positives. ``mean_ap``: its mean over the counted
    classes, None if there is none. ``positives`` (C,) images with the class; ``left_out`` classes are not counted;
    ``images``: M."""

    ap: dict[str, np.ndarray]
    mean_ap: dict[str, float | None]
    positives: np.ndarray
    left_out: tuple[str, ...]
    images: int


def measure(
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    difficult: np.ndarray,
    classes: tuple[str, ...],
    *,
    treat_difficult: Difficult,
    min_positives: int,
) -> Measure:
    """Measure the AP of every (M, C) score table against (M, C) ``labels`` (1 = present).

    Args:
        difficult: (M, C) bool; where all objects of the class are difficult the pair is ignored, or counts as
            positive or negative, by ``treat_difficult``.
        min_positives: classes with fewer positives are left out of the means, never counted as 0.
    """
    positives, ignored = resolve(labels, difficult, treat_difficult)
    counts = positives.sum(axis=0)
    counted = counts >= min_positives
    ap = {name: 100 * average_precision(table, positives, ignored) for name, table in scores.items()}
    mean_ap = {name: float(values[counted].mean()) if counted.any() else None for name, values in ap.items()}
    left_out = tuple(name for name, use in zip(classes, counted, strict=True) if not use)
    return Measure(ap, mean_ap, counts, left_out, len(labels))


def resolve(
    labels: np.ndarray, difficult: np.ndarray, treat_difficult: Difficult
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the classes that count as present, (M, C) bool, and the image-class pairs left out (None: no pair)."""
    present = labels.astype(bool)
    positives = present | difficult if treat_difficult == "positive" else present & ~difficult
    return positives, difficult if treat_difficult == "ignore" else None
