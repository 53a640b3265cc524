"""CLIP's class bias (method section 2; supplement Fig. 9): how sure it is, on average, of each class it picks."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Sureness:
    """All that the bias needs of N images: ``entropy_nats`` (N,), the ``top1`` class (N,) int64, its ``prob`` (N,)."""

    entropy_nats: np.ndarray
    top1: np.ndarray
    prob: np.ndarray


def sureness(probs: np.ndarray) -> Sureness:
    """Entropy and top-1 of (N, C) softmax scores."""
    return Sureness(entropy_nats(probs), probs.argmax(axis=1), probs.max(axis=1))


def joined(parts: Sequence[Sureness]) -> Sureness:
    """Consecutive images as one."""
    columns = zip(*((part.entropy_nats, part.top1, part.prob) for part in parts), strict=True)
    return Sureness(*(np.concatenate(column) for column in columns))


def class_bias(sure: Sureness, classes: tuple[str, ...], max_entropy_nats: float, shrinkage: float) -> Bias:
    """b_c = (sum of p_ic over reliable i with argmax c + k * mean_b) / (count + k), with k = ``shrinkage``.

    Args:
        sure: of the N training images, see `sureness`.
        max_entropy_nats: image i is reliable if H_i <= this (the paper's 2.0).
        shrinkage: k; ``mean_b`` is the mean over the classes that have a top-1 image. 0 is the paper.

    Raises:
        CcdError: no image is reliable, or k = 0 and a class is no reliable image's top-1.
    """
    reliable = sure.entropy_nats <= max_entropy_nats
    if not reliable.any():
        raise CcdError(
            f"bias.max_entropy_nats = {max_entropy_nats}: CLIP is surer than that of no image; raise it"
            f" (the largest possible entropy of {len(classes)} classes is {np.log(len(classes)):.2f})"
        )
    top1 = sure.top1[reliable]
    counts = np.bincount(top1, minlength=len(classes))
    sums = np.bincount(top1, weights=sure.prob[reliable], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty and shrinkage == 0:
        raise CcdError(
            f"no image has {listed(empty)} as CLIP's top-1 class, so bias.shrinkage = 0 leaves its bias undefined;"
            " set bias.shrinkage above 0 (1 is a mild choice), or drop the class"
        )
    mean = (sums[counts > 0] / counts[counts > 0]).mean()
    return Bias((sums + shrinkage * mean) / (counts + shrinkage), counts, float(reliable.mean()))
