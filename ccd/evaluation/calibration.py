"""Whether a probability means what it says: expected calibration error (Guo et al., ICML 2017), per class."""

from __future__ import annotations

import numpy as np

BINS = 15


def calibration_error(
    probs: np.ndarray, positives: np.ndarray, ignored: np.ndarray | None = None, bins: int = BINS
) -> np.ndarray:
    """ECE of each class as a yes/no question: sum over bins of (images in it / M) * |mean probability - share present|.

    Args:
        probs: (M, C) in [0, 1]; bins have equal width, 1 belongs to the last.
        positives: (M, C) bool.
        ignored: (M, C) bool, image-class pairs to leave out, or None.

    Returns:
        (C,) float64 in [0, 1]; NaN where no image is left.
    """
    keep = np.ones(probs.shape, bool) if ignored is None else ~ignored
    columns = zip(probs.astype(np.float64).T, positives.T, keep.T, strict=True)
    return np.asarray([_one_class(prob[use], there[use], bins) for prob, there, use in columns], np.float64)


def _one_class(probs: np.ndarray, positives: np.ndarray, bins: int) -> float:
    if not len(probs):
        return float("nan")
    place = np.minimum((probs * bins).astype(np.int64), bins - 1)
    said = np.bincount(place, weights=probs, minlength=bins)
    there = np.bincount(place, weights=positives, minlength=bins)
    return float(np.abs(said - there).sum() / len(probs))
