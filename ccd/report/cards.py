"""One image with its story (supplement Fig. 11): photo, boxes, the view that won, and bars of the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.report.choose import Choice
from ccd.report.overlap import Pair
from ccd.report.photos import Photos
from ccd.report.run import Run

BARS = 4
FRAMES = 3
TRAIN_STEPS = ("whole image", "best local view", "label")
TEST_STEPS = ("CLIP, debiased", "student")


@dataclass(frozen=True)
class Frame:
    """A box over a photo, in % of its width and height. ``tone`` picks a colour."""

    name: str
    left: float
    top: float
    width: float
    height: float
    tone: int


@dataclass(frozen=True)
class Bars:
    """One class on one image: a value in [0, 1] per step. ``truth``: 1 present, 0 absent, -1 unknown."""

    name: str
    values: tuple[float, ...]
    truth: int
    asked: bool


@dataclass(frozen=True)
class Card:
    """What the template draws. ``photo`` (``ratio`` = width / height) and ``crop`` are ``data:`` URIs or None."""

    title: str
    image_id: str
    photo: str | None
    ratio: float
    frames: tuple[Frame, ...]
    crop: str | None
    crop_text: str
    bars: tuple[Bars, ...]
    story: str
    missing: tuple[str, ...]


def train_card(run: Run, photos: Photos, choice: Choice) -> Card:
    """A training image, looked at for the chosen class: its label's way from the whole image over the views."""
    row, asked = choice.row, choice.class_row
    shown = _strongest(run.made["label"][row], asked)
    steps = np.stack([run.made["global_label"][row], run.made["local_label"][row].clip(0, 1), run.made["label"][row]])
    probs = [run.made["global_prob"][row, asked], run.made["local_prob"][row, asked]]
    view = int(run.made["box_id"][row, asked])
    seen = "and there is no local view" if view < 0 else f"{probs[1]:.2f} in the best view"
    story = f"CLIP's own probability of {run.classes[asked]}: {probs[0]:.2f} in the whole image, {seen}"
    return Card(
        choice.why or run.classes[asked],
        run.train.ids[row],
        photos.photo(run.train, row),
        _ratio(run.train, row),
        _winning_frames(run, row, asked, shown),
        photos.crop(run.train, row, _corners(run, view)) if view >= 0 else None,
        _won_by(run, row, view),
        _bars(run, steps, run.train_truth[row], shown, asked),
        story,
        _unseen(run, row, shown),
    )


def test_card(run: Run, photos: Photos, choice: Choice) -> Card:
    """A test image: the teacher's debiased probability beside the student's."""
    row, asked = choice.row, choice.class_row
    teacher = np.minimum(run.tested["zero_shot_prob"][row] / run.bias.bias, 1)
    student = run.tested["student_prob"][row]
    shown = _strongest(np.maximum(teacher, student), asked)
    raw = run.tested["zero_shot_prob"][row, asked]
    story = f"CLIP's own probability of {run.classes[asked]}: {raw:.2f}"
    bars = _bars(run, np.stack([teacher, student]), run.test_truth[row], shown, asked)
    photo = photos.photo(run.test, row)
    return Card(
        choice.why or run.classes[asked], run.test.ids[row], photo, _ratio(run.test, row), (), None, "", bars, story, ()
    )


def pair_card(run: Run, photos: Photos, pair: Pair) -> Card:
    """The image where the boxes of two classes coincide best, with both boxes and how often both are really there."""
    row, names = pair.example, (pair.first, pair.second)
    views = [box for box in run.views_of[row] if run.box_classes[box] in names]
    frames = tuple(
        _frame(run, row, box, run.classes[run.box_classes[box]], int(run.box_classes[box] == pair.second))
        for box in views
    )
    truth = run.train_truth[pair.images][:, list(names)]
    known = truth[(truth >= 0).all(axis=1)]
    both, any_of = int((known == 1).all(axis=1).sum()), int((known == 1).any(axis=1).sum())
    fact = f"; really there: both on {both}, one on {any_of - both}, neither on {len(known) - any_of}"
    return Card(
        " and ".join(run.classes[name] for name in names),
        run.train.ids[row],
        photos.photo(run.train, row),
        _ratio(run.train, row),
        frames,
        None,
        "",
        (),
        f"boxes on {len(pair.images)} common images, mean IoU {pair.mean_iou:.2f}" + (fact if len(known) else ""),
        (),
    )


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


def _winning_frames(run: Run, row: int, asked: int, shown: list[int]) -> tuple[Frame, ...]:
    """The views that gave the shown classes their labels; equal views once, under all their names."""
    won: dict[int, list[str]] = {}
    for place in shown:
        box = int(run.made["box_id"][row, place])
        if box >= 0 and (place == asked or run.made["label"][row, place] >= 0.5):
            won.setdefault(box, []).append(run.classes[place])
    mine = int(run.made["box_id"][row, asked])
    boxes = [mine, *(box for box in won if box != mine)][:FRAMES] if won else []
    frames = [_frame(run, row, box, ", ".join(won[box]), tone) for tone, box in enumerate(boxes)]
    return tuple(frames[::-1])


def _frame(run: Run, row: int, box: int, name: str, tone: int) -> Frame:
    height_px, width_px = (int(side) for side in run.train.sizes_px[row])
    x0, y0, x1, y1 = _corners(run, box)
    across, down = 100 / width_px, 100 / height_px
    return Frame(name, x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down, tone)


def _corners(run: Run, box: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(side) for side in run.boxes.boxes_px[box])
    return x0, y0, x1, y1


def _won_by(run: Run, row: int, view: int) -> str:
    """What the view says: the classes whose largest probability it gave, largest first."""
    if view < 0:
        return ""
    probs, won = run.made["local_prob"][row], np.flatnonzero(run.made["box_id"][row] == view)
    order = won[np.argsort(-probs[won], kind="stable")]
    best = [place for number, place in enumerate(order[:3]) if number == 0 or probs[place] >= 0.05]
    return ", ".join(f"{run.classes[place]} {probs[place]:.2f}" for place in best)


def _unseen(run: Run, row: int, shown: list[int]) -> tuple[str, ...]:
    """Classes that are in the image by ground truth but not among the bars."""
    return tuple(run.classes[place] for place in np.flatnonzero(run.train_truth[row] == 1) if place not in shown)
