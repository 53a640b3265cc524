"""What a local view says on the labels' scale: the one number that every place shows for a view and a class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def view_labels(columns: Mapping[str, np.ndarray], bias: np.ndarray, box_id: int, probs: np.ndarray) -> np.ndarray:
    """The local label l that a view gives to each class of its image, (C,) float64; it may exceed 1, as the label is
    clipped only once it is mixed.

    For the classes that the view won it is what went into the label, the column ``local_label``. For the others it is
    what would have gone in above the floor, CLIP's probability debiased: p / b.

    Args:
        columns: (C,) columns ``local_label`` and ``box_id`` of the image, as in ``pseudo_labels.parquet``.
        bias: (C,) b.
        box_id: the view.
        probs: (C,) CLIP's probabilities p of the view.
    """
    won = columns["box_id"] == box_id
    return np.asarray(np.where(won, columns["local_label"], probs / bias), np.float64)


def strongest_classes(labels: np.ndarray) -> list[int]:
    """All classes by what a view says of them, the largest label first."""
    return [int(place) for place in np.argsort(-labels, kind="stable")]
