"""Floor, debias, mix, and apply human corrections (method sections 3, 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccd.labels.scores import entropy_nats, sigmoid
from ccd.labels.thresholds import LABELLED


def debiased(probs: np.ndarray, bias: np.ndarray, floor: float) -> np.ndarray:
    """Return max(p, eps) / b for (M, C) ``probs`` and (C,) ``bias``; not clipped, so it may exceed 1."""
    debiased: np.ndarray = np.maximum(probs, floor) / bias
    return debiased


def global_label(probs: np.ndarray, bias: np.ndarray, floor: float) -> np.ndarray:
    """Return q = clip(max(p, eps) / b, 0, 1), (M, C) float64 (method section 3)."""
    label: np.ndarray = np.clip(debiased(probs, bias, floor), 0.0, 1.0)
    return label


def best_view(probs: np.ndarray, image_rows: np.ndarray, image_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the largest probability over each image's views, class by class, and the view that gave it.

    Args:
        probs: (B, C) softmax scores of the views.
        image_rows: (B,) the image of each view, in 0..image_count - 1.

    Returns:
        (N, C) float64, NaN where an image has no view; (N, C) int64 view number (the first of equals), -1 without.
    """
    largest = np.full((image_count, probs.shape[1]), np.nan)
    winner = np.full((image_count, probs.shape[1]), -1, np.int64)
    order = np.argsort(image_rows, kind="stable")
    rows, starts = np.unique(image_rows[order], return_index=True)
    if len(rows):
        ordered = probs[order]
        best = np.maximum.reduceat(ordered, starts, axis=0)
        largest[rows] = best
        counts = np.diff(np.append(starts, len(order)))
        view = np.where(ordered == np.repeat(best, counts, axis=0), order[:, None], len(order))
        winner[rows] = np.minimum.reduceat(view, starts, axis=0)
    return largest, winner


def local_label(local_probs: np.ndarray, global_labels: np.ndarray, bias: np.ndarray, floor: float) -> np.ndarray:
    """Return l = max(l, eps) / b, (N, C) (method section 6); an image without views (NaN) keeps its global label."""
    return np.where(np.isnan(local_probs), global_labels, debiased(local_probs, bias, floor))


def aggregate(global_labels: np.ndarray, local_labels: np.ndarray, alpha: float) -> np.ndarray:
    """Return y = clip(alpha * q + (1 - alpha) * l, 0, 1), (N, C) (method section 7)."""
    return np.clip(alpha * global_labels + (1.0 - alpha) * local_labels, 0.0, 1.0)


def sharpened(
    labels: np.ndarray, at: float | np.ndarray, width: float | None, weights: np.ndarray | float = 1.0
) -> np.ndarray:
    """Make labels apart from ``at`` more certain: y <- w * sigmoid((y - at) / width); None: they stay.

    Args:
        labels: (N, C) mixed labels y in [0, 1].
        at: t, a number, or (C,) one for each class.
        weights: (N,) w, the factor on every label of an image (`ccd.labels.background`).
    """
    if width is None:
        return labels
    factor = np.broadcast_to(weights, len(labels))[:, None]
    return np.asarray(factor * sigmoid((labels - at) / width))


LEVELS = 4096  # t per class is a multiple of 1/4096, so that counts take its place of all labels in memory


