"""What people decided, in the labels: their word counts in place of the method's."""

from __future__ import annotations

import numpy as np


def corrected(labels: np.ndarray, decided: np.ndarray, weight: float) -> dict[str, np.ndarray]:
    """y <- (1 - w) * y + w * c where a person decided c, 0 or 1; elsewhere y stays. With w = 1 the label is exactly c.

    Args:
        labels: (n, C) the method's labels y of some images.
        decided: (n, C) int8: 1 present, 0 absent, -1 nobody decided.
        weight: w in [0, 1].

    Returns:
        Columns of ``pseudo_labels.parquet``: ``label`` (n, C); ``correction`` (n, C) int8, c or -1; and
        ``uncorrected_label`` (n, C) float64, y where a person decided, else NaN.
    """
    known = decided >= 0
    mixed = (1.0 - weight) * labels + weight * decided
    return {
        "label": np.where(known, mixed, labels),
        "correction": decided,
        "uncorrected_label": np.where(known, labels, np.nan),
    }


def nobody_decided(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The columns ``correction`` and ``uncorrected_label`` of labels that no person corrected."""
    return {"correction": np.full(shape, -1, np.int8), "uncorrected_label": np.full(shape, np.nan)}


def before_corrections(columns: dict[str, np.ndarray]) -> np.ndarray:
    """The method's own labels, from the columns of ``pseudo_labels.parquet``; ``uncorrected_label`` may be left out
    where nobody decided anything."""
    if "uncorrected_label" not in columns:
        return columns["label"]
    return np.where(columns["correction"] >= 0, columns["uncorrected_label"], columns["label"])
