"""Propose local views from a student's class activation maps (method section 5).

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ccd.artifacts.boxes_file import BoxTable
from ccd.artifacts.image_index import ImageIndex, Names
from ccd.images.batches import ImageFiles, image_batches
from ccd.runtime.hardware import Hardware, Precision, merged, one_ahead, read_later, share
from ccd.student.inference import ImageProgress, finite_probs, predict, silent
from ccd.student.model import Student
from ccd.views.boxes import Boxes, at_least, start_boxes, view_count, view_threshold
from ccd.views.overlap import unshared_views


class RunningThreshold:
    """A lower bound of the probability from which a class asks for a view (`ccd.views.boxes.view_threshold`).

    The threshold is at least the ``wanted``-th largest of all probabilities, and that is at least the ``wanted``-th
    largest of those seen so far. Memory: 1.25 x ``wanted`` float32 and what is added at once; the work for every
    probability is bounded, whatever their number.
    """

    def __init__(self, wanted: int, tau: float | None = None) -> None:
        """``tau``: the threshold itself, where it is known; the bound is that from the start."""
        self.value = 0.0 if tau is None else tau
        self._fixed = tau is not None
        self._wanted = wanted
        self._count = 0
        # Filled in place: an array that grows with every batch would fragment memory.
        self._held = np.empty(wanted + max(wanted // 4, 1), np.float32)

    def add(self, probs: np.ndarray) -> bool:
        """Add probabilities, of any shape, float32 in [0, 1]; return whether ``value`` has risen."""
        if self._fixed:
            return False
        fresh = probs[probs >= self.value]
        end = self._count + len(fresh)
        if end < len(self._held):
            self._held[self._count : end] = fresh
            self._count = end
            return False
        seen = np.concatenate([self._held[: self._count], fresh])
        self._held[: self._wanted] = np.partition(seen, -self._wanted)[-self._wanted :]
        self._count = self._wanted
        before = self.value
        self.value = float(self._held[0])
        return self.value > before


@dataclass(frozen=True)
class ViewQuota:
    """Which classes get a view: those with a probability of at least ``tau``; if it is None, the most probable ones.

    These are ``views_per_image`` on average over all images.
    """

    tau: float | None
    views_per_image: float


# A box: the image's row in the index, the class (-1: none) and its probability, the map's peak, the corners.
_VIEW = np.dtype(
    [("row", np.int64), ("class", np.int64), ("prob", np.float32), ("peak", np.float32), ("box_px", np.float32, 4)]
)


class _Views:
    """The boxes so far, in one array that doubles: small arrays of every batch would fragment memory."""

    def __init__(self) -> None:
        self._held = np.empty(1024, _VIEW)
        self._count = 0

    @property
    def boxes(self) -> np.ndarray:
        """The boxes (B,), of dtype `_VIEW`."""
        return self._held[: self._count]

    def add(self, fresh: np.ndarray) -> None:
        """Add boxes (b,), of dtype `_VIEW`."""
        end = self._count + len(fresh)
        if end > len(self._held):
            self._held = np.concatenate([self.boxes, np.empty(max(end, self._count), _VIEW)])
        self._held[self._count : end] = fresh
        self._count = end

    def drop_below(self, value: float) -> None:
        """Drop boxes that are less probable than ``value``."""
        kept = self.boxes[self.boxes["prob"] >= value]
        self._held[: len(kept)] = kept
        self._count = len(kept)


@dataclass(frozen=True)
class ViewOptions:
    """Options of proposing views.

    ``quota``: which classes get a view. ``size_px``: side of the square that the student sees. ``boxes``: further
    arguments of `ccd.views.boxes.start_boxes`. ``shared_iou``: merge views of several classes from this IoU on, see
    `unshared_views`; None: all stay. ``tiles``: add so many by so many tiles of every image, behind its other views.
    ``kind``: ``both`` and ``dense`` add regions, behind the tiles; ``dense`` asks no maps. ``precision``: of the pass.
    """

    quota: ViewQuota
    size_px: int
    boxes: Mapping[str, Any]
    shared_iou: float | None = None
    tiles: int = 0
    kind: Literal["cam", "dense", "both"] = "cam"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Candidates:
    """Result of one pass over N images: ``probs`` (N, C) float32 and the boxes of every class that may get a view."""

    probs: np.ndarray
    boxes: np.ndarray


def find_candidates(
    student: Student,
    files: ImageFiles,
    index: ImageIndex,
    options: ViewOptions,
    hardware: Hardware,
    progress: ImageProgress = silent,
) -> Candidates:
    """Box the maps of every class that may get a view, in one pass that the ranks share; rank 0 has the result.

    The quota's threshold is known only at the end of the pass, so boxes are kept of every class that the images seen so
    far leave in the running.

    Raises:
        CcdError: an image cannot be read, or the student's probabilities or maps of it are not finite.
    """
    classes = student.head.out_channels
    quota = options.quota
    wanted = view_count(len(index), classes, quota.views_per_image)
    probs = np.empty((len(index), classes), np.float32)
    running = RunningThreshold(wanted, quota.tau)
    views = _Views()
    batches = _boxed_batches(student, files, index, options, hardware, RunningThreshold(wanted, quota.tau))
    for rows, batch_probs, boxes in progress(merged(batches), len(index)):
        probs[rows] = batch_probs
        scores = batch_probs[boxes.rows, boxes.classes]
        views.add(_views(rows[boxes.rows], boxes.classes, scores, boxes.peaks, boxes.boxes_px))
        if running.add(batch_probs):
            views.drop_below(running.value)
    return Candidates(probs, views.boxes)


def _boxed_batches(
    student: Student,
    files: ImageFiles,
    index: ImageIndex,
    options: ViewOptions,
    hardware: Hardware,
    running: RunningThreshold,
) -> Iterator[tuple[np.ndarray, np.ndarray, Boxes]]:
    """Yield, for this rank's images, rows (b,), probabilities (b, C) and the boxes of maps that may get a view.

    A batch's probabilities are read when the next batch has been started, and its boxes after one more, so that a GPU
    has work all the time.
    """
    own_rows = share(np.arange(len(index)), hardware.batch_size)
    pin = hardware.device.type == "cuda"
    batches = image_batches(files, own_rows, options.size_px, hardware.batch_size, hardware.workers, pin_memory=pin)
    passes = (
        (rows.numpy(), cams, read_later(logits.sigmoid()))
        for rows, logits, cams in predict(student, batches, hardware.device, options.precision)
    )

    def started() -> Iterator[tuple[np.ndarray, np.ndarray, Callable[[], Boxes]]]:
        for rows, cams, read in one_ahead(passes, hardware.device):
            probs = finite_probs(read().numpy(), rows, files.paths, "warmup")
            running.add(probs)  # what a rank has seen is at most as much as all have
            requested = torch.from_numpy(probs >= running.value)
            sizes_px = torch.from_numpy(index.sizes_px[rows])
            names = [index.ids[row] for row in rows]
            yield rows, probs, start_boxes(cams, requested, sizes_px, options.size_px, names=names, **options.boxes)

    for rows, probs, boxes in one_ahead(started(), hardware.device):
        yield rows, probs, boxes()


def choose_views(
    candidates: Candidates | None,
    index: ImageIndex,
    classes: tuple[str, ...],
    options: ViewOptions,
    regions_px: np.ndarray | None = None,
) -> BoxTable:
    """Keep the candidates within the quota, merge shared views, and add tiles and regions; image by image.

    Args:
        candidates: of the maps; None for ``dense``.
        regions_px: (N, k, 4) boxes of every image's regions, without area behind its last one; None for ``cam``.

    Raises:
        CcdError: the probabilities are empty or not finite.
    """
    kept = np.empty(0, _VIEW)
    metadata = {}
    if candidates is not None:
        kept, metadata["tau"] = _within_quota(candidates, options)
        if options.precision != "fp32":
            metadata["precision"] = options.precision
    if options.tiles:
        tiles_px = tiles(index.sizes_px, options.tiles, options.boxes["min_side_px"])
        kept = np.concatenate([kept, _unrequested(tiles_px)])
    if regions_px is not None:
        metadata["views"] = options.kind
        kept = np.concatenate([kept, _unrequested(regions_px)[(regions_px[..., 2] > regions_px[..., 0]).ravel()]])
    kept = kept[np.argsort(kept["row"], kind="stable")]
    names = (*classes, "")
    return BoxTable(
        Names(index.ids).take(kept["row"]),
        [names[column] for column in kept["class"]],
        kept["prob"],
        kept["peak"],
        kept["box_px"],
        metadata,
    )


def _within_quota(candidates: Candidates, options: ViewOptions) -> tuple[np.ndarray, str]:
    """Return the candidates (B,) of dtype `_VIEW` within the quota, shared views merged, and the threshold's digits."""
    quota = options.quota
    tau = quota.tau
    if tau is None:
        tau = view_threshold(torch.from_numpy(candidates.probs), quota.views_per_image)
    kept = candidates.boxes[candidates.boxes["prob"] >= tau]
    if options.shared_iou is not None:
        kept = kept[unshared_views(kept["row"], kept["class"], kept["prob"], kept["box_px"], options.shared_iou)]
    return kept, repr(tau)


