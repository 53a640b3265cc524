"""The local views that a student asks for, image by image (method section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ccd.artifacts.boxes_file import BoxTable
from ccd.artifacts.image_index import ImageIndex, Names
from ccd.images.batches import ImageFiles, image_batches
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import Hardware, end_other_ranks, merged, share
from ccd.student.inference import predict, probabilities
from ccd.student.model import Student
from ccd.views.boxes import Boxes, cam_boxes, tiles as tiles_of, view_count, view_threshold
from ccd.views.overlap import unshared_views


class RunningThreshold:
    """A lower bound of the probability from which a class asks for a view (`ccd.views.boxes.view_threshold`).

    The threshold is at least the ``wanted``-th largest of all probabilities, and that is at least the ``wanted``-th
    largest of those seen so far. Memory: 1.25 x ``wanted`` float32 and what is added at once; the work for every
    probability is bounded, whatever their number.
    """

    def __init__(self, wanted: int, tau: float | None = None) -> None:
        """``tau``: a threshold that is given; the bound is that from the start."""
        self.value = 0.0 if tau is None else tau
        self._fixed = tau is not None
        self._wanted = wanted
        self._count = 0
        # Filled in place: an array that grew by a few with every batch would leave a hole in memory behind every time.
        self._held = np.empty(wanted + max(wanted // 4, 1), np.float32)

    def add(self, probs: np.ndarray) -> bool:
        """Take in probabilities, of any shape, float32 in [0, 1]; whether ``value`` has risen."""
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
class Ask:
    """Which classes ask for a view: those with a probability of at least ``tau`` or, if that is None, the most probable
    ones of all images, ``views_per_image`` on average."""

    tau: float | None
    views_per_image: float


# A box: the image's row in the index, the class (-1: none) and its probability, the map's peak, the corners.
_VIEW = np.dtype(
    [("row", np.int64), ("class", np.int64), ("prob", np.float32), ("peak", np.float32), ("box_px", np.float32, 4)]
)


class _Views:
    """The boxes found so far, in one array that doubles: small ones of every batch would leave holes in memory."""

    def __init__(self) -> None:
        self._held = np.empty(1024, _VIEW)
        self._count = 0

    @property
    def found(self) -> np.ndarray:
        """The boxes (B,), of dtype `_VIEW`."""
        return self._held[: self._count]

    def add(self, fresh: np.ndarray) -> None:
        """Take in boxes (b,), of dtype `_VIEW`."""
        end = self._count + len(fresh)
        if end > len(self._held):
            self._held = np.concatenate([self.found, np.empty(max(end, self._count), _VIEW)])
        self._held[self._count : end] = fresh
        self._count = end

    def drop_below(self, value: float) -> None:
        """Leave out the less probable."""
        kept = self.found[self.found["prob"] >= value]
        self._held[: len(kept)] = kept
        self._count = len(kept)


def propose_views(
    student: Student,
    files: ImageFiles,
    index: ImageIndex,
    classes: tuple[str, ...],
    ask: Ask,
    size_px: int,
    hardware: Hardware,
    log: StageLog,
    how: Mapping[str, Any],
    shared_iou: float | None = None,
    tiles: int = 0,
) -> BoxTable:
    """The CAM boxes of every class that asks for a view, image by image; ``how`` goes to `cam_boxes`.

    One pass: the threshold is known only at its end, so boxes are kept of every class that the images so far leave in
    the running. Ranks share the pass, and end after it but for the first.

    Args:
        shared_iou: merge views of several classes from this IoU on, see `unshared_views`; None: all stay.
        tiles: add so many by so many tiles of every image, behind the boxes that were asked for.

    Raises:
        CcdError: an image cannot be read, or the student's probabilities or maps of it are not finite.
    """
    wanted = view_count(len(index), len(classes), ask.views_per_image)
    probs = np.empty((len(index), len(classes)), np.float32)
    running = RunningThreshold(wanted, ask.tau)
    views = _Views()
    mine = share(np.arange(len(index)), hardware.batch_size)
    batches = image_batches(files, mine, size_px, hardware.batch_size, hardware.workers)

    def boxed() -> Iterator[tuple[np.ndarray, np.ndarray, Boxes]]:
        here = RunningThreshold(wanted, ask.tau)  # what a rank has seen is at most as much as all have
        for rows_, logits, cams in predict(student, batches, hardware.device):
            rows = rows_.numpy()
            found = probabilities(logits, rows_, files.paths, "warmup")
            here.add(found)
            asked = torch.from_numpy(found >= here.value).to(cams.device)
            sizes_px = torch.from_numpy(index.sizes_px[rows])
            names = [index.ids[row] for row in rows]
            yield rows, found, cam_boxes(cams, asked, sizes_px, size_px, names=names, **how)

    for rows, found, boxes in log.batches(merged(boxed()), len(index), "img"):
        probs[rows] = found
        scores = found[boxes.rows, boxes.classes]
        views.add(_views(rows[boxes.rows], boxes.classes, scores, boxes.peaks, boxes.boxes_px))
        if running.add(found):
            views.drop_below(running.value)
    end_other_ranks()
    tau = view_threshold(torch.from_numpy(probs), ask.views_per_image) if ask.tau is None else ask.tau
    views.drop_below(tau)
    kept = views.found
    if shared_iou is not None:
        kept = kept[unshared_views(kept["row"], kept["class"], kept["prob"], kept["box_px"], shared_iou)]
    if tiles:
        kept = np.concatenate([kept, _unasked(tiles_of(index.sizes_px, tiles, how["min_side_px"]))])
        kept = kept[np.argsort(kept["row"], kind="stable")]
    names = (*classes, "")
    return BoxTable(
        Names(index.ids).take(kept["row"]),
        [names[place] for place in kept["class"]],
        kept["prob"],
        kept["peak"],
        kept["box_px"],
        {"tau": repr(tau)},
    )


def _views(
    rows: np.ndarray, classes: np.ndarray | int, probs: np.ndarray | float, peaks: np.ndarray | float, boxes: np.ndarray
) -> np.ndarray:
    """Boxes (B, 4) and what belongs to them, as one array of `_VIEW` (B,)."""
    views = np.empty(len(rows), _VIEW)
    views["row"] = rows
    views["class"] = classes
    views["prob"] = probs
    views["peak"] = peaks
    views["box_px"] = boxes
    return views


def _unasked(boxes_px: np.ndarray) -> np.ndarray:
    """Views (N, T, 4) of no class, and so of no probability and no peak."""
    images, each = boxes_px.shape[:2]
    return _views(np.repeat(np.arange(images), each), -1, np.nan, np.nan, boxes_px.reshape(-1, 4))
