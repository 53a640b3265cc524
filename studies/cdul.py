"""CDUL's initial pseudo-labels (R. Abdelfattah et al., ICCV 2023, section 3.1), which CCD is compared with."""

from __future__ import annotations

import numpy as np

from ccd.labels.debias import aggregate, best_view

THRESHOLD = 0.5
"""zeta of section 3.1.3: from this probability on, the best tile counts."""


def tile_score(
    tile_probs: np.ndarray, image_rows: np.ndarray, image_count: int, threshold: float = THRESHOLD
) -> np.ndarray:
    """Return S_aggregate: per class the best tile's score if it reaches the threshold, else the worst (section 3.1.3).

    ``gamma max_j s_j + (1 - gamma) min_j s_j`` with ``gamma = 1`` where ``max_j s_j >= threshold``, else 0.

    Args:
        tile_probs: (B, C) softmax scores of the tiles.
        image_rows: (B,) the image of each tile, in 0..image_count - 1.

    Returns:
        (N, C) float64; NaN where an image has no tile.
    """
    highest = best_view(tile_probs, image_rows, image_count)[0]
    lowest = -best_view(-tile_probs, image_rows, image_count)[0]
    return np.where(highest >= threshold, highest, lowest)


def initial_labels(global_prob: np.ndarray, tile_scores: np.ndarray) -> np.ndarray:
    """Return S_final = (S_global + S_aggregate) / 2 of (N, C) scores (section 3.1.3)."""
    return aggregate(global_prob, tile_scores, alpha=0.5)
