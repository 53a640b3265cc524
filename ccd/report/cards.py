"""A card per image (supplement Fig. 11): photo, views, CLIP's labels of each view, and bars of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import Choice, Pair, strongest_classes, view_labels
from ccd.report.photos import Frame, Photos, frames
from ccd.report.run_data import ZERO_SHOT, Run

BARS = 4
FRAMES = 3
LABELS_SHOWN = 2
SMALLEST_LABEL_SHOWN = 0.05
TRAIN_STEPS = ("global label (whole image)", "local label (best view; may exceed 1)", "label as trained on")
TEST_STEPS = ("CLIP, debiased (p / b)", "student")

Probs = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Bars:
    """One class on one image: a value per step, see `TRAIN_STEPS`.

    ``truth``: 1 present, 0 absent, -1 unknown; ``asked``: whether the card is about this class.
    """

    name: str
    values: tuple[float, ...]
    truth: int
    asked: bool


@dataclass(frozen=True)
class View:
    """A local view: a crop of the image that CLIP reads by itself.

    ``picture``: a ``data:`` URI or None; ``won``: the classes it won; ``says``: the largest local labels that it gives,
    see `ccd.report.doubt.view_labels`; ``tone``: number of its colour.
    """

    picture: str | None
    won: str
    says: str
    tone: int


@dataclass(frozen=True)
class Card:
    """One image as the template draws it.

    ``photo``: a ``data:`` URI, or None if the page's budget of bytes is spent; ``ratio``: width / height; ``alt``:
    the photo in words; ``missing``: present classes without a bar.
    """

    title: str
    image_id: str
    photo: str | None
    alt: str
    ratio: float
    frames: tuple[Frame, ...]
    views: tuple[View, ...]
    bars: tuple[Bars, ...]
    story: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class PairCard:
    """Two classes side by side on one image: a card each, and the ``facts`` about the pair."""

    title: str
    sides: tuple[Card, Card]
    facts: str


def views_shown(run: Run, choice: Choice) -> list[tuple[int, str]]:
    """Return (box, names) of the views that won the classes shown, the one of the choice's class first."""
    won: dict[int, list[str]] = {}
    for class_row in _strongest(run.pseudo_labels["label"][choice.row], choice.class_row):
        box = int(run.pseudo_labels["box_id"][choice.row, class_row])
        if box >= 0 and (
            class_row == choice.class_row or run.pseudo_labels["label"][choice.row, class_row] >= LABELLED
        ):
            won.setdefault(box, []).append(run.classes[class_row])
    own_box = int(run.pseudo_labels["box_id"][choice.row, choice.class_row])
    order = sorted(won, key=lambda box: box != own_box)
    return [(box, ", ".join(won[box])) for box in order[:FRAMES]]


def train_card(run: Run, photos: Photos, choice: Choice, probs: Probs) -> Card:
    """Return the card of a training image: the label of the chosen class from whole image over views to the result.

    Args:
        probs: box -> (C,) CLIP's probabilities, for at least the views shown.
    """
    row = choice.row
    class_row = choice.class_row
    name = run.classes[class_row]
    shown = _strongest(run.pseudo_labels["label"][row], class_row)
    steps = np.stack(
        [run.pseudo_labels["global_label"][row], run.pseudo_labels["local_label"][row], run.pseudo_labels["label"][row]]
    )
    whole_prob = run.pseudo_labels["global_prob"][row, class_row]
    view_prob = run.pseudo_labels["local_prob"][row, class_row]
    view_text = "there is no local view" if np.isnan(view_prob) else f"{view_prob:.2f} in its best view"
    remark = _background_remark(run.train_truth[row])
    boxes = views_shown(run, choice)
    views = tuple(
        View(photos.crop(run.train, row, _corners(run, box)), names, _label_text(run, row, box, probs[box]), tone)
        for tone, (box, names) in enumerate(boxes)
    )
    drawn = f", with the views that won {'; '.join(names for _, names in boxes)}" if boxes else ""
    return Card(
        choice.why or name,
        run.train.ids[row],
        photos.photo(run.train, row),
        f"Training image {run.train.ids[row]}{drawn}",
        _ratio(run.train, row),
        frames(run, row, boxes),
        views,
        _bars(run, steps, run.train_truth[row], shown, class_row),
        f"{run.score_name} of {name}: {whole_prob:.2f} in the whole image, {view_text}.{remark}",
        _without_bar(run, row, shown),
    )


