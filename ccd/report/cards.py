"""One image with its story (supplement Fig. 11): photo, views, what CLIP says of each, and bars of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import Choice, Pair, strongest_classes, view_labels
from ccd.report.photos import Frame, Photos, frames
from ccd.report.run_data import Run

BARS = 4
FRAMES = 3
SAID = 2
LEAST_SAID = 0.05
TRAIN_STEPS = ("global label (whole image)", "local label (best view; may exceed 1)", "label as trained on")
TEST_STEPS = ("CLIP, debiased (p / b)", "student")

Probs = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Bars:
    """One class on one image: a value per step, see `TRAIN_STEPS`. ``truth``: 1 present, 0 absent, -1 unknown."""

    name: str
    values: tuple[float, ...]
    truth: int
    asked: bool


@dataclass(frozen=True)
class View:
    """A local view: its picture (a ``data:`` URI or None), the classes it won, and the largest local labels that it
    gives, see `ccd.report.doubt.view_labels`."""

    picture: str | None
    won: str
    says: str
    tone: int


@dataclass(frozen=True)
class Card:
    """What the template draws. ``photo`` (``ratio`` = width / height) is a ``data:`` URI, or None if there was no room
    left; ``alt`` says in words what it shows."""

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
    """Two classes side by side on one image: a card each, and what is known of the pair."""

    title: str
    sides: tuple[Card, Card]
    facts: str


def views_shown(run: Run, choice: Choice) -> list[tuple[int, str]]:
    """The (box, names) to draw for a choice, that of the asked class first: the views that won the classes shown."""
    won: dict[int, list[str]] = {}
    for place in _strongest(run.made["label"][choice.row], choice.class_row):
        box = int(run.made["box_id"][choice.row, place])
        if box >= 0 and (place == choice.class_row or run.made["label"][choice.row, place] >= LABELLED):
            won.setdefault(box, []).append(run.classes[place])
    mine = int(run.made["box_id"][choice.row, choice.class_row])
    order = sorted(won, key=lambda box: box != mine)
    return [(box, ", ".join(won[box])) for box in order[:FRAMES]]


def train_card(run: Run, photos: Photos, choice: Choice, probs: Probs) -> Card:
    """A training image, looked at for the chosen class: its label's way from the whole image over the views.

    Args:
        probs: box -> (C,) CLIP's probabilities, of at least the views shown.
    """
    row = choice.row
    asked = choice.class_row
    name = run.classes[asked]
    shown = _strongest(run.made["label"][row], asked)
    steps = np.stack([run.made["global_label"][row], run.made["local_label"][row], run.made["label"][row]])
    first = run.made["global_prob"][row, asked]
    best = run.made["local_prob"][row, asked]
    seen = "there is no local view" if np.isnan(best) else f"{best:.2f} in its best view"
    shows_none = _nothing(run.train_truth[row])
    boxes = views_shown(run, choice)
    views = tuple(
        View(photos.crop(run.train, row, _corners(run, box)), names, _says(run, row, box, probs[box]), tone)
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
        _bars(run, steps, run.train_truth[row], shown, asked),
        f"CLIP zero-shot probability of {name}: {first:.2f} in the whole image, {seen}.{shows_none}",
        _unseen(run, row, shown),
    )


def test_card(run: Run, photos: Photos, choice: Choice) -> Card:
    """A test image: the teacher's debiased probability beside the student's."""
    row = choice.row
    asked = choice.class_row
    teacher = np.minimum(run.tested["zero_shot_prob"][row] / run.bias.bias, 1)
    student = run.tested["student_prob"][row]
    shown = _strongest(np.maximum(teacher, student), asked)
    story = f"CLIP zero-shot probability of {run.classes[asked]}: {run.tested['zero_shot_prob'][row, asked]:.2f}."
    story += _nothing(run.test_truth[row])
    bars = _bars(run, np.stack([teacher, student]), run.test_truth[row], shown, asked)
    name = run.test.ids[row]
    photo = photos.photo(run.test, row)
    title = choice.why or run.classes[asked]
    ratio = _ratio(run.test, row)
    return Card(title, name, photo, f"Test image {name}", ratio, (), (), bars, story, ())


def pair_boxes(run: Run, pair: Pair) -> tuple[int, int]:
    """The first view of each of the two classes on the pair's example."""
    views = np.flatnonzero(run.box_rows == pair.example)
    first, second = (int(views[run.box_classes[views] == place][0]) for place in (pair.first, pair.second))
    return first, second


def pair_card(run: Run, photos: Photos, pair: Pair, probs: Probs) -> PairCard:
    """Supplement Fig. 8: where the maps of two classes light up on one image, side by side, and how often both are
    really there. ``probs``: box -> (C,) CLIP's probabilities, of at least `pair_boxes`."""
    names = run.classes[pair.first], run.classes[pair.second]
    photo = photos.photo(run.train, pair.example)
    sides = [
        _pair_side(run, photos, pair.example, box, name, photo, probs[box])
        for box, name in zip(pair_boxes(run, pair), names, strict=True)
    ]
    facts = f"On {len(pair.images)} images both ask for a view; mean overlap (IoU) {pair.mean_iou:.2f}."
    return PairCard(" and ".join(names), (sides[0], sides[1]), facts + _together(run, pair))


def _pair_side(run: Run, photos: Photos, row: int, box: int, name: str, photo: str | None, probs: np.ndarray) -> Card:
    crop = photos.crop(run.train, row, _corners(run, box))
    image_id = run.train.ids[row]
    alt = f"Training image {image_id}, with the view that {name} asked for"
    shown = frames(run, row, [(box, name)])
    view = View(crop, name, _says(run, row, box, probs), 0)
    return Card(name, image_id, photo, alt, _ratio(run.train, row), shown, (view,), (), "", ())


def _together(run: Run, pair: Pair) -> str:
    """How often the two classes of a pair are really there, where that is known."""
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


def _strongest(values: np.ndarray, asked: int) -> list[int]:
    """The classes with the largest values, the asked one among them, largest first."""
    order = [int(place) for place in np.argsort(-values, kind="stable")[:BARS]]
    return order if asked in order else [*order[: BARS - 1], asked]


def _bars(run: Run, steps: np.ndarray, truth: np.ndarray, shown: list[int], asked: int) -> tuple[Bars, ...]:
    return tuple(
        Bars(run.classes[place], tuple(float(value) for value in steps[:, place]), int(truth[place]), place == asked)
        for place in shown
    )


def _corners(run: Run, box: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(side) for side in run.boxes.boxes_px[box])
    return x0, y0, x1, y1


def _says(run: Run, row: int, box: int, probs: np.ndarray) -> str:
    """The largest local labels that a view gives, largest first; only the first if the others are small."""
    columns = {name: run.made[name][row] for name in ("local_label", "box_id")}
    labels = view_labels(columns, run.bias.bias, box, probs)
    best = strongest_classes(labels)[:SAID]
    said = [place for number, place in enumerate(best) if not number or labels[place] >= LEAST_SAID]
    return ", ".join(f"{run.classes[place]} {labels[place]:.2f}" for place in said)


def _nothing(truth: np.ndarray) -> str:
    """Said of an image that is known to show none of the classes (C,)."""
    return " By ground truth the image shows none of the classes." if (truth == 0).all() else ""


def _unseen(run: Run, row: int, shown: list[int]) -> tuple[str, ...]:
    """Classes that are in the image by ground truth but not among the bars."""
    return tuple(run.classes[place] for place in np.flatnonzero(run.train_truth[row] == 1) if place not in shown)
