"""Which images are doubtful and worth a look, and which views overlap."""

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
    """Image ``row`` looked at for class ``class_row``; ``why`` says what it is an example of, if it needs saying."""

    row: int
    class_row: int
    why: str


def class_cases(made: dict[str, np.ndarray], truth: np.ndarray, class_row: int) -> list[Choice]:
    """Up to three different training images of one class: the best, a typical and the worst case.

    Where the class has known positives: the positive with the largest label, the one with the median label, and the
    largest error. Otherwise: the largest label, the median of those >= 0.5, and where whole image and local views
    disagree most.
    """
    label = made["label"][:, class_row]
    known = truth[:, class_row]
    # Labels saturate at 1, so CLIP's own probabilities decide between equals.
    key = label + 1e-3 * _finite(made["local_prob"][:, class_row]) + 1e-6 * made["global_prob"][:, class_row]
    positive = known == 1
    picked = [Choice(_largest(key, positive), class_row, "best")] if positive.any() else []
    if positive.any():
        picked.append(Choice(_median(key, positive), class_row, "typical"))
    else:
        picked.append(Choice(int(key.argmax()), class_row, "surest"))
        if (label >= LABELLED).any():
            picked.append(Choice(_median(key, label >= LABELLED), class_row, "typical"))
    picked.append(_worst(made, known, key, class_row))
    first: dict[int, Choice] = {}
    for choice in picked:
        first.setdefault(choice.row, choice)
    return list(first.values())


def _worst(made: dict[str, np.ndarray], known: np.ndarray, key: np.ndarray, class_row: int) -> Choice:
    if (known >= 0).any():
        error = np.where(known == 1, 1 - made["label"][:, class_row], made["label"][:, class_row])
        row = _largest(error + 1e-3 * np.where(known == 1, -key, key), known >= 0)
        right = error[row] < LABELLED
        return Choice(row, class_row, "least sure" if right else "missed" if known[row] == 1 else "wrongly labelled")
    gap = _step_gap(made, class_row)
    return Choice(_largest(gap + 1e-3 * key, np.ones(len(gap), bool)), class_row, "most disputed")


def _step_gap(made: dict[str, np.ndarray], class_row: int) -> np.ndarray:
    return np.asarray(abs(made["global_label"][:, class_row] - np.clip(made["local_label"][:, class_row], 0, 1)))


def doubtful_train(made: dict[str, np.ndarray], count: int, per_class: int | None = None) -> list[Choice]:
    """The training images whose whole view and local views disagree most, |q - l| of the class where it is largest;
    among equals, those that disagree about more classes. At most ``per_class`` of them are about the same class. What a
    person decided is in no doubt."""
    starts = range(0, len(made["label"]), IMAGES_AT_ONCE)
    some = ({name: made[name][start : start + IMAGES_AT_ONCE] for name in _DISPUTED} for start in starts)
    return _largest_first([_per_image(disagreement(columns)) for columns in some], count, per_class)


def disagreement(made: dict[str, np.ndarray], student: np.ndarray | None = None) -> np.ndarray:
    """How far apart the steps are, per training image and class, (N, C): |q - l|, or with the ``student``'s
    probabilities (N, C) the largest difference between any two of q, l and these. 0 where a person decided."""
    steps = [made["global_label"], np.clip(made["local_label"], 0, 1), *([] if student is None else [student])]
    gap = np.maximum.reduce(steps) - np.minimum.reduce(steps)
    return np.where(made["correction"] >= 0, 0.0, gap)


def doubtful_test(
    tested: dict[str, np.ndarray], bias: np.ndarray, count: int, per_class: int | None = None
) -> list[Choice]:
    """The test images where the teacher's debiased probability min(p / b, 1) and the student disagree most."""
    gap = np.abs(np.minimum(tested["zero_shot_prob"] / bias, 1) - tested["student_prob"])
    return most_doubtful(gap, count, per_class)


def most_doubtful(gap: np.ndarray, count: int, per_class: int | None = None) -> list[Choice]:
    """The ``count`` rows of (N, C) ``gap`` with the largest entry, each with the class of it; see `doubtful_train`."""
    return _largest_first([_per_image(gap)] if len(gap) else [], count, per_class)