def test_card(run: Run, photos: Photos, choice: Choice) -> Card:
    """Return the card of a test image: the teacher's debiased probability beside the student's."""
    row = choice.row
    class_row = choice.class_row
    teacher = np.minimum(run.predictions["zero_shot_prob"][row] / run.bias.bias, 1)
    student = run.predictions["student_prob"][row]
    shown = _strongest(np.maximum(teacher, student), class_row)
    zero_shot = run.predictions["zero_shot_prob"][row, class_row]
    story = f"{ZERO_SHOT} of {run.classes[class_row]}: {zero_shot:.2f}."
    story += _background_remark(run.test_truth[row])
    bars = _bars(run, np.stack([teacher, student]), run.test_truth[row], shown, class_row)
    name = run.test.ids[row]
    photo = photos.photo(run.test, row)
    title = choice.why or run.classes[class_row]
    ratio = _ratio(run.test, row)
    return Card(title, name, photo, f"Test image {name}", ratio, (), (), bars, story, ())


def pair_boxes(run: Run, pair: Pair) -> tuple[int, int]:
    """Return the first box of each of the two classes on the pair's example."""
    views = np.flatnonzero(run.box_rows == pair.example)
    first, second = (int(views[run.box_classes[views] == class_row][0]) for class_row in (pair.first, pair.second))
    return first, second


def pair_card(run: Run, photos: Photos, pair: Pair, probs: Probs) -> PairCard:
    """Return two cards (supplement Fig. 8): the boxes of two classes on one image, and how often both are present.

    ``probs``: box -> (C,) CLIP's probabilities, for at least `pair_boxes`.
    """
    names = run.classes[pair.first], run.classes[pair.second]
    photo = photos.photo(run.train, pair.example)
    sides = [_pair_side(run, photos, pair.example, box, photo, probs[box]) for box in pair_boxes(run, pair)]
    facts = f"On {len(pair.images)} images both ask for a view; mean overlap (IoU) {pair.mean_iou:.2f}."
    return PairCard(" and ".join(names), (sides[0], sides[1]), facts + _together(run, pair))


def _pair_side(run: Run, photos: Photos, row: int, box: int, photo: str | None, probs: np.ndarray) -> Card:
    name = run.classes[run.box_classes[box]]
    crop = photos.crop(run.train, row, _corners(run, box))
    image_id = run.train.ids[row]
    alt = f"Training image {image_id}, with the view that {name} asked for"
    shown = frames(run, row, [(box, name)])
    view = View(crop, name, _label_text(run, row, box, probs), 0)
    return Card(name, image_id, photo, alt, _ratio(run.train, row), shown, (view,), (), "", ())


def _together(run: Run, pair: Pair) -> str:
    """Return how often the two classes of a pair are present, by ground truth."""
    truth = run.train_truth[pair.images][:, [pair.first, pair.second]]
    known = truth[(truth >= 0).all(axis=1)]
    if not len(known):
        return ""
    both = int((known == 1).all(axis=1).sum())
    any_of = int((known == 1).any(axis=1).sum())
    return f" Really there: both on {both}, one on {any_of - both}, neither on {len(known) - any_of}."


def _ratio(index: ImageIndex, row: int) -> float:
    height_px, width_px = index.sizes_px[row]
    return float(width_px / height_px)


def _strongest(values: np.ndarray, required: int) -> list[int]:
    """Return the classes with the largest values, largest first; class ``required`` is always among them."""
    order = [int(class_row) for class_row in np.argsort(-values, kind="stable")[:BARS]]
    return order if required in order else [*order[: BARS - 1], required]


def _bars(run: Run, steps: np.ndarray, truth: np.ndarray, shown: list[int], subject: int) -> tuple[Bars, ...]:
    return tuple(
        Bars(
            run.classes[class_row],
            tuple(float(value) for value in steps[:, class_row]),
            int(truth[class_row]),
            class_row == subject,
        )
        for class_row in shown
    )


def _corners(run: Run, box: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(side) for side in run.boxes.boxes_px[box])
    return x0, y0, x1, y1


def _label_text(run: Run, row: int, box: int, probs: np.ndarray) -> str:
    """Return the largest local labels that a view gives, largest first; small ones only in the first place."""
    columns = {name: run.pseudo_labels[name][row] for name in ("local_label", "box_id")}
    labels = view_labels(columns, run.bias.bias, box, probs)
    best = strongest_classes(labels)[:LABELS_SHOWN]
    shown = [
        class_row for number, class_row in enumerate(best) if not number or labels[class_row] >= SMALLEST_LABEL_SHOWN
    ]
    return ", ".join(f"{run.classes[class_row]} {labels[class_row]:.2f}" for class_row in shown)


def _background_remark(truth: np.ndarray) -> str:
    """Return a remark if the image is a background image by ground truth (C,)."""
    return " By ground truth the image shows none of the classes." if (truth == 0).all() else ""


def _without_bar(run: Run, row: int, shown: list[int]) -> tuple[str, ...]:
    """Return the classes that the image shows by ground truth and that have no bar."""
    return tuple(
        run.classes[class_row] for class_row in np.flatnonzero(run.train_truth[row] == 1) if class_row not in shown
    )
