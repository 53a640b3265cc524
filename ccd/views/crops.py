"""Cut local views from images, at the shapes that the teacher takes (method section 6).

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ccd.errors import CcdError
from ccd.images.batches import ImageFiles, load_in_order
from ccd.images.decode import channels_first, squash
from ccd.runtime.store import content_key

CropSource = Literal["original", "resized"]


def side_lengths(longer_px: int, stride_px: int, count: int | None = None) -> np.ndarray:
    """Return the lengths in px that the sides of views may have, the shortest first: multiples of the stride.

    With n multiples up to ``longer_px`` and ``count`` k below n, these are k of them, evenly spread from the first to
    the last: 1 + j (n - 1) / (k - 1) strides for j = 0 .. k - 1, rounded, halves up; the last alone for k = 1. Else
    they are all n.
    """
    last = longer_px // stride_px
    if count == 1:
        return np.array([last * stride_px])
    gaps = last - 1 if count is None else min(count, last) - 1
    lengths: np.ndarray = (1 + (2 * np.arange(gaps + 1) * (last - 1) + gaps) // max(2 * gaps, 1)) * stride_px
    return lengths


def target_sizes(boxes_px: np.ndarray, longer_px: int, stride_px: int, shorter_sides: int | None = None) -> np.ndarray:
    """Return the shape of each view: longer side ``longer_px``, aspect kept, sides rounded to `side_lengths`.

    Each side takes the nearest length, halves go up. So there are at most 2 k - 1 shapes of k lengths.

    Args:
        boxes_px: (B, 4) x0, y0, x1, y1, in the pixels of the picture they are cut from; for views of the squashed
            image these are :func:`squashed_boxes`.
        shorter_sides: the number of lengths; None: every multiple of the stride.

    Returns:
        (B, 2) int64 height, width.

    Raises:
        CcdError: a box without area or not finite, or ``longer_px`` under one stride.
    """
    if longer_px < stride_px:
        raise CcdError(
            f"local views of {longer_px} px are smaller than the teacher's stride, {stride_px} px: enlarge them"
        )
    corners = np.asarray(boxes_px, np.float64).reshape(-1, 4)
    sides_px = (corners[:, 2:] - corners[:, :2])[:, ::-1]
    bad = np.flatnonzero(~(np.isfinite(sides_px) & (sides_px > 0)).all(axis=1))
    if len(bad):
        raise CcdError(f"box {bad[0]} has no area: x0, y0, x1, y1 = {corners[bad[0]].tolist()}")
    scaled_px = sides_px * (longer_px / sides_px.max(axis=1, keepdims=True))
    lengths = side_lengths(longer_px, stride_px, shorter_sides)
    middles = (lengths[:-1] + lengths[1:]) / (2 * stride_px)
    sizes: np.ndarray = lengths[np.searchsorted(middles, scaled_px / stride_px, side="right")]
    return sizes


def squashed_boxes(boxes_px: np.ndarray, image_sizes_px: np.ndarray, resized_px: int) -> np.ndarray:
    """Scale boxes (B, 4) on images of sizes (B, 2) height, width to the images squashed to a square.

    Returns (B, 4) float64; the square's side is ``resized_px``.
    """
    heights_px, widths_px = np.asarray(image_sizes_px, np.float64).T
    scale = resized_px / np.stack([widths_px, heights_px, widths_px, heights_px], axis=1)
    return np.asarray(boxes_px, np.float64) * scale


@dataclass(frozen=True)
class CropPlan:
    """How B views are cut from images.

    ``ids`` (B,) int64: what each view is called in the batches. ``image_rows`` (B,): the file that it lies on, in any
    order. ``boxes_px`` (B, 4) x0, y0, x1, y1 in pixels of the original image. ``shapes_px`` (B, 2) height and width of
    each view, see `target_sizes`. ``squashed_px``: cut from the image squashed to a square of that side (published
    code); None: from the original.
    """

    ids: np.ndarray
    image_rows: np.ndarray
    boxes_px: np.ndarray
    shapes_px: np.ndarray
    squashed_px: int | None = None

    def take(self, rows: np.ndarray) -> CropPlan:
        """Return the plan of the views at ``rows`` (m,), in that order."""
        return CropPlan(
            self.ids[rows], self.image_rows[rows], self.boxes_px[rows], self.shapes_px[rows], self.squashed_px
        )


def plan_crops(
    image_rows: np.ndarray,
    boxes_px: np.ndarray,
    image_sizes_px: np.ndarray,
    *,
    longer_px: int,
    stride_px: int,
    source: CropSource,
    resized_px: int,
    shorter_sides: int | None = None,
) -> CropPlan:
    """Plan views at the shapes of `target_sizes`; their ids are 0..B - 1.

    Args:
        image_rows: (B,) the image of each view.
        boxes_px: (B, 4) x0, y0, x1, y1 in pixels of the original image.
        image_sizes_px: (N, 2) height and width of every image.
        source: cut from the ``original`` image, or from it ``resized`` to a square of ``resized_px`` (published code).
        shorter_sides: see `target_sizes`.

    Raises:
        CcdError: see `target_sizes`.
    """
    squashed_px = resized_px if source == "resized" else None
    cut_px = boxes_px if squashed_px is None else squashed_boxes(boxes_px, image_sizes_px[image_rows], squashed_px)
    shapes_px = target_sizes(cut_px, longer_px, stride_px, shorter_sides)
    return CropPlan(np.arange(len(boxes_px)), image_rows, boxes_px, shapes_px, squashed_px)


def crop_batches(
    files: ImageFiles, plan: CropPlan, max_batch: int, workers: int, *, pin_memory: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids of views (b,) int64, pixels (b, 3, h, w) uint8), b <= ``max_batch``, one shape per batch.

    Each image is decoded once and every view is cut from that decode. Views wait in one bucket per shape, so that fewer
    than ``max_batch`` views of each shape are held at a time. Every view comes exactly once; the batches are the same
    for every number of ``workers``. ``pin_memory``: the pixels lie in pinned memory, which CUDA copies in the
    background.

    Raises:
        CcdError: an image cannot be read (the error names the file), or a worker process died.
    """
    order = np.argsort(plan.image_rows, kind="stable")
    starts = np.flatnonzero(np.diff(plan.image_rows[order], prepend=-1))
    views = _ViewsOfImage(files, plan, np.split(order, starts[1:]))
    unseen = Counter((int(h), int(w)) for h, w in plan.shapes_px)
    buckets: dict[tuple[int, int], _Bucket] = {}
    for rows, flat in load_in_order(views, len(starts), workers, files_of=views.paths):
        shapes = [(int(h), int(w)) for h, w in plan.shapes_px[rows.numpy()]]
        pieces = torch.split(flat, [3 * h * w for h, w in shapes])
        for view_id, shape, piece in zip(plan.ids[rows.numpy()].tolist(), shapes, pieces, strict=True):
            if shape not in buckets:
                size = min(max_batch, unseen[shape])
                unseen[shape] -= size
                buckets[shape] = _Bucket(torch.empty((size, 3, *shape), dtype=torch.uint8, pin_memory=pin_memory))
            buckets[shape].add(view_id, piece)
            if len(buckets[shape].ids) == max_batch:
                yield buckets.pop(shape).batch()
    for bucket in buckets.values():
        yield bucket.batch()


