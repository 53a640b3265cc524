"""Average precision (method section 9): area under the precision-recall steps, ties taken together."""

from __future__ import annotations

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
