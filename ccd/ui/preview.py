"""``ccd preview``: what CLIP makes of the class names, from embeddings alone, before anything is trained.

`look` is the pure part, on arrays; `preview_page` reads a project and renders the page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import FileSystemLoader

from ccd.errors import CcdError
from ccd.labels.scores import softmax
from ccd.report import page as report_page
from ccd.report.environment import template_environment
from ccd.ui.project_data import ProjectData
from ccd.ui.search import TextTower
from ccd.ui.thumbs import Thumbnails

TEMPLATES = Path(__file__).parent / "templates"
SUREST = 12
PAIRS = 12
SECOND_LEAST = 0.2  # a second class counts as confused with the first from this probability on
DUPLICATE_COSINE = 0.98
NEIGHBOURS_MOST = 20_000
BLOCK = 1024
PHOTO_BUDGET_BYTES = 20_000_000
# Invented words with the sounds of English: CLIP's photos for them show how sure chance alone makes it.
INVENTED_WORDS = (
    "blick", "dax", "fendle", "grimpo", "krelp", "mubbit", "pindorf", "plimsy", "quandor", "snarp", "toma", "tranzle",
    "vellick", "wug", "yostle", "zorbit",
)  # fmt: skip


@dataclass(frozen=True)
class ClassLook:
    """One class: the ``rows`` of CLIP's surest photos, their ``probs``, and on how many images it is the ``top1``.

    ``sureness``: the name's mean probability on its twelve surest photos in a softmax against `INVENTED_WORDS`;
    ``is_known``: whether that is above the ``limit`` of `Look`.
    """

    name: str
    rows: np.ndarray
    probs: np.ndarray
    top1: int
    sureness: float
    is_known: bool


@dataclass(frozen=True)
class Confused:
    """Two classes that are the first and the second of ``images`` images, and the ``example`` with most of both."""

    first: str
    second: str
    images: int
    example: int


@dataclass(frozen=True)
class Neighbours:
    """``duplicates``: (row, row, cosine) of the most alike images; ``outliers``: (row, cosine with the nearest other).

    ``compared``: the number of images that were compared, evenly spread where there are more than `NEIGHBOURS_MOST`.
    ``pairs``: all pairs with a cosine of at least `DUPLICATE_COSINE` to the nearest image.
    """

    duplicates: tuple[tuple[int, int, float], ...]
    outliers: tuple[tuple[int, float], ...]
    compared: int
    pairs: int


@dataclass(frozen=True)
class Look:
    """All that the page says. ``limit``: the sureness of the second surest of the invented words.

    The surest may be one that CLIP happens to take for something.
    """

    classes: tuple[ClassLook, ...]
    confused: tuple[Confused, ...]
    neighbours: Neighbours
    limit: float

    @property
    def never(self) -> list[str]:
        """The classes that are the first of no image."""
        return [each.name for each in self.classes if not each.top1]

    @property
    def unknown(self) -> list[tuple[int, ClassLook]]:
        """The classes that CLIP may not know, with their places."""
        return [(place, each) for place, each in enumerate(self.classes) if not each.is_known]


def look(
    names: Sequence[str],
    probs: np.ndarray,
    features: np.ndarray,
    text: np.ndarray,
    control: np.ndarray,
    scale: float,
) -> Look:
    """Return what CLIP makes of C classes on N images.

    Args:
        probs: (N, C) CLIP's probabilities. features: (N, D) unit rows. text: (C, D) unit rows of the classes.
        control: (W, D) unit rows of words that mean nothing, W > 2.
        scale: s of softmax(s * cosine).
    """
    first = probs.argmax(axis=1)
    counts = np.bincount(first, minlength=len(names))
    chance = scale * features @ control.T
    others = (np.delete(chance, column, axis=1) for column in range(len(control)))
    invented = [_sureness(own, rest) for own, rest in zip(chance.T, others, strict=True)]
    limit = float(np.sort(invented)[-2]) + 1e-4  # rounding
    looks = []
    for column, name in enumerate(names):
        rows = _largest(probs[:, column], SUREST)
        sureness = _sureness(scale * features @ text[column], chance)
        looks.append(ClassLook(name, rows, probs[rows, column], int(counts[column]), sureness, sureness > limit))
    return Look(tuple(looks), _confused(names, probs, first), nearest(features), limit)


def _sureness(own: np.ndarray, others: np.ndarray) -> float:
    """Return the mean share, on its surest images, of a word with logits (N,) against others' (N, W) in a softmax."""
    shares = softmax(np.concatenate([own[:, None], others], axis=1).astype(np.float64))[:, 0]
    return float(shares[_largest(shares, SUREST)].mean())


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-values, kind="stable")[:count]


