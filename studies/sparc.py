"""SPARC (K. Miller et al., CVPR 2025): better rankings from CLIP's cosines alone, without training or labels.

The paper's compound prompts come from classes that truly occur together; here from those of the pseudo-labels.
All columns are standardised over the images given, so the score of an image depends on the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccd.labels.thresholds import LABELLED

PARTNERS = 5
"""Compound prompts that each class asks for; its partners may ask for more of them."""


def standardised_rows(cosines: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return (cosine - mean) / standard deviation, both over the reference's columns of the same image.

    Args:
        cosines: (N, P) of any prompts.
        reference: (N, C) of the classes' own prompts; C >= 2. The deviation divides by C - 1.

    Returns:
        (N, P) float64; 0 where all classes of an image have the same cosine.
    """
    return _standardised(cosines, reference, axis=1)


def standardised_columns(scores: np.ndarray) -> np.ndarray:
    """Return (N, P) scores with mean 0 and deviation 1 (over N - 1) in each column; a constant column becomes 0."""
    return _standardised(scores, scores, axis=0)


def _standardised(values: np.ndarray, reference: np.ndarray, axis: int) -> np.ndarray:
    centre = reference.mean(axis=axis, keepdims=True, dtype=np.float64)
    deviation = reference.std(axis=axis, keepdims=True, ddof=1, dtype=np.float64)
    constant = np.ptp(reference, axis=axis, keepdims=True) == 0
    return np.where(constant, 0.0, (values - centre) / np.where(constant, 1.0, deviation))


def compound_pairs(labels: np.ndarray, partners: int = PARTNERS) -> list[tuple[int, int]]:
    """Choose the pairs of classes that get a prompt "A and B", from pseudo-labels.

    Each class asks for the ``partners`` classes that occur with it in most images (of equals the first); a pair without
    a common image gets no prompt.

    Args:
        labels: (N, C) pseudo-labels; present means at least `ccd.labels.thresholds.LABELLED`.

    Returns:
        Pairs (a, b) with a < b, ascending.
    """
    present = (labels >= LABELLED).astype(np.int64)
    together = present.T @ present  # (C, C) images with both
    np.fill_diagonal(together, 0)
    wanted = np.argsort(-together, axis=1, kind="stable")[:, :partners]
    return sorted({(min(a, b), max(a, b)) for a, row in enumerate(wanted.tolist()) for b in row if together[a, b] > 0})


def first_component(columns: np.ndarray) -> np.ndarray:
    """Return the direction (P,) float64 of the largest variance of (N, P) columns, mean >= 0 and sum of |d| = 1."""
    centred = columns - columns.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    direction = -direction if direction.mean() < 0 else direction
    return np.asarray(direction / np.abs(direction).sum())


def sparc_scores(
    cosines: np.ndarray, compound_cosines: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Score N images; larger means more likely, only the order within a class means anything.

    ``z``: cosines standardised by row, then by column. Of each class: X = [the sorted standardised scores of the
    prompts that name it, z], d its first component; score = (X d + z) / 2. A class without such a prompt keeps z.

    Args:
        cosines: (N, C) of images and classes.
        compound_cosines: (N, P) of images and the prompts of ``pairs``.
        pairs: the two classes of each compound prompt, see `compound_pairs`.

    Returns:
        z and scores, (N, C) float64 each.
    """
    z = standardised_columns(standardised_rows(cosines, cosines))
    compounds = standardised_columns(standardised_rows(compound_cosines, cosines))
    scores = z.copy()
    for column in range(z.shape[1]):
        naming = [number for number, pair in enumerate(pairs) if column in pair]
        if naming:
            table = np.column_stack([np.sort(compounds[:, naming], axis=1), z[:, column]])
            scores[:, column] = (table @ first_component(table) + z[:, column]) / 2
    return z, scores
