"""Ranks the images that are most in doubt, and the pairs of classes whose views overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.views.overlap import iou, pairs_of_classes

IMAGES_AT_ONCE = 8192
_DISPUTED = ("global_label", "local_label", "correction")


@dataclass(frozen=True)
class Choice:
    """Image ``row`` as an example of class ``class_row``; ``why``: the reason for the choice, or empty."""

    row: int
    class_row: int
    why: str


def class_cases(pseudo_labels: dict[str, np.ndarray], truth: np.ndarray, class_row: int) -> list[Choice]:
    """Return up to three different training images of one class: the best, a typical and the worst case.

    Where the class has known positives: the positive with the largest label, the one with the median label, and the
    largest error. Otherwise: the largest label, the median of those >= 0.5, and the largest
    difference between whole image and local views.
    """
    label = pseudo_labels["label"][:, class_row]
    class_truth = truth[:, class_row]
    # Labels saturate at 1, so CLIP's own probabilities decide between equals.
    key = (
        label
        + 1e-3 * _finite(pseudo_labels["local_prob"][:, class_row])
        + 1e-6 * pseudo_labels["global_prob"][:, class_row]
    )
    positive = class_truth == 1
    picked = [Choice(_largest(key, positive), class_row, "best")] if positive.any() else []
    if positive.any():
        picked.append(Choice(_median(key, positive), class_row, "typical"))
    else:
        picked.append(Choice(int(key.argmax()), class_row, "surest"))
        if (label >= LABELLED).any():
            picked.append(Choice(_median(key, label >= LABELLED), class_row, "typical"))
    picked.append(_worst(pseudo_labels, class_truth, key, class_row))
    first: dict[int, Choice] = {}
    for choice in picked:
        first.setdefault(choice.row, choice)
    return list(first.values())


def _worst(pseudo_labels: dict[str, np.ndarray], known: np.ndarray, key: np.ndarray, class_row: int) -> Choice:
    if (known >= 0).any():
        error = np.where(known == 1, 1 - pseudo_labels["label"][:, class_row], pseudo_labels["label"][:, class_row])
        row = _largest(error + 1e-3 * np.where(known == 1, -key, key), known >= 0)
        right = error[row] < LABELLED
        return Choice(row, class_row, "least sure" if right else "missed" if known[row] == 1 else "wrongly labelled")
    gap = _step_gap(pseudo_labels, class_row)
    return Choice(_largest(gap + 1e-3 * key, np.ones(len(gap), bool)), class_row, "most disputed")


def _step_gap(pseudo_labels: dict[str, np.ndarray], class_row: int) -> np.ndarray:
    return np.asarray(
        abs(pseudo_labels["global_label"][:, class_row] - np.clip(pseudo_labels["local_label"][:, class_row], 0, 1))
    )


def doubtful_train(pseudo_labels: dict[str, np.ndarray], count: int, per_class: int | None = None) -> list[Choice]:
    """Return the ``count`` training images whose whole image and local views disagree most.

    The disagreement is |q - l| of the class where it is largest; among equals, the sum over all classes decides. At
    most ``per_class`` choices are of the same class. Labels that a person decided count as certain.
    """
    starts = range(0, len(pseudo_labels["label"]), IMAGES_AT_ONCE)
    parts = ({name: pseudo_labels[name][start : start + IMAGES_AT_ONCE] for name in _DISPUTED} for start in starts)
    return _largest_first([_per_image(disagreement(columns)) for columns in parts], count, per_class)


def disagreement(pseudo_labels: dict[str, np.ndarray], student: np.ndarray | None = None) -> np.ndarray:
    """Return the disagreement of the steps per training image and class, (N, C).

    It is |q - l|, or with the ``student``'s probabilities (N, C) the largest difference between any two of q, l and the
    student. 0 where a person decided.
    """
    steps = [
        pseudo_labels["global_label"],
        np.clip(pseudo_labels["local_label"], 0, 1),
        *([] if student is None else [student]),
    ]
    gap = np.maximum.reduce(steps) - np.minimum.reduce(steps)
    return np.where(pseudo_labels["correction"] >= 0, 0.0, gap)


def doubtful_test(
    predictions: dict[str, np.ndarray], bias: np.ndarray, count: int, per_class: int | None = None
) -> list[Choice]:
    """Return the test images where the teacher's debiased probability min(p / b, 1) and the student disagree most."""
    gap = np.abs(np.minimum(predictions["zero_shot_prob"] / bias, 1) - predictions["student_prob"])
    return most_doubtful(gap, count, per_class)


def most_doubtful(gap: np.ndarray, count: int, per_class: int | None = None) -> list[Choice]:
    """Return the ``count`` rows of (N, C) ``gap`` with the largest entry, each with its class; see `doubtful_train`."""
    return _largest_first([_per_image(gap)] if len(gap) else [], count, per_class)


