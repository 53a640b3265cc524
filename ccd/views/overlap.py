"""Views that overlap: find, merge or contest them (docs/open_questions.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pairs_of_classes(image_rows: np.ndarray, class_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find every two of B views that are of one image and of different classes, each pair once.

    Args:
        image_rows: (B,) int64, the image of each view, in any order.
        class_rows: (B,) the class of each view, as a number or a name.

    Returns:
        (P,) and (P,) int64 rows of the views.
    """
    order = np.argsort(image_rows, kind="stable")
    image = image_rows[order]
    name = class_rows[order]
    lefts = [np.empty(0, np.int64)]
    steps = [np.empty(0, np.int64)]
    for step in range(1, len(image)):
        same = image[step:] == image[:-step]
        if not same.any():
            break
        lefts.append(np.flatnonzero(same & (name[step:] != name[:-step])))
        steps.append(np.full(len(lefts[-1]), step))
    left = np.concatenate(lefts)
    return order[left], order[left + np.concatenate(steps)]


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of (K, 4) boxes with (K, 4) boxes, row by row -> (K,)."""
    corner0 = np.maximum(one[:, :2], other[:, :2])
    corner1 = np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(np.clip(corner1 - corner0, 0, None), axis=1)
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12))


def coinciding_views(
    image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `pairs_of_classes` whose (B, 4) boxes x0, y0, x1, y1 have an IoU of at least ``min_iou``."""
    left, right = pairs_of_classes(image_rows, class_rows)
    corners = boxes_px.astype(np.float64)
    close = iou(corners[left], corners[right]) >= min_iou
    return left[close], right[close]


def unshared_views(
    image_rows: np.ndarray, class_rows: np.ndarray, scores: np.ndarray, boxes_px: np.ndarray, min_iou: float
) -> np.ndarray:
    """Tell which views stay when views of several classes on one place are merged.

    In each image, from the largest student score down, a view removes every view of another class that coincides with
    it (IoU >= ``min_iou``) and is still there.

    Of equal scores the class that comes first goes first, then the box further up and left, so that the order of the
    views decides nothing. Views of one class never remove each other.

    Args:
        image_rows: (B,) int64, the image of each view.
        class_rows: (B,) int64, the class of each view.
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


def contested_probs(
    view_probs: np.ndarray,
    global_probs: np.ndarray,
    image_rows: np.ndarray,
    requested_by: Sequence[str] | np.ndarray,
    boxes_px: np.ndarray,
    min_iou: float | None,
) -> np.ndarray:
    """Return scores of the views in which contested views count less; none is larger than in ``view_probs``.

    The rivals of a view are the views of another class in its image that coincide with it. A view with
    rivals counts in full for the class with the largest probability in it or in any of its rivals; of every other
    class it counts at most the global probability, so that it can lower that class but not raise it. A view without
    rivals counts as it is. Only the views of an image matter to it, so any images may be given with their views.

    Args:
        view_probs: (B, C) softmax scores of the views.
        global_probs: (N, C) softmax scores of the whole images.
        image_rows: (B,) the image of each view, in 0..N - 1.
        requested_by: (B) the class of each view; a tile (empty name) has no rivals.
        boxes_px: (B, 4) x0, y0, x1, y1.
        min_iou: from this intersection over union on views coincide; None: none is contested.

    Returns:
        (B, C) float64.
    """
    if min_iou is None:
        return view_probs
    names = np.asarray(requested_by, object)
    of_class = np.flatnonzero(names != "")
    pairs = coinciding_views(image_rows[of_class], names[of_class], boxes_px[of_class], min_iou)
    left, right = (of_class[pair] for pair in pairs)
    best = view_probs.astype(np.float64)  # of the view and its rivals
    np.maximum.at(best, left, view_probs[right])
    np.maximum.at(best, right, view_probs[left])
    rivalled = np.zeros(len(view_probs), bool)
    rivalled[left] = rivalled[right] = True
    lost = rivalled[:, None] & (best < best.max(axis=1, keepdims=True))
    return np.where(lost, np.minimum(view_probs, global_probs[image_rows]), view_probs)
