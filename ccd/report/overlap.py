"""Classes whose maps light up at the same place (supplement Fig. 8), found from their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.views.overlap import iou, pairs_of_classes

PRIOR_IMAGES = 5
_PAIRS_AT_ONCE = 8192


@dataclass(frozen=True)
class Pair:
    """Two classes (rows) whose boxes lie on the same ``images`` training images with this mean IoU; ``example``: of
    the images (rows) where they coincide at least that well, the one with the smallest boxes that no earlier pair
    shows."""

    first: int
    second: int
    images: np.ndarray
    mean_iou: float
    example: int


def coinciding_pairs(
    image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray, count: int, min_images: int = 3
) -> list[Pair]:
    """The pairs of classes whose boxes coincide most.

    On each shared image the best IoU of the two classes' boxes counts. Ranked by sum / (images + 5), so that a pair
    seen a few times does not beat one seen often; pairs on fewer than ``min_images`` images are left out.

    Args:
        image_rows: (B,) int64, the image of each box.
        class_rows: (B,) int64, the class that asked for it.
        boxes_px: (B, 4) x0, y0, x1, y1.
    """
    image, low, high, ious, area = _box_pairs(image_rows, class_rows, boxes_px)
    if not len(image):
        return []
    order = np.lexsort((image, high, low))
    image, low, high, ious, area = image[order], low[order], high[order], ious[order], area[order]
    new_pair = np.append(True, (np.diff(low) != 0) | (np.diff(high) != 0))
    starts = np.flatnonzero(new_pair | np.append(True, np.diff(image) != 0))
    image, low, high, area = image[starts], low[starts], high[starts], np.minimum.reduceat(area, starts)
    best = np.maximum.reduceat(ious, starts)
    firsts = np.flatnonzero(new_pair[starts])
    sizes, sums = np.diff(np.append(firsts, len(image))), np.add.reduceat(best, firsts)
    ranked = np.argsort(-sums / (sizes + PRIOR_IMAGES), kind="stable")
    pairs: list[Pair] = []
    for place in [place for place in ranked if sizes[place] >= min_images][:count]:
        part = slice(firsts[place], firsts[place] + sizes[place])
        mean = float(sums[place] / sizes[place])
        good = np.flatnonzero(best[part] >= mean - 1e-9)
        ranking = image[part][good[np.argsort(area[part][good], kind="stable")]].tolist()
        shown = {pair.example for pair in pairs}
        example = next((row for row in ranking if row not in shown), ranking[0])
        pairs.append(Pair(int(low[part][0]), int(high[part][0]), image[part], mean, example))
    return pairs


def _box_pairs(image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray) -> tuple[np.ndarray, ...]:
    """Every two boxes of different classes on one image: image, smaller and larger class, IoU, larger area."""
    left, right = pairs_of_classes(image_rows, class_rows)
    ious, areas = np.empty(len(left)), np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        one, other = (boxes_px[rows[some]].astype(np.float64) for rows in (left, right))
        ious[some] = iou(one, other)
        areas[some] = np.maximum(*((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (one, other)))
    first, second = class_rows[left], class_rows[right]
    return image_rows[left], np.minimum(first, second), np.maximum(first, second), ious, areas
