"""Views that several classes ask for at one place raise one class only; an open question of the paper, off by default.

The local label is a maximum over views (method section 6), so that of two classes that co-occur each finds the view,
among almost equal ones, that flatters it. docs/open_questions.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccd.views.overlap import coinciding_views


def contested_probs(
    view_probs: np.ndarray,
    global_probs: np.ndarray,
    image_rows: np.ndarray,
    asked_by: Sequence[str] | np.ndarray,
    boxes_px: np.ndarray,
    min_iou: float | None,
) -> np.ndarray:
    """Scores of the views as the maximum over views may count them; none is larger than in ``view_probs``.

    The rivals of a view are the views of its image that another class asked for and that coincide with it. A view with
    rivals counts in full for the class with the largest probability in it or in any of its rivals; of every other
    class it counts at most the global probability, so that it can lower that class but not raise it. A view without
    rivals counts as it is. Only the views of an image matter to it, so any images may be given with their views.

    Args:
        view_probs: (B, C) softmax scores of the views.
        global_probs: (N, C) softmax scores of the whole images.
        image_rows: (B,) the image of each view, in 0..N - 1.
        asked_by: (B) the class that asked for it; a tile (empty name) has no rivals.
        boxes_px: (B, 4) x0, y0, x1, y1.
        min_iou: from this intersection over union on views coincide; None: none is contested.

    Returns:
        (B, C) float64.
    """
    if min_iou is None:
        return view_probs
    names = np.asarray(asked_by, object)
    asked = np.flatnonzero(names != "")
    left, right = (asked[pair] for pair in coinciding_views(image_rows[asked], names[asked], boxes_px[asked], min_iou))
    best = view_probs.astype(np.float64)  # of the view and its rivals
    np.maximum.at(best, left, view_probs[right])
    np.maximum.at(best, right, view_probs[left])
    rivalled = np.zeros(len(view_probs), bool)
    rivalled[left] = rivalled[right] = True
    lost = rivalled[:, None] & (best < best.max(axis=1, keepdims=True))
    return np.where(lost, np.minimum(view_probs, global_probs[image_rows]), view_probs)