@dataclass(frozen=True)
class _Bucket:
    """Views of one shape that wait for their batch, each copied to its place in it.

    A view of the loader's tensor would keep all of its shared memory alive while the bucket fills.
    """

    pixels: Tensor
    ids: list[int] = field(default_factory=list)

    def add(self, view_id: int, pixels: Tensor) -> None:
        """Put a view (3 * h * w,) behind the others."""
        self.pixels[len(self.ids)].view(-1).copy_(pixels)
        self.ids.append(view_id)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the ids and the pixels."""
        return torch.tensor(self.ids), self.pixels


def view_keys(digests: Sequence[str], image_rows: np.ndarray, boxes_px: np.ndarray) -> list[bytes]:
    """Return a key for each of B views, from its image's content hash (``digests``, hexadecimal) and its box (B, 4)."""
    corners = np.ascontiguousarray(boxes_px, "<f4")
    return [
        content_key(bytes.fromhex(digests[row]), box.tobytes()) for row, box in zip(image_rows, corners, strict=True)
    ]


@dataclass(frozen=True)
class _ViewsOfImage:
    """All views of one image as one flat tensor: one piece of shared memory instead of one per view."""

    files: ImageFiles
    plan: CropPlan
    groups: list[np.ndarray]

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        plan = self.plan
        rows = self.groups[index]
        image = self.files.read(int(plan.image_rows[rows[0]]))
        boxes_px = plan.boxes_px[rows]
        if plan.squashed_px is not None:
            sizes_px = np.tile([image.height, image.width], (len(rows), 1))
            boxes_px = squashed_boxes(boxes_px, sizes_px, plan.squashed_px)
            pixels = squash(image, plan.squashed_px, plan.squashed_px)
            image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        try:
            views = [
                crop_resized(image, (x0, y0, x1, y1), int(h), int(w)).ravel()
                for (x0, y0, x1, y1), (h, w) in zip(boxes_px.tolist(), plan.shapes_px[rows], strict=True)
            ]
        except CcdError as error:
            raise CcdError(f"{self.paths(index)[0]}: {error}") from None
        return torch.from_numpy(rows), torch.from_numpy(np.concatenate(views))

    def paths(self, index: int) -> list[Path]:
        """Return the file that the views are cut from."""
        return [self.files.paths[int(self.plan.image_rows[self.groups[index][0]])]]


def crop_resized(
    image: Image.Image, box_px: tuple[float, float, float, float], height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """Cut a box out of an RGB image and resize it in one step, with sub-pixel accuracy.

    Near the box's edge the filter also reads pixels just outside it.

    Args:
        box_px: (x0, y0, x1, y1) in pixels of ``image``; what lies outside is clipped.

    Returns:
        (3, ``height_px``, ``width_px``) uint8, antialiased bicubic.

    Raises:
        CcdError: nothing of the box lies inside the image, or a coordinate is not finite.
    """
    x0_px, y0_px, x1_px, y1_px = box_px
    box = (max(0.0, x0_px), max(0.0, y0_px), min(float(image.width), x1_px), min(float(image.height), y1_px))
    if not np.isfinite(box_px).all() or box[0] >= box[2] or box[1] >= box[3]:
        raise CcdError(f"box {box_px} has no area inside the image of {image.width} x {image.height} pixels")
    return channels_first(image.resize((width_px, height_px), Image.Resampling.BICUBIC, box=box))