def _per_image(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest entry of each row, the sum of the row, and the class of the largest entry, all (n,)."""
    return gap.max(axis=1), gap.sum(axis=1), gap.argmax(axis=1)


def _largest_first(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, per_class: int | None
) -> list[Choice]:
    if not parts:
        return []
    largest, total, class_rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen: list[Choice] = []
    counts = np.zeros(class_rows.max() + 1, np.int64)
    for row in np.lexsort((-total, -largest.round(3))):
        if len(chosen) == count or largest[row] == 0:
            break
        if per_class is None or counts[class_rows[row]] < per_class:
            counts[class_rows[row]] += 1
            chosen.append(Choice(int(row), int(class_rows[row]), ""))
    return chosen


def worst_of_class(pseudo_labels: dict[str, np.ndarray], truth: np.ndarray, class_row: int, count: int) -> list[Choice]:
    """Return the ``count`` training images with the largest error of a class's label.

    Without any known label, those whose whole image and local views disagree most.
    """
    known = truth[:, class_row]
    if (known >= 0).any():
        error = np.where(known < 0, -1.0, np.abs(pseudo_labels["label"][:, class_row] - known))
        why = np.where(known == 1, "present, label too low", "absent, label too high")
    else:
        error = _step_gap(pseudo_labels, class_row)
        why = np.full(len(error), "whole image against local views")
    rows = np.argsort(-error, kind="stable")[:count]
    return [Choice(int(row), class_row, str(why[row])) for row in rows if error[row] > 0]


def _finite(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.nan_to_num(values, nan=0.0))


def _largest(values: np.ndarray, among: np.ndarray) -> int:
    return int(np.where(among, values, -np.inf).argmax())


def _median(values: np.ndarray, among: np.ndarray) -> int:
    rows = np.flatnonzero(among)
    return int(rows[np.argsort(values[rows], kind="stable")[len(rows) // 2]])


PRIOR_IMAGES = 5
_PAIRS_AT_ONCE = 8192


@dataclass(frozen=True)
class Pair:
    """Two classes (rows) whose boxes coincide on the training images ``images`` (rows) with this mean IoU.

    ``example``: of the images where the IoU is at least the mean, the one with the smallest boxes that no earlier pair
    shows.
    """

    first: int
    second: int
    images: np.ndarray
    mean_iou: float
    example: int


def coinciding_pairs(
    image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray, count: int, min_images: int = 3
) -> list[Pair]:
    """Return the ``count`` pairs of classes whose boxes coincide most.

    On each shared image the best IoU of the two classes' boxes counts. Ranked by sum / (images + 5), so that a rare
    pair does not beat a frequent one; pairs on fewer than ``min_images`` images are left out.

    Args:
        image_rows: (B,) int64, the image of each box.
        class_rows: (B,) int64, the class that asked for it.
        boxes_px: (B, 4) x0, y0, x1, y1.
    """
    image, low, high, ious, area = _box_pairs(image_rows, class_rows, boxes_px)
    if not len(image):
        return []
    order = np.lexsort((image, high, low))
    image = image[order]
    low = low[order]
    high = high[order]
    ious = ious[order]
    area = area[order]
    new_pair = np.append(True, (np.diff(low) != 0) | (np.diff(high) != 0))
    starts = np.flatnonzero(new_pair | np.append(True, np.diff(image) != 0))
    image = image[starts]
    low = low[starts]
    high = high[starts]
    area = np.minimum.reduceat(area, starts)
    best = np.maximum.reduceat(ious, starts)
    firsts = np.flatnonzero(new_pair[starts])
    sizes = np.diff(np.append(firsts, len(image)))
    sums = np.add.reduceat(best, firsts)
    ranked = np.argsort(-sums / (sizes + PRIOR_IMAGES), kind="stable")
    pairs: list[Pair] = []
    for pair_row in [pair_row for pair_row in ranked if sizes[pair_row] >= min_images][:count]:
        part = slice(firsts[pair_row], firsts[pair_row] + sizes[pair_row])
        mean = float(sums[pair_row] / sizes[pair_row])
        good = np.flatnonzero(best[part] >= mean - 1e-9)
        ranking = image[part][good[np.argsort(area[part][good], kind="stable")]].tolist()
        shown = {pair.example for pair in pairs}
        example = next((row for row in ranking if row not in shown), ranking[0])
        pairs.append(Pair(int(low[part][0]), int(high[part][0]), image[part], mean, example))
    return pairs


def _box_pairs(image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray) -> tuple[np.ndarray, ...]:
    """Pair the boxes of different classes on one image: image, smaller and larger class, IoU, larger area."""
    left, right = pairs_of_classes(image_rows, class_rows)
    ious = np.empty(len(left))
    areas = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        one, other = (boxes_px[rows[part]].astype(np.float64) for rows in (left, right))
        ious[part] = iou(one, other)
        areas[part] = np.maximum(*((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (one, other)))
    first = class_rows[left]
    second = class_rows[right]
    return image_rows[left], np.minimum(first, second), np.maximum(first, second), ious, areas


def view_labels(columns: Mapping[str, np.ndarray], bias: np.ndarray, box_id: int, probs: np.ndarray) -> np.ndarray:
    """Return the local label l that a view gives to each class of its image; it may exceed 1.

    For the classes that the view won, it is the column ``local_label``, which went into the label. For the others it is
    CLIP's debiased probability p / b, without the floor. (The label is clipped only after mixing.)

    Args:
        columns: (C,) columns ``local_label`` and ``box_id`` of the image, as in ``pseudo_labels.parquet``.
        bias: (C,) b.
        box_id: the view.
        probs: (C,) CLIP's probabilities p of the view.

    Returns:
        (C,) float64.
    """
    won = columns["box_id"] == box_id
    return np.asarray(np.where(won, columns["local_label"], probs / bias), np.float64)


def strongest_classes(labels: np.ndarray) -> list[int]:
    """Return all class rows, the largest of a view's ``labels`` (C,) first."""
    return [int(row) for row in np.argsort(-labels, kind="stable")]
