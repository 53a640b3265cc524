"""CLIP's class bias: its mean probability for each class that it picks (method section 2; supplement Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccd.errors import CcdError, listed
from ccd.labels.scores import background_mass, entropy_nats


@dataclass(frozen=True)
class Bias:
    """``values`` (C,) float64 b_c in (0, 1]; ``top1_counts`` (C,) reliable images whose top-1 is the class."""

    values: np.ndarray
    top1_counts: np.ndarray
    reliable_share: float


@dataclass(frozen=True)
class Top1:
    """The most probable class of each of N images.

    ``entropies_nats`` (N,) float64 of the image's scores; ``classes`` (N,) int64; ``probs`` (N,) float64 of that class.
    """

    entropies_nats: np.ndarray
    classes: np.ndarray
    probs: np.ndarray


def top1_of(probs: np.ndarray, is_distribution: bool = True) -> Top1:
    """Return entropy and most probable class of (N, C) scores.

    Where the background's mass exceeds that class's, the image is no evidence for it: its entropy is infinite. So is
    that of scores that are no distribution over the classes (of a sigmoid): no class was preferred to another.
    """
    largest = probs.max(axis=1)
    is_evidence = background_mass(probs) <= largest if is_distribution else np.zeros(len(probs), bool)
    entropies = np.where(is_evidence, entropy_nats(probs), np.inf)
    return Top1(entropies, probs.argmax(axis=1), largest)


def concatenate(parts: Sequence[Top1]) -> Top1:
    """Concatenate the top-1 of consecutive images."""
    columns = zip(*((part.entropies_nats, part.classes, part.probs) for part in parts), strict=True)
    return Top1(*(np.concatenate(column) for column in columns))


def reliable_images(top1: Top1, max_entropy_nats: float) -> np.ndarray:
    """Tell which images, (N,) bool, say something about CLIP's bias: H_i <= ``max_entropy_nats``."""
    reliable: np.ndarray = top1.entropies_nats <= max_entropy_nats
    return reliable


def no_bias(classes: int) -> Bias:
    """Return b_c = 1 for all classes, without any evidence."""
    return Bias(np.ones(classes), np.zeros(classes, np.int64), 0.0)


def class_bias(top1: Top1, classes: tuple[str, ...], max_entropy_nats: float, shrinkage: float) -> Bias:
    """Estimate the bias of each class on the reliable images.

    ``b_c = (sum of p_ic over reliable i with argmax c + k * mean_b) / (count + k)`` with k = ``shrinkage``.

    Args:
        top1: of the N training images, see `top1_of`.
        max_entropy_nats: image i is reliable if H_i <= this (the paper's 2.0).
        shrinkage: k; ``mean_b`` is the mean over the classes that have a top-1 image. 0 is the paper.

    Raises:
        CcdError: no image is reliable, or k = 0 and a class is no reliable image's top-1.
    """
    reliable = reliable_images(top1, max_entropy_nats)
    if not np.isfinite(top1.entropies_nats).any():
        raise CcdError(
            "CLIP gives the background more than any class in every image, so there is nothing to estimate a bias from;"
            " set text.background_words: false, or bias.enabled: false"
        )
    if not reliable.any():
        raise CcdError(
            f"bias.max_entropy_nats = {max_entropy_nats}: CLIP is surer than that of no image; raise it"
            f" (the largest possible entropy of {len(classes)} classes is {np.log(len(classes)):.2f})"
        )
    winners = top1.classes[reliable]
    counts = np.bincount(winners, minlength=len(classes))
    sums = np.bincount(winners, weights=top1.probs[reliable], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty and shrinkage == 0:
        raise CcdError(
            f"no image has {listed(empty)} as CLIP's top-1 class, so bias.shrinkage = 0 leaves its bias undefined;"
            " set bias.shrinkage above 0 (1 is a mild choice), or drop the class"
        )
    mean = (sums[counts > 0] / counts[counts > 0]).mean()
    return Bias((sums + shrinkage * mean) / (counts + shrinkage), counts, float(reliable.mean()))