def _confused(names: Sequence[str], probs: np.ndarray, first: np.ndarray) -> tuple[Confused, ...]:
    if len(names) < 2:
        return ()
    rest = probs.copy()
    rest[np.arange(len(probs)), first] = -1
    second = rest.argmax(axis=1)
    share = rest.max(axis=1)
    near = np.flatnonzero(share >= SECOND_LEAST)
    pair = np.minimum(first, second)[near] * len(names) + np.maximum(first, second)[near]
    codes, counts = np.unique(pair, return_counts=True)
    found = []
    for place in np.lexsort((codes, -counts))[:PAIRS]:
        rows = near[pair == codes[place]]
        one, other = divmod(int(codes[place]), len(names))
        found.append(Confused(names[one], names[other], int(counts[place]), int(rows[share[rows].argmax()])))
    return tuple(found)


def nearest(features: np.ndarray) -> Neighbours:
    """Find near-duplicates and outliers by each image's nearest other, on embeddings less their mean.

    Block by block: memory `BLOCK` * `NEIGHBOURS_MOST` * 4 bytes.
    """
    count = len(features)
    rows = np.unique(np.linspace(0, max(0, count - 1), min(count, NEIGHBOURS_MOST)).astype(np.int64))
    if len(rows) < 2:
        return Neighbours((), (), count, 0)
    chosen = features[rows] - features[rows].mean(axis=0)  # what all images share says nothing about any two
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    best = np.empty(len(rows), np.float32)
    other = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), BLOCK):
        cosines = chosen[start : start + BLOCK] @ chosen.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        other[start : start + BLOCK] = cosines.argmax(axis=1)
        best[start : start + BLOCK] = cosines[own, other[start : start + BLOCK]]
    pairs: dict[tuple[int, int], float] = {}
    for place in np.argsort(-best, kind="stable"):
        if best[place] < DUPLICATE_COSINE:
            break
        pairs.setdefault((int(min(place, other[place])), int(max(place, other[place]))), float(best[place]))
    alike = tuple((int(rows[one]), int(rows[two]), value) for (one, two), value in list(pairs.items())[:PAIRS])
    outliers = tuple((int(rows[place]), float(best[place])) for place in np.argsort(best, kind="stable")[:SUREST])
    return Neighbours(alike, outliers, len(rows), len(pairs))


def preview_page(project: ProjectData, tower: TextTower) -> tuple[str, list[str]]:
    """Return the page of a project, which needs no network, and its findings as lines for the console.

    Raises:
        CcdError: the stages text and clip_global have not run, or an image is missing or damaged.
    """
    for stage, name in (("index", "images.parquet"), ("text", "text.h5"), ("clip_global", "clip_global.h5")):
        if not (project.folder / name).is_file():
            raise CcdError(f"{project.folder / name}: No such file; run: dvc repro text clip_global  (stage {stage})")
    index = project.index()
    text = project.text()
    probs = project.clip_probs()
    seen = look(text.classes, probs, project.features(), text.values, tower.embed(INVENTED_WORDS), text.logit_scale)
    pictures = _Pictures(project)
    environment = template_environment(TEMPLATES)
    environment.loader = FileSystemLoader([TEMPLATES, report_page.TEMPLATES])
    page = environment.get_template("preview.html").render(
        name=project.name,
        look=seen,
        texts=dict(zip(text.classes, text.texts, strict=True)),
        templates=text.templates,
        teacher=text.attributes.get("teacher", ""),
        photo=pictures.uri,
        images=len(index),
        ids=index.ids,
        never=seen.never,
        unknown=seen.unknown,
        invented=INVENTED_WORDS,
        second=SECOND_LEAST,
        duplicate=DUPLICATE_COSINE,
    )
    return page, _lines(seen)


def _lines(seen: Look) -> list[str]:
    lines = [f"{len(seen.classes)} classes"]
    unknown = [each.name for _, each in seen.unknown]
    lines += [f"CLIP may not know: {', '.join(unknown)}"] if unknown else []
    lines += [f"the first of no image: {', '.join(seen.never)}"] if seen.never else []
    lines += [f"most confused: {each.first} and {each.second}, {each.images:,} images" for each in seen.confused[:3]]
    lines += [f"{seen.neighbours.pairs:,} pairs of near-duplicates"] if seen.neighbours.pairs else []
    return lines


class _Pictures:
    """Thumbnails as ``data:`` URIs, each image once; None once the page's budget of bytes is spent."""

    def __init__(self, project: ProjectData) -> None:
        self._index = project.index()
        self._thumbs = Thumbnails(project.root, follow_links=project.follow_links, cache=project.cache)
        self._left_bytes = PHOTO_BUDGET_BYTES

    def uri(self, row: Any) -> str | None:
        if self._left_bytes <= 0:
            return None
        data = self._thumbs.thumbnail(self._index, int(row))
        text = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        self._left_bytes -= len(text)
        return text
