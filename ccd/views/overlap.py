"""Which local views of an image lie on each other."""

from __future__ import annotations

import numpy as np


def pairs_of_classes(image_rows: np.ndarray, class_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every two of B views that are of one image and that different classes asked for, each pair once.

    Args:
        image_rows: (B,) int64, the image of each view, in any order.
        class_rows: (B,) the class that asked for it, as a number or a name.

    Returns:
        (P,) and (P,) int64 rows of the views.
    """
    order = np.argsort(image_rows, kind="stable")
    image, name = image_rows[order], class_rows[order]
    lefts, steps = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for step in range(1, len(image)):
        same = image[step:] == image[:-step]
        if not same.any():
            break
        lefts.append(np.flatnonzero(same & (name[step:] != name[:-step])))
        steps.append(np.full(len(lefts[-1]), step))
    left = np.concatenate(lefts)
    return order[left], order[left + np.concatenate(steps)]


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of (K, 4) boxes with (K, 4) boxes, row by row -> (K,)."""
    corner0, corner1 = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(np.clip(corner1 - corner0, 0, None), axis=1)
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12))


def coinciding_views(
    image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """`pairs_of_classes` whose (B, 4) boxes x0, y0, x1, y1 have an IoU of at least ``min_iou``."""
    left, right = pairs_of_classes(image_rows, class_rows)
    corners = boxes_px.astype(np.float64)
    close = iou(corners[left], corners[right]) >= min_iou
    return left[close], right[close]
