"""The local views that a student asks for, image by image (method section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ccd import ranks
from ccd.artifacts.boxes import BoxTable
from ccd.artifacts.image_index import ImageIndex
from ccd.artifacts.names import Names
from ccd.console import StageLog
from ccd.loading import ImageFiles, image_batches
from ccd.runtime import Hardware
from ccd.student.model import Student
from ccd.student.predict import predict
from ccd.student.score import probabilities
from ccd.views.boxes import Boxes, cam_boxes, view_count, view_threshold
from ccd.views.running import RunningThreshold
from ccd.views.shared import unshared_views
from ccd.views.tiles import tiles as tiles_of


@dataclass(frozen=True)
class Ask:
    """Which classes ask for a view: those with a probability of at least ``tau`` or, if that is None, the most probable
    ones of all images, ``views_per_image`` on average."""

    tau: float | None
    views_per_image: float


@dataclass(frozen=True)
class _Views:
    """B boxes: row in the index (B,), class (B,) and its probability (B,), the map's peak (B,), corners (B, 4)."""

    rows: np.ndarray
    classes: np.ndarray
    probs: np.ndarray
    peaks: np.ndarray
    boxes_px: np.ndarray

    def where(self, kept: np.ndarray) -> _Views:
        return _Views(*(part[kept] for part in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[_Views]) -> _Views:
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


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
    running, views = RunningThreshold(wanted, ask.tau), [_NONE]
    mine = ranks.share(np.arange(len(index)), hardware.batch_size)
    batches = image_batches(files, mine, size_px, hardware.batch_size, hardware.workers)

    def boxed() -> Iterator[tuple[np.ndarray, np.ndarray, Boxes]]:
        here = RunningThreshold(wanted, ask.tau)  # what a rank has seen is at most as much as all have
        for rows_, logits, cams in predict(student, batches, hardware.device):
            rows, found = rows_.numpy(), probabilities(logits, rows_, files.paths, "warmup")
            here.add(found)
            asked = torch.from_numpy(found >= here.value).to(cams.device)
            sizes_px, names = torch.from_numpy(index.sizes_px[rows]), [index.ids[row] for row in rows]
            yield rows, found, cam_boxes(cams, asked, sizes_px, size_px, names=names, **how)

    for rows, found, boxes in log.batches(ranks.merged(boxed()), len(index), "img"):
        probs[rows] = found
        views.append(
            _Views(rows[boxes.rows], boxes.classes, found[boxes.rows, boxes.classes], boxes.peaks, boxes.boxes_px)
        )
        if running.add(found):
            _drop_below(running.value, views)
    ranks.others_leave()
    tau = view_threshold(torch.from_numpy(probs), ask.views_per_image) if ask.tau is None else ask.tau
    _drop_below(tau, views)
    kept = _Views.joined(views)
    views.clear()
    if shared_iou is not None:
        kept = kept.where(unshared_views(kept.rows, kept.classes, kept.probs, kept.boxes_px, shared_iou))
    if tiles:
        kept = _Views.joined([kept, _unasked(tiles_of(index.sizes_px, tiles, how["min_side_px"]))])
        kept = kept.where(np.argsort(kept.rows, kind="stable"))
    names = (*classes, "")
    return BoxTable(
        Names(index.ids).take(kept.rows),
        [names[place] for place in kept.classes],
        kept.probs,
        kept.peaks,
        kept.boxes_px,
        {"tau": repr(tau)},
    )


def _drop_below(value: float, views: list[_Views]) -> None:
    """Leave out the less probable views, part by part in place: a second list would hold all of them twice."""
    for place, part in enumerate(views):
        views[place] = part.where(part.probs >= value)


def _unasked(boxes_px: np.ndarray) -> _Views:
    """Views (N, T, 4) of no class, -1, and so of no probability and no peak."""
    images, each = boxes_px.shape[:2]
    unknown = np.full(images * each, np.nan, np.float32)
    return _Views(
        np.repeat(np.arange(images), each),
        np.full(images * each, -1),
        unknown,
        unknown,
        boxes_px.reshape(-1, 4).astype(np.float32),
    )


_NONE = _Views(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.float32),
    np.empty(0, np.float32),
    np.empty((0, 4), np.float32),
)
