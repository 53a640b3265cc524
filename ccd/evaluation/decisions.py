"""How good yes/no decisions and probabilities are: F1 and calibration of every class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.evaluation.calibration import calibration_error


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
    """Measure, and choose nothing.

    Args:
        student, teacher: (M, C) probabilities.
        thresholds: (C,) found without ground truth; compared with a plain 0.5.
        positives, ignored: see `ccd.evaluation.measure.resolve`.
        min_positives: classes with fewer positives are left out of the means.
    """
    counted = positives.sum(axis=0) >= min_positives
    exact = student.astype(np.float64)
    decided = {"thresholds": exact >= thresholds, "half": exact >= 0.5}
    f1_of = {name: 100 * f1(said, positives, ignored) for name, said in decided.items()}
    probs = {"zero_shot": teacher, "student": student}
    ece_of = {name: 100 * calibration_error(table, positives, ignored) for name, table in probs.items()}
    return Decisions(thresholds, f1_of, ece_of, _means(f1_of, counted), _means(ece_of, counted))


def _means(values: dict[str, np.ndarray], counted: np.ndarray) -> dict[str, float | None]:
    return {name: float(per_class[counted].mean()) if counted.any() else None for name, per_class in values.items()}


def f1(decided: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN) of each class.

    Args:
        decided, positives: (M, C) bool, what is said and what is there.
        ignored: (M, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without positives, 0 for one that is there but never found.
    """
    keep = np.ones(decided.shape, bool) if ignored is None else ~ignored
    hits = (decided & positives & keep).sum(axis=0)
    said, there = (decided & keep).sum(axis=0), (positives & keep).sum(axis=0)
    value: np.ndarray = np.where(there > 0, 2 * hits / np.maximum(said + there, 1), np.nan)
    return value
