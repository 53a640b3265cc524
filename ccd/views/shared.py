"""Views that several classes ask for at one place, merged; an open question of the paper, off by default.

Maps of classes that occur together light up at the same place (supplement Fig. 8). docs/open_questions.md.
"""

from __future__ import annotations

import numpy as np

from ccd.views.overlap import coinciding_views


def unshared_views(
    image_rows: np.ndarray, class_rows: np.ndarray, scores: np.ndarray, boxes_px: np.ndarray, min_iou: float
) -> np.ndarray:
    """Which views stay: in each image from the largest student score down, a view takes out every view of another
    class that coincides with it (IoU >= ``min_iou``) and is still there.

    Of equal scores the class that comes first goes first, then the box further up and left, so that the order of the
    views decides nothing. Views of one class never take each other out.

    Args:
        image_rows: (B,) int64, the image of each view.
        class_rows: (B,) int64, the class that asked for it.
        scores: (B,) the student's probability of that class.
        boxes_px: (B, 4) x0, y0, x1, y1.

    Returns:
        (B,) bool.
    """
    kept = np.ones(len(image_rows), bool)
    order = np.lexsort((*boxes_px.T, class_rows, -scores, image_rows))
    image = image_rows[order]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(image, image, side="left")
    left, right = coinciding_views(image_rows, class_rows, boxes_px, min_iou)
    first = np.where(ranks[left] < ranks[right], left, right)
    second = left + right - first
    for rank in np.unique(ranks[first]):
        taking = (ranks[first] == rank) & kept[first]
        kept[second[taking]] = False
    return kept
