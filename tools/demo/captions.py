"""Captions as people write them: most name only the thing that catches the eye.

They give the demo's CLIP the faults of the real one: companions go unnamed, and well-known things are named more often
than they appear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccd.demo.scenes import CLASSES, COMPANY, Box
from tools.demo.pools import Picture

Rng = np.random.Generator
ONE_THING = ("a photo of the {}", "a photo of {}", "a picture of {}", "{}", "a small {}")
FAME_EXPONENT = 0.6
PAIR_SHARE = 0.08
PLACE_SHARE = 0.05


@dataclass(frozen=True)
class Caption:
    """A caption and the things it names; captions that name the same things are positives of each other."""

    text: str
    names: tuple[str, ...]


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _one_thing_texts(name: str) -> list[str]:
    bare = ("a photo of the {}", "a small {}")
    return [form.format(name if form in bare else _with_article(name)) for form in ONE_THING]


def all_captions() -> tuple[Caption, ...]:
    """Return all captions: one thing in each wording, then each pair, then each place."""
    single = [Caption(text, (name,)) for name in CLASSES for text in _one_thing_texts(name)]
    pairs = [
        Caption(f"{_with_article(first)} and {_with_article(second)}", (first, second))
        for i, first in enumerate(CLASSES)
        for second in CLASSES[i + 1 :]
    ]
    return (*single, *pairs, *(Caption(f"a photo of the {place}", (place,)) for place in COMPANY))


def fame() -> NDArray[np.float64]:
    """Return how readily each of `CLASSES` is named, (C,) float64 with sum 1: a power law in its rank."""
    weights = np.arange(1, len(CLASSES) + 1, dtype=np.float64) ** -FAME_EXPONENT
    return np.asarray(weights / weights.sum())


def write_caption(picture: Picture, view_px: Box, rng: Rng) -> tuple[str, ...]:
    """Draw the things that a caption of this view (a crop) names: one, sometimes two, sometimes only the place.

    A thing is named in proportion to its visible area times its fame. A view without things is captioned by its place.
    """
    weights = _prominence(picture, view_px)
    dice = rng.random()
    if not weights:
        return (picture.place,)
    if picture.place and dice < PLACE_SHARE:
        return (picture.place,)
    names = tuple(weights)
    shares = np.array([weights[name] for name in names]) / sum(weights.values())
    if len(names) > 1 and dice < PLACE_SHARE + PAIR_SHARE:
        chosen = {str(name) for name in rng.choice(names, 2, replace=False, p=shares)}
        return tuple(name for name in CLASSES if name in chosen)
    return (str(rng.choice(names, p=shares)),)


def _prominence(picture: Picture, view_px: Box) -> dict[str, float]:
    """Return visible area times fame of each class of which at least half an object is in the view."""
    known = dict(zip(CLASSES, fame(), strict=True))
    weights: dict[str, float] = {}
    for thing in picture.objects:
        x0, y0, x1, y1 = thing.box_px
        wide = min(x1, view_px[2]) - max(x0, view_px[0])
        high = min(y1, view_px[3]) - max(y0, view_px[1])
        area = (x1 - x0) * (y1 - y0)
        visible = max(0, wide) * max(0, high)
        if 2 * visible >= area:
            weights[thing.name] = weights.get(thing.name, 0.0) + visible * known[thing.name]
    return weights
