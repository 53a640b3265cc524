"""Compares the background images, which show none of the classes, that a rule found with the ground truth."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ccd.artifacts import background_file, class_table
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS

LABELLED = 0.5


def measure_background(data: Path, ids: Collection[str] | None, wanted: bool) -> dict[str, float]:
    """Measure over the training images (all, or ``ids``) with ground truth. A difficult object counts as present.

    Args:
        data: a run's artifacts.
        wanted: measure also without a rule; False: return nothing for a run without a rule.

    Returns:
        ``none_true`` and ``none_found``: shares of all images in %; ``none_precision`` and ``none_recall`` in %, absent
        where undefined; ``none_labels``: mean number of final labels of at least 0.5 on a true background image.
    """
    pseudo_labels = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
    background = background_file.read(data / "none_images.parquet", pseudo_labels.ids)
    labels = class_table.read(data / "labels.parquet", LABELS)
    if background.rule == "off" and not wanted:
        return {}
    row_of = {image: row for row, image in enumerate(labels.ids)}
    pairs = [
        (row, row_of[image])
        for row, image in enumerate(pseudo_labels.ids)
        if image in row_of and (ids is None or image in ids)
    ]
    rows, truth_rows = np.asarray(pairs, np.int64).reshape(-1, 2).T
    is_background = ~(labels.columns["label"][truth_rows] == 1).any(axis=1)
    label_counts = (pseudo_labels.columns["label"][rows] >= LABELLED).sum(axis=1)
    return background_shares(is_background, background.is_background[rows], label_counts)


def background_shares(is_background: np.ndarray, found: np.ndarray, label_counts: np.ndarray) -> dict[str, float]:
    """Return the figures of `measure_background`.

    Args:
        is_background: (M,) bool, by ground truth.
        found: (M,) bool, by the rule.
        label_counts: (M,) number of labels of each image.
    """
    both = is_background & found
    shares = {
        "none_true": (is_background.sum(), len(is_background)),
        "none_found": (found.sum(), len(found)),
        "none_precision": (both.sum(), found.sum()),
        "none_recall": (both.sum(), is_background.sum()),
    }
    means = {name: 100 * float(part) / float(total) for name, (part, total) in shares.items() if total}
    return means | ({"none_labels": float(label_counts[is_background].mean())} if is_background.any() else {})