def _per_image(gap: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest entry of each row, the sum of the row, and the class of the largest, all (n,)."""
    return gap.max(axis=1), gap.sum(axis=1), gap.argmax(axis=1)


def _largest_first(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, per_class: int | None
) -> list[Choice]:
    if not parts:
        return []
    largest, total, asked = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen: list[Choice] = []
    about = np.zeros(asked.max() + 1, np.int64)
    for row in np.lexsort((-total, -largest.round(3))):
        if len(chosen) == count or largest[row] == 0:
            break
        if per_class is None or about[asked[row]] < per_class:
            about[asked[row]] += 1
            chosen.append(Choice(int(row), int(asked[row]), ""))
    return chosen


def worst_of_class(made: dict[str, np.ndarray], truth: np.ndarray, class_row: int, count: int) -> list[Choice]:
    """The ``count`` training images with the largest error of a class's label; without any known label, those whose
    whole view and local views disagree most."""
    known = truth[:, class_row]
    if (known >= 0).any():
        error = np.where(known < 0, -1.0, np.abs(made["label"][:, class_row] - known))
        why = np.where(known == 1, "present, label too low", "absent, label too high")
    else:
        error = _step_gap(made, class_row)
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
    """Two classes (rows) whose boxes lie on the same ``images`` training images with this mean IoU; ``example``: of
    the images (rows) where they coincide at least that well, the one with the smallest boxes that no earlier pair
    shows."""

    first: int
    second: int
    images: np.ndarray
    mean_iou: float
    example: int


def coinciding_pairs(
    image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray, count: int, min_images: int = 3
) -> list[Pair]:
    """The pairs of classes whose boxes coincide most.

    On each shared image the best IoU of the two classes' boxes counts. Ranked by sum / (images + 5), so that a pair
    seen a few times does not beat one seen often; pairs on fewer than ``min_images`` images are left out.

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
    for place in [place for place in ranked if sizes[place] >= min_images][:count]:
        part = slice(firsts[place], firsts[place] + sizes[place])
        mean = float(sums[place] / sizes[place])
        good = np.flatnonzero(best[part] >= mean - 1e-9)
        ranking = image[part][good[np.argsort(area[part][good], kind="stable")]].tolist()
        shown = {pair.example for pair in pairs}
        example = next((row for row in ranking if row not in shown), ranking[0])
        pairs.append(Pair(int(low[part][0]), int(high[part][0]), image[part], mean, example))
    return pairs


def _box_pairs(image_rows: np.ndarray, class_rows: np.ndarray, boxes_px: np.ndarray) -> tuple[np.ndarray, ...]:
    """Every two boxes of different classes on one image: image, smaller and larger class, IoU, larger area."""
    left, right = pairs_of_classes(image_rows, class_rows)
    ious = np.empty(len(left))
    areas = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        one, other = (boxes_px[rows[some]].astype(np.float64) for rows in (left, right))
        ious[some] = iou(one, other)
        areas[some] = np.maximum(*((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (one, other)))
    first = class_rows[left]
    second = class_rows[right]
    return image_rows[left], np.minimum(first, second), np.maximum(first, second), ious, areas


def view_labels(columns: Mapping[str, np.ndarray], bias: np.ndarray, box_id: int, probs: np.ndarray) -> np.ndarray:
    """The local label l that a view gives to each class of its image, (C,) float64; it may exceed 1, as the label is
    clipped only once it is mixed.

    For the classes that the view won it is what went into the label, the column ``local_label``. For the others it is
    what would have gone in above the floor, CLIP's probability debiased: p / b.

    Args:
        columns: (C,) columns ``local_label`` and ``box_id`` of the image, as in ``pseudo_labels.parquet``.
        bias: (C,) b.
        box_id: the view.
        probs: (C,) CLIP's probabilities p of the view.
    """
    won = columns["box_id"] == box_id
    return np.asarray(np.where(won, columns["local_label"], probs / bias), np.float64)


def strongest_classes(labels: np.ndarray) -> list[int]:
    """All classes by what a view says of them, the largest label first."""
    return [int(place) for place in np.argsort(-labels, kind="stable")]
