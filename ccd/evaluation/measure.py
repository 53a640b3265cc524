"""Several score tables against one ground truth: per-class AP, means, and what had to be left out (section 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccd.evaluation.average_precision import average_precision

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
    """AP of every (M, C) score table against (M, C) ``labels`` (1 = present).

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
    """(M, C) bool, which classes count as present, and which image-class pairs are left out (None: no pair)."""
    present = labels.astype(bool)
    positives = present | difficult if treat_difficult == "positive" else present & ~difficult
    return positives, difficult if treat_difficult == "ignore" else None
