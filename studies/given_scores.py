"""A strong teacher's given scores of photos: the file, the split of the photos, and labels by the method's functions.

The file is a .npz with ``ids`` (N), ``classes`` (C), ``global_logits`` (N, C), whose softmax is p of the whole image,
and ``tile_max_probs`` (N, C), the largest probability over the image's tiles. Further arrays, labels too, are not read.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts.background_file import BackgroundImages
from ccd.artifacts.image_index import ImageIndex, Names
from ccd.errors import CcdError
from ccd.labels.background import find_background_images
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.debias import (
    LocalViews,
    WholeImages,
    aggregate,
    nobody_decided,
    pseudo_labels,
    sharpening,
    whole_image_labels,
)
from ccd.labels.scores import softmax
from ccd.params.file import load
from ccd.params.sections import AggregateParams, BiasParams, GlobalLabelsParams


@dataclass(frozen=True)
class GivenScores:
    """Scores of N images and C classes: ``probs`` (N, C) float64, rows add up to 1; ``tile_probs`` (N, C) float64."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: np.ndarray
    tile_probs: np.ndarray

    def of(self, ids: Sequence[str]) -> GivenScores:
        """Return the scores of the images ``ids``, all of them known, in that order."""
        row_of = {name: row for row, name in enumerate(self.ids)}
        rows = [row_of[name] for name in ids]
        return GivenScores(tuple(ids), self.classes, self.probs[rows], self.tile_probs[rows])


def read_scores(path: Path, classes: Sequence[str] | None = None) -> GivenScores:
    """Read a file of scores.

    Args:
        classes: the columns wanted, in order; None: as in the file.

    Raises:
        CcdError: the file is missing or no such file, or its classes are not ``classes``.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, names, logits, tiles = (file[name] for name in ("ids", "classes", "global_logits", "tile_max_probs"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = "No such file" if isinstance(error, FileNotFoundError) else f"no file of scores ({error})"
        raise CcdError(f"{path}: {reason}; state another as given.scores of the study, or leave it empty") from None
    shape = (len(ids), len(names))
    if logits.shape != shape or tiles.shape != shape or not (np.isfinite(logits).all() and np.isfinite(tiles).all()):
        raise CcdError(
            f"{path}: global_logits and tile_max_probs are no finite numbers of shape {shape}; make it again"
        )
    columns = list(range(len(names)))
    if classes is not None:
        if sorted(names.tolist()) != sorted(classes):
            raise CcdError(f"{path}: its {len(names)} classes are not the {len(classes)} of the data set; take its own")
        columns = [names.tolist().index(name) for name in classes]
    return GivenScores(
        tuple(ids.tolist()),
        tuple(names[columns].tolist()),
        softmax(logits.astype(np.float64))[:, columns],
        tiles.astype(np.float64)[:, columns],
    )


def held_out(ids: Sequence[str], percent: int) -> np.ndarray:
    """Tell which images no student sees, (N,) bool: the md5 of the id, as a number, modulo 100 is below ``percent``."""
    digests = (hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in ids)
    return np.asarray([int(digest, 16) % 100 < percent for digest in digests], bool)


def split_again(index: ImageIndex, scored: Sequence[str], percent: int) -> tuple[ImageIndex, frozenset[str]]:
    """Deal the scored training images into training images and held-out ones, which become test images.

    Images of the test split stay; training images without scores are left out.

    Returns:
        The index, and the ids of the held-out images.

    Raises:
        CcdError: one of the two parts is empty.
    """
    known = frozenset(scored)
    has_scores = np.asarray([name in known for name in index.ids], bool)
    out = held_out(list(index.ids), percent) & index.is_train & has_scores
    is_train = index.is_train & has_scores & ~out
    if not (out.any() and is_train.any()):
        raise CcdError(
            f"given scores: {(index.is_train & has_scores).sum()} of {index.is_train.sum()} training images of the data"
            " set have scores, too few for two parts; set dataset.root and index.train_split to the scored photos"
        )
    rows = np.flatnonzero(is_train | out | ~index.is_train)
    dealt = ImageIndex(
        index.ids, index.paths, is_train, index.sizes_px, index.file_bytes, index.digests, index.skipped
    ).take(rows)
    return dealt, frozenset(Names(index.ids).take(np.flatnonzero(out)))


@dataclass(frozen=True)
class Recipe:
    """The sections of ``params.yaml`` that make labels of scores."""

    bias: BiasParams
    global_labels: GlobalLabelsParams
    aggregate: AggregateParams


def load_recipe(params: Path) -> Recipe:
    """Read the sections."""
    return Recipe(load(BiasParams, params), load(GlobalLabelsParams, params), load(AggregateParams, params))


def bias_of(scores: GivenScores, params: BiasParams) -> np.ndarray:
    """Return b_c, (C,) float64, as stage bias estimates it; 1 where it is not enabled."""
    if not params.enabled:
        return np.ones(len(scores.classes))
    return class_bias(top1_of(scores.probs), scores.classes, params.max_entropy_nats, params.shrinkage).values


@dataclass(frozen=True)
class GivenLabels:
    """Labels of N images: the columns of ``global_labels.parquet`` and of ``pseudo_labels.parquet``, (N, C) each.

    ``background``: the images that ``global_labels.none_rule`` found to show no class.
    """

    whole_image: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    background: BackgroundImages


def labels_of(scores: GivenScores, bias: np.ndarray, recipe: Recipe) -> GivenLabels:
    """Make the labels of the scored images as stages global_labels and aggregate do; tiles are the local views."""
    rule = recipe.global_labels
    judged = find_background_images(rule.none_rule, rule.none_threshold, rule.none_weight, scores.probs, None)
    background = BackgroundImages(scores.ids, *judged, rule.none_rule)
    weights = background.weights
    first = whole_image_labels(scores.probs, bias, rule.floor, weights)
    tiles = LocalViews(scores.tile_probs, np.arange(len(scores.ids)))  # one row an image: its best tiles
    mix = recipe.aggregate
    images = WholeImages(scores.probs, first["label"], weights)
    mixed = pseudo_labels(images, tiles, bias, rule.floor, mix.alpha)["label"]
    sharpen = sharpening(mix.sharpen_width, mix.sharpen_at, [mixed])
    columns = pseudo_labels(images, tiles, bias, rule.floor, mix.alpha, sharpen)
    shape = scores.probs.shape
    columns |= {"box_id": np.full(shape, -1, np.int64)} | nobody_decided(shape)
    return GivenLabels(first, columns, background)


def untrained(scores: GivenScores, alpha: float) -> dict[str, np.ndarray]:
    """Return the teacher's own rankings, (N, C) each: ``zero_shot`` p, and ``mixed`` = alpha p + (1 - alpha) tile."""
    return {"zero_shot": scores.probs, "mixed": aggregate(scores.probs, scores.tile_probs, alpha)}