def _views(
    rows: np.ndarray, classes: np.ndarray | int, probs: np.ndarray | float, peaks: np.ndarray | float, boxes: np.ndarray
) -> np.ndarray:
    """Join boxes (B, 4) and their values to one array of `_VIEW` (B,)."""
    views = np.empty(len(rows), _VIEW)
    views["row"] = rows
    views["class"] = classes
    views["prob"] = probs
    views["peak"] = peaks
    views["box_px"] = boxes
    return views


def _unrequested(boxes_px: np.ndarray) -> np.ndarray:
    """Return tiles or regions (N, T, 4) as views of no class, with neither probability nor peak."""
    images, each = boxes_px.shape[:2]
    return _views(np.repeat(np.arange(images), each), -1, np.nan, np.nan, boxes_px.reshape(-1, 4))


def tiles(sizes_px: np.ndarray, count: int, min_side_px: float = 1.0) -> np.ndarray:
    """Return ``count`` x ``count`` equal tiles that cover each image, row by row.

    Args:
        sizes_px: (N, 2) height and width.
        min_side_px: shorter sides are widened to this, inside the image (`at_least`).

    Returns:
        (N, count**2, 4) float64 x0, y0, x1, y1 in pixels.
    """
    row, column = np.divmod(np.arange(count**2), count)
    shares = np.stack([column, row, column + 1, row + 1], axis=1) / count
    sides_px = np.asarray(sizes_px, np.float64)[:, None, [1, 0]]
    boxes_px = shares * np.tile(sides_px, 2)
    sides_px = np.broadcast_to(sides_px, (*boxes_px.shape[:2], 2)).reshape(-1, 2)
    return at_least(boxes_px.reshape(-1, 4), min_side_px, sides_px).reshape(boxes_px.shape)
