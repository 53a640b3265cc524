"""Local views without a student: around true boxes, exactly these, or random boxes; and their artifact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccd.artifacts.boxes_file import BoxTable
from studies.annotations import TrueBox


def around_boxes(objects: Sequence[TrueBox], size_px: Sequence[int], offset: float) -> np.ndarray:
    """Widen true boxes on each side by ``offset`` times the image's side, like CAM boxes, and clip them to the image.

    Args:
        size_px: height, width of the image.

    Returns:
        (B, 4) float64 x0, y0, x1, y1.
    """
    height, width = size_px
    sides = np.asarray([width, height, width, height], np.float64)
    corners = np.asarray([each.corners_px for each in objects], np.float64).reshape(-1, 4)
    widened: np.ndarray = np.clip(corners + offset * sides * [-1, -1, 1, 1], 0, sides)
    return widened


def random_boxes(boxes: Sequence[np.ndarray], sizes_px: np.ndarray, seed: int) -> list[np.ndarray]:
    """Draw as many random boxes per image as in ``boxes``.

    The sizes of all boxes, as shares of the image's sides, are shuffled; a position is uniform over the image.

    Args:
        boxes: per image (B_i, 4).
        sizes_px: (N, 2) height, width.

    Returns:
        Per image (B_i, 4) x0, y0, x1, y1.
    """
    rng = np.random.default_rng(seed)
    scales = [np.tile([width, height], (len(each), 1)) for each, (height, width) in zip(boxes, sizes_px, strict=True)]
    corners = np.concatenate([np.empty((0, 4)), *boxes])
    scale = np.concatenate([np.empty((0, 2)), *scales])
    shares = rng.permutation((corners[:, 2:] - corners[:, :2]) / scale)
    low = rng.uniform(size=shares.shape) * (1 - shares)
    drawn = np.concatenate([low, low + shares], axis=1) * np.tile(scale, (1, 2))
    return np.split(drawn, np.cumsum([len(each) for each in boxes])[:-1])


def box_table(ids: Sequence[str], names: Sequence[Sequence[str]], boxes: Sequence[np.ndarray]) -> BoxTable:
    """Return boxes (B_i, 4) of each image as the artifact ``boxes.parquet``; scores and peaks are NaN.

    Boxes without area, from annotations outside the image, are dropped.
    """
    rows = [
        (image, name, box)
        for image, box_names, image_boxes in zip(ids, names, boxes, strict=True)
        for name, box in zip(box_names, image_boxes, strict=True)
        if box[2] > box[0] and box[3] > box[1]
    ]
    missing = np.full(len(rows), np.nan, np.float32)
    corners = np.asarray([box for *_, box in rows], np.float32).reshape(-1, 4)
    return BoxTable([image for image, *_ in rows], [name for _, name, _ in rows], missing, missing, corners, {})