def prevalence_levels(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Return the t of each class that as many labels reach as the class's labels add up to; no ground truth is used.

    Read as probabilities, a class's labels add up to the number of images that are expected to show it.

    Args:
        pieces: (M, C) mixed labels y in [0, 1] of some images at a time; memory does not grow with their number.

    Returns:
        (C,) float64, multiples of 1/`LEVELS`. Where equal labels make the number impossible, the nearest one counts
        (of two equally near the smaller); of all t with that number the middle one.
    """
    reached: np.ndarray | int = 0  # (C, LEVELS + 1) images by their level, then images of at least that level
    expected: np.ndarray | float = 0.0
    for labels in pieces:
        levels = np.floor(labels * LEVELS).astype(np.int64)
        reached = reached + np.stack([np.bincount(column, minlength=LEVELS + 1) for column in levels.T])
        expected = expected + labels.sum(axis=0, dtype=np.float64)
    reached = np.cumsum(np.asarray(reached)[:, ::-1], axis=1)[:, ::-1]
    gaps = np.abs(reached - np.asarray(expected)[:, None])
    nearest = np.where(gaps == gaps.min(axis=1, keepdims=True), reached, np.iinfo(np.int64).max)
    chosen = reached == nearest.min(axis=1, keepdims=True)  # (C, LEVELS + 1), consecutive levels
    middle: np.ndarray = chosen.argmax(axis=1) + (chosen.sum(axis=1) - 1) // 2
    return middle / LEVELS


@dataclass(frozen=True)
class Sharpening:
    """The arguments of `sharpened`: ``width`` and ``at``; None: labels stay as they are mixed."""

    width: float | None = None
    at: float | np.ndarray = LABELLED

    @property
    def by_class(self) -> np.ndarray | None:
        """``at`` (C,) if every class has its own, else None."""
        return self.at if isinstance(self.at, np.ndarray) else None


MIXED = Sharpening()


def sharpening(width: float | None, at: float | Literal["prevalence"], pieces: Iterable[np.ndarray]) -> Sharpening:
    """Return how to sharpen; ``pieces`` of mixed labels are read for ``prevalence`` alone, see `prevalence_levels`."""
    if width is None:
        return MIXED
    return Sharpening(width, prevalence_levels(pieces) if at == "prevalence" else at)


def whole_image_labels(
    probs: np.ndarray,
    bias: np.ndarray,
    floor: float,
    weights: np.ndarray | float = 1.0,
    entropy: Callable[[np.ndarray], np.ndarray] = entropy_nats,
) -> dict[str, np.ndarray]:
    """Return the columns of ``global_labels.parquet`` from (M, C) scores.

    ``weights`` (M,), or one number: the factor on every label of an image (`ccd.labels.background`). ``entropy`` (M,)
    of scores (M, C), see `ccd.labels.scores.Scoring.entropy_nats`.
    """
    factor = np.broadcast_to(weights, len(probs))[:, None]
    entropies = np.broadcast_to(entropy(probs)[:, None], probs.shape)
    return {"prob": probs, "entropy_nats": entropies, "label": factor * global_label(probs, bias, floor)}


@dataclass(frozen=True)
class WholeImages:
    """Scores of whole images: ``probs`` (N, C) softmax scores and ``labels`` (N, C) q, already times ``weights``.

    ``weights`` (N,), or one number: the factor on every label of an image (`ccd.labels.background`).
    """

    probs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | float = 1.0


@dataclass(frozen=True)
class LocalViews:
    """Scores of local views (crops that CLIP reads by themselves): ``probs`` (B, C) softmax scores.

    ``image_rows`` (B,): the image of each view, in 0..N - 1. ``box_ids`` (B,) int64: the views' ids, if not 0..B - 1.
    """

    probs: np.ndarray
    image_rows: np.ndarray
    box_ids: np.ndarray | None = None


def pseudo_labels(
    images: WholeImages,
    views: LocalViews,
    bias: np.ndarray,
    floor: float,
    alpha: float,
    sharpen: Sharpening = MIXED,
) -> dict[str, np.ndarray]:
    """Return the columns of ``pseudo_labels.parquet``, (N, C) each, for N images (method sections 6 and 7)."""
    local_prob, winner = best_view(views.probs, views.image_rows, len(images.probs))
    factor = np.broadcast_to(images.weights, len(images.probs))[:, None]
    debiased = factor * local_label(local_prob, images.labels, bias, floor)
    local = np.where(np.isnan(local_prob), images.labels, debiased)
    mixed = np.minimum(aggregate(images.labels, local, alpha), factor)  # = factor * (the label without it)
    return {
        "global_prob": images.probs,
        "local_prob": local_prob,
        "global_label": images.labels,
        "local_label": local,
        "label": sharpened(mixed, sharpen.at, sharpen.width, images.weights),
        "box_id": winner if views.box_ids is None else np.append(views.box_ids, -1)[winner],
    }


def label_changes(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Count the effect of the local views, from the columns of `pseudo_labels`.

    Returns (4,) int64: labels >= 0.5 before the views, after them, raised to 0.5 or more, and lowered below.
    """
    before = columns["global_label"] >= LABELLED
    after = columns["label"] >= LABELLED
    return np.asarray([chosen.sum() for chosen in (before, after, after & ~before, before & ~after)], np.int64)


def corrected(labels: np.ndarray, decided: np.ndarray, weight: float) -> dict[str, np.ndarray]:
    """Apply human corrections to pseudo-labels: y <- (1 - w) * y + w * c where a person decided c, 0 or 1.

    Elsewhere y stays. With w = 1 the label is exactly c.

    Args:
        labels: (n, C) the method's labels y of some images.
        decided: (n, C) int8: 1 present, 0 absent, -1 nobody decided.
        weight: w in [0, 1].

    Returns:
        Columns of ``pseudo_labels.parquet``: ``label`` (n, C); ``correction`` (n, C) int8, c or -1; and
        ``uncorrected_label`` (n, C) float64, y where a person decided, else NaN.
    """
    known = decided >= 0
    mixed = (1.0 - weight) * labels + weight * decided
    return {
        "label": np.where(known, mixed, labels),
        "correction": decided,
        "uncorrected_label": np.where(known, labels, np.nan),
    }


def nobody_decided(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the columns ``correction`` and ``uncorrected_label`` of labels that no person corrected."""
    return {"correction": np.full(shape, -1, np.int8), "uncorrected_label": np.full(shape, np.nan)}


def before_corrections(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the method's own labels from the columns of ``pseudo_labels.parquet``.

    ``uncorrected_label`` may be left out where nobody decided anything.
    """
    if "uncorrected_label" not in columns:
        return columns["label"]
    return np.where(columns["correction"] >= 0, columns["uncorrected_label"], columns["label"])
