"""Tiles: views of every image that no class has to ask for. Not in the paper, and off by default."""

from __future__ import annotations

import numpy as np

from ccd.views.boxes import at_least


def tiles(sizes_px: np.ndarray, count: int, min_side_px: float = 1.0) -> np.ndarray:
    """``count`` x ``count`` equal parts that cover each image, row by row.

    Args:
        sizes_px: (N, 2) height and width.
        min_side_px: shorter sides are widened to this, inside the image (`ccd.views.boxes.at_least`).

    Returns:
        (N, count**2, 4) float64 x0, y0, x1, y1 in pixels.
    """
    row, column = np.divmod(np.arange(count**2), count)
    shares = np.stack([column, row, column + 1, row + 1], axis=1) / count
    sides_px = np.asarray(sizes_px, np.float64)[:, None, [1, 0]]
    boxes_px = shares * np.tile(sides_px, 2)
    sides_px = np.broadcast_to(sides_px, (*boxes_px.shape[:2], 2)).reshape(-1, 2)
    return at_least(boxes_px.reshape(-1, 4), min_side_px, sides_px).reshape(boxes_px.shape)
