"""CLIP's class bias (method section 2; supplement Fig. 9): how sure it is, on average, of each class it picks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.errors import CcdError, listed
from ccd.labels.scores import entropy_nats


@dataclass(frozen=True)
class Bias:
    """``values`` (C,) float64 b_c in (0, 1]; ``top1_counts`` (C,) reliable images whose top-1 is the class."""

    values: np.ndarray
    top1_counts: np.ndarray
    reliable_share: float


def class_bias(probs: np.ndarray, classes: tuple[str, ...], max_entropy_nats: float, shrinkage: float) -> Bias:
    """b_c = (sum of p_ic over reliable i with argmax c + k * mean_b) / (count + k), with k = ``shrinkage``.

    Args:
        probs: (N, C) softmax scores of the training images.
        max_entropy_nats: image i is reliable if H_i <= this (the paper's 2.0).
        shrinkage: k; ``mean_b`` is the mean over the classes that have a top-1 image. 0 is the paper.

    Raises:
        CcdError: no image is reliable, or k = 0 and a class is no reliable image's top-1.
    """
    reliable = entropy_nats(probs) <= max_entropy_nats
    if not reliable.any():
        raise CcdError(
            f"bias.max_entropy_nats = {max_entropy_nats}: CLIP is surer than that of no image; raise it"
            f" (the largest possible entropy of {probs.shape[1]} classes is {np.log(probs.shape[1]):.2f})"
        )
    top1 = probs[reliable].argmax(axis=1)
    counts = np.bincount(top1, minlength=probs.shape[1])
    sums = np.bincount(top1, weights=probs[reliable].max(axis=1), minlength=probs.shape[1])
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty and shrinkage == 0:
        raise CcdError(
            f"no image has {listed(empty)} as CLIP's top-1 class, so bias.shrinkage = 0 leaves its bias undefined;"
            " set bias.shrinkage above 0 (1 is a mild choice), or drop the class"
        )
    mean = (sums[counts > 0] / counts[counts > 0]).mean()
    return Bias((sums + shrinkage * mean) / (counts + shrinkage), counts, float(reliable.mean()))
