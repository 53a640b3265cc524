"""Decision thresholds, one per class, from pseudo-labels or from a few labelled images.

A class is present where its probability is at least the threshold. A threshold lies half way between two scores, so
that the last bit of a score decides nothing.
"""

from __future__ import annotations

import numpy as np

LABELLED = 0.5  # a pseudo-label of at least this counts as positive


def prevalence_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the thresholds that find each class in as many images as the pseudo-labels do; no ground truth is used.

    Args:
        scores: (N, C) probabilities of the images that the labels are of.
        labels: (N, C) pseudo-labels; present means at least `LABELLED`.

    Returns:
        (C,) float64. Where equal scores make the number impossible it is the nearest possible one (of two equally near
        the smaller). A class that no label claims gets a threshold above every score. NaN scores are not allowed.
    """
    wanted = (labels >= LABELLED).sum(axis=0)
    columns = zip(scores.astype(np.float64).T, wanted, strict=True)
    return np.asarray([_cut(score, int(count)) for score, count in columns], np.float64)


def _cut(scores: np.ndarray, wanted: int) -> float:
    cuts, thresholds = _cuts(scores)
    return float(thresholds[np.argmin(np.abs(cuts - wanted))])  # the first, that is the smaller, of equals


def _cuts(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every number of images that a threshold can accept, ascending, and that threshold."""
    ranked = np.concatenate([[max(1.0, scores.max(initial=0.0)) + 2**-20], -np.sort(-scores), [0.0]])
    cuts = np.flatnonzero(ranked[:-1] > ranked[1:])
    upper = ranked[cuts]
    lower = ranked[cuts + 1]
    middle = (upper + lower) / 2
    return cuts, np.where(middle > lower, middle, upper)


def best_f1_thresholds(scores: np.ndarray, positives: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the thresholds with the largest F1 on a few labelled images that the user gives for this.

    Args:
        scores: (M, C) probabilities.
        positives: (M, C) bool, what is there.
        otherwise: (C,) thresholds of the classes that none of the images shows: nothing can be learnt for them.

    Returns:
        (C,) float64; of equally good ones the largest.
    """
    chosen = otherwise.astype(np.float64)
    for column in np.flatnonzero(positives.any(axis=0)):
        score = scores[:, column].astype(np.float64)
        positive = positives[:, column]
        cuts, thresholds = _cuts(score)
        hits = np.concatenate([[0], np.cumsum(positive[np.argsort(-score, kind="stable")])])[cuts]
        chosen[column] = thresholds[np.argmax(2 * hits / (cuts + positive.sum()))]
    return chosen


def decide(probs: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Tell which classes are present, (M, C) bool. Both are compared in float64, so that storage decides nothing."""
    present: np.ndarray = probs.astype(np.float64) >= thresholds.astype(np.float64)
    return present
