"""Background images, which show none of the classes, told by their scores alone.

A softmax over classes must put its mass somewhere, so that such an image gets labels too. An open question of the
paper, off by default: docs/open_questions.md.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ccd.errors import CcdError
from ccd.labels.scores import entropy_nats

RuleName = Literal["off", "entropy", "max_prob", "background"]

# Printed everywhere while the rule is off: a share of 0 % would not be a finding.
NOT_LOOKED_FOR = (
    "images without any class: not looked for (global_labels.none_rule: off); such images get labels all the same"
)


def background_line(rule: RuleName, share: float) -> str:
    """Return a line for the console on the ``share`` of images that a rule calls background images."""
    return NOT_LOOKED_FOR if rule == "off" else f"{share:.1%} show no class (rule: {rule})"


def find_background_images(
    rule: RuleName, threshold: float | None, weight: float, probs: np.ndarray, outside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the images that show none of the classes.

    Rule ``entropy``: H_i > threshold (nats). ``max_prob``: max_c p_ic < threshold. ``background``: mass > threshold.

    Each image is judged by itself, so any part of a data set may be given.

    Args:
        threshold: stated unless the rule is ``off``.
        weight: the factor on every label of a background image.
        probs: (M, C) softmax scores of whole images over the classes.
        outside: (M,) of `ccd.labels.scores.Scoring.background_prob`.

    Returns:
        (M,) float64 the value that the rule compares, NaN without a rule; (M,) bool, the background
        images; (M,) float64 ``weight`` for these, else 1.

    Raises:
        CcdError: rule ``background`` without background texts.
    """
    scores = _scores(rule, probs, outside)
    limit = np.nan if threshold is None else threshold
    is_background = scores < limit if rule == "max_prob" else scores > limit  # nothing is above or below NaN
    return scores, is_background, np.where(is_background, weight, 1.0)


def _scores(rule: RuleName, probs: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    if rule == "entropy":
        return entropy_nats(probs)
    if rule == "max_prob":
        return np.asarray(probs.max(axis=1))
    if rule == "off":
        return np.full(len(probs), np.nan)
    if outside is None:
        raise CcdError(
            "global_labels.none_rule = background compares the classes with background texts, and there are none: set"
            " text.background_words: true for a general list, or list your own in text.background_texts, e.g."
            " ['a photo of a landscape', 'a photo of an empty room'], or take another rule"
        )
    return outside
