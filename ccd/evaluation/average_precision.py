"""Average precision (method section 9): area under the precision-recall steps, ties taken together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def average_precision(scores: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """AP of each class: sum over score thresholds of (recall step) * precision.

    Args:
        scores: (N, C), larger means more likely. Equal scores form one threshold, so their order cannot matter.
        positives: (N, C) bool.
        ignored: (N, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without positives.
    """
    keep = np.ones(scores.shape, bool) if ignored is None else ~ignored
    columns = zip(scores.T, positives.T, keep.T, strict=True)
    return np.asarray([_one_class(score[use], positive[use]) for score, positive, use in columns])


def _one_class(scores: np.ndarray, positives: np.ndarray) -> float:
    if not positives.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = np.cumsum(positives[order])[ends]
    precision = hits / (ends + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


@dataclass(frozen=True)
class MeanAP:
    """``value``: mean AP in %, or None if no class qualifies. ``left_out``: classes with too few positives."""

    value: float | None
    left_out: tuple[str, ...]


def mean_average_precision(ap: np.ndarray, counts: np.ndarray, classes: tuple[str, ...], min_positives: int) -> MeanAP:
    """Mean of (C,) ``ap`` over the classes with at least ``min_positives`` positives (``counts``), in percent."""
    used = counts >= max(1, min_positives)
    left_out = tuple(name for name, use in zip(classes, used, strict=True) if not use)
    return MeanAP(float(100 * ap[used].mean()) if used.any() else None, left_out)
