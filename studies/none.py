"""What was found of the images that show none of the classes, against the ground truth."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ccd.artifacts import background_file, class_table
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS

LABELLED = 0.5


def measured_none(data: Path, ids: Collection[str] | None, wanted: bool) -> dict[str, float]:
    """Of the training images (all, or ``ids``) whose truth is known. A difficult object counts as present.

    Args:
        data: a run's artifacts.
        wanted: measure without a rule too; else nothing is, unless the run has one.

    Returns:
        ``none_true`` and ``none_found``: shares of all images in %; ``none_precision`` and ``none_recall`` in %, absent
        where undefined; ``none_labels``: final labels of at least 0.5 on an image that shows no class, on average.
    """
    made = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
    found = background_file.read(data / "none_images.parquet", made.ids)
    known = class_table.read(data / "labels.parquet", LABELS)
    if found.rule == "off" and not wanted:
        return {}
    place = {image: row for row, image in enumerate(known.ids)}
    rows = np.asarray(
        [(row, place[image]) for row, image in enumerate(made.ids) if image in place and (ids is None or image in ids)],
        np.int64,
    ).reshape(-1, 2)
    truly = ~(known.columns["label"][rows[:, 1]] == 1).any(axis=1)
    return none_shares(truly, found.found[rows[:, 0]], (made.columns["label"][rows[:, 0]] >= LABELLED).sum(axis=1))


def none_shares(truly: np.ndarray, found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """See `measured_none`: (M,) bool, (M,) bool, (M,) labels of each image."""
    both = truly & found
    shares = {
        "none_true": (truly.sum(), len(truly)),
        "none_found": (found.sum(), len(found)),
        "none_precision": (both.sum(), found.sum()),
        "none_recall": (both.sum(), truly.sum()),
    }
    means = {name: 100 * float(part) / float(whole) for name, (part, whole) in shares.items() if whole}
    return means | ({"none_labels": float(labels[truly].mean())} if truly.any() else {})
