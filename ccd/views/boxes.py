"""Boxes of local views from class activation maps (method section 5).

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import read_later, to_device

# Upsampled float32 maps held at a time. 1 MB on a CPU: more is no faster, and pieces of varying sizes fragment memory;
# 64 MB on a GPU, where every piece costs a dozen kernels.
_PIXELS_AT_ONCE = 2**18
_PIXELS_AT_ONCE_GPU = 2**24


@dataclass(frozen=True)
class Boxes:
    """B boxes ordered by row, class, then peak (largest first).

    ``rows`` (B,) int64: image in the batch; ``classes`` (B,) int64; ``peaks`` (B,) float32: largest value of the
    upsampled map inside the box's component, not normalised; ``boxes_px`` (B, 4) float32: x0, y0, x1, y1 in pixels of
    the original image, where pixel (row, column) covers [column, column + 1) x [row, row + 1).
    """

    rows: np.ndarray
    classes: np.ndarray
    peaks: np.ndarray
    boxes_px: np.ndarray


def view_count(images: int, classes: int, views_per_image: float) -> int:
    """Return how many of ``images`` x ``classes`` get a view: ``views_per_image`` on average, at least one in all."""
    return min(max(1, round(views_per_image * images)), images * classes)


def view_threshold(probs: Tensor, views_per_image: float) -> float:
    """Return the probability tau for which ``probs >= tau`` gives ``views_per_image`` views per image on average.

    Args:
        probs: (N, C) float in [0, 1].
        views_per_image: wanted mean number of classes with a view per image, see `view_count`.

    Returns:
        A value of ``probs``. Where equal probabilities make the number impossible it is the nearest possible one
        (of two equally near the smaller, but never none); from C views per image on it is all.

    Raises:
        CcdError: ``probs`` is empty or not finite, or ``views_per_image`` is not positive.
    """
    if probs.numel() == 0 or not torch.isfinite(probs).all():
        raise CcdError("no threshold for the views: the student's probabilities are empty or not finite")
    if not views_per_image > 0:
        raise CcdError(f"views_per_image = {views_per_image} must be positive")
    images, classes = probs.shape
    wanted = view_count(images, classes, views_per_image)
    # numpy's: torch's kthvalue is not deterministic on a GPU, and on a CPU it holds eight more bytes a probability
    values = probs.cpu().numpy()
    tau = np.partition(values, -wanted, axis=None)[-wanted]
    above = int((values > tau).sum())
    at_least = int((values >= tau).sum())
    if above > 0 and wanted - above <= at_least - wanted:
        tau = values[values > tau].min()
    return float(tau)


def cam_boxes(cams: Tensor, requested: Tensor, sizes_px: Tensor, input_px: int, **options: Any) -> Boxes:
    """Box the peaks of the requested maps; see `start_boxes`, whose arguments these are.

    Raises:
        CcdError: a requested map is not finite; the images are named.
    """
    return start_boxes(cams, requested, sizes_px, input_px, **options)()


def start_boxes(
    cams: Tensor,
    requested: Tensor,
    sizes_px: Tensor,
    input_px: int,
    *,
    cam_threshold: float = 0.95,
    offset: float = 0.125,
    connected_components: bool = False,
    boxes_per_class: int = 1,
    min_side_px: float = 1.0,
    names: Sequence[str] | None = None,
) -> Callable[[], Boxes]:
    """Start boxing the peaks of the requested maps; a flat map (maximum = minimum) gives no box.

    A map is upsampled bilinearly to the input, min-max normalised, and the pixels above ``cam_threshold`` are boxed.

    Args:
        cams: (b, C, h, w) float.
        requested: (b, C) bool: the maps to box. On the CPU it costs no waiting for a GPU.
        sizes_px: (b, 2) height and width of the original images.
        input_px: side of the square the student saw.
        cam_threshold: in [0, 1).
        offset: share of the image's side by which a box is widened on each of its sides, before it is clipped.
        connected_components: False: one box around all pixels; True: one per 8-connected component, of which the
            ``boxes_per_class`` with the largest peaks are kept (of equal ones the upper, then the left).
        min_side_px: shorter sides are widened about their centre to this length in original pixels; a box that
            would leave the image by that is moved inside, and never exceeds the image.
        names: image of each row of the batch, for error messages.

    Returns:
        A function that waits for the device of ``cams``, but for no later work of it, and returns the boxes. It raises
        CcdError if a requested map is not finite, and names the images.
    """
    at = requested.nonzero().cpu()  # (M, 2), by row, then class
    read_finite, read_spans = map(read_later, _peaks(cams, at, input_px, cam_threshold, connected_components))

    def finish() -> Boxes:
        finite = read_finite()
        if not finite.all():
            bad = np.unique(at[~finite, 0].numpy())
            images = listed(names[row] if names is not None else f"row {row} of the batch" for row in bad)
            raise CcdError(f"class activation maps are NaN or infinite for: {images}; train the student again, in fp32")
        spans = Spans.of(read_spans().numpy())
        labels = label_components(spans) if connected_components else np.unique(spans.maps, return_inverse=True)[1]
        owners, peaks, boxes_px = _bound(spans, labels, limit=boxes_per_class)
        rows, classes = at.numpy()[owners].T
        sides_px = sizes_px.cpu().numpy().astype(np.float64)[rows][:, [1, 0, 1, 0]]  # (B, 4): w, h, w, h
        boxes_px = boxes_px * (sides_px / input_px) + offset * sides_px * [-1, -1, 1, 1]
        boxes_px = at_least(np.clip(boxes_px, 0, sides_px), min_side_px, sides_px[:, :2])
        return Boxes(rows, classes, peaks, boxes_px.astype(np.float32))

    return finish


def _peaks(cams: Tensor, at: Tensor, input_px: int, cam_threshold: float, components: bool) -> tuple[Tensor, Tensor]:
    """Find the pixels above the threshold in the upsampled, normalised maps ``at`` (M, 2) of ``cams``, on its device.

    Returns:
        Whether each map is finite, (M,) bool, and `Spans` as rows of a tensor: one a map, or with ``components`` one
        for each run of pixels.
    """
    at = to_device(at, cams.device)
    maps = cams[at[:, 0], at[:, 1]].float()  # (M, h, w)
    per_chunk = max(1, (_PIXELS_AT_ONCE_GPU if maps.is_cuda else _PIXELS_AT_ONCE) // input_px**2)
    spans = [maps.new_empty((0, 6), dtype=torch.float64)]
    for start in range(0, len(maps), per_chunk):
        chunk = maps[start : start + per_chunk]
        # judged before upsampling, whose rounding gives a constant map some relief
        flat = chunk.amax(dim=(1, 2), keepdim=True) == chunk.amin(dim=(1, 2), keepdim=True)
        large = F.interpolate(chunk[:, None], size=(input_px, input_px), mode="bilinear", align_corners=False)[:, 0]
        found = (_runs if components else _bounds)(large, flat, cam_threshold)
        found[:, 0] += start
        spans.append(found)
    return torch.isfinite(maps.flatten(1)).all(dim=1), torch.cat(spans)


def _bounds(large: Tensor, flat: Tensor, cam_threshold: float) -> Tensor:
    """Bound the pixels above the threshold of each upsampled map (m, S, S): rows (m, 6) of `Spans`, empty if none is.

    Normalising keeps the order of values, so a row or column has such a pixel if its largest one is one.
    """
    in_rows = large.amax(dim=2)  # (m, S)
    in_columns = large.amax(dim=1)
    high = in_rows.amax(dim=1, keepdim=True)
    low = large.amin(dim=(1, 2))[:, None]
    span = torch.where(flat[:, 0], torch.nan, high - low)  # (m, 1); nothing is above NaN
    ticks = torch.arange(large.shape[1], device=large.device)
    sides = []
    for largest in (in_columns, in_rows):
        above = (largest - low) / span > cam_threshold
        sides += [torch.where(above, ticks, len(ticks)).amin(dim=1), torch.where(above, ticks + 1, 0).amax(dim=1)]
    return _columns(torch.arange(len(large), device=large.device), *sides, high[:, 0])


def _runs(large: Tensor, flat: Tensor, cam_threshold: float) -> Tensor:
    """Find the runs of pixels above the threshold in upsampled maps (m, S, S): rows (R, 6) of `Spans`."""
    low = large.amin(dim=(1, 2), keepdim=True)
    high = large.amax(dim=(1, 2), keepdim=True)
    span = torch.where(flat, torch.nan, high - low)
    pixels = ((large - low).div_(span) > cam_threshold).flatten().nonzero()[:, 0]
    return runs_of_pixels(pixels, large.flatten()[pixels], (large.shape[1], large.shape[2]))


def runs_of_pixels(pixels: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Join set pixels into maximal horizontal runs.

    Args:
        pixels: (P,) int64, ascending flat indices into maps of (M, H, W).
        values: (P,) float32, their values, not NaN.
        shape: (H, W).

    Returns:
        (R, 6) float64, rows of `Spans`, by map, row and column.
    """
    height, width = shape
    is_first = pixels % width == 0
    is_first[1:] |= pixels[1:] - pixels[:-1] != 1
    is_first[:1] = True
    firsts = is_first.nonzero()[:, 0]
    lengths = torch.diff(firsts, append=firsts.new_full((1,), len(pixels)))
    peaks = values.new_full((len(firsts),), -torch.inf)
    peaks.scatter_reduce_(0, is_first.cumsum(0) - 1, values, "amax")
    starts = pixels[firsts]
    lines = starts // width
    columns = starts % width
    return _columns(lines // height, columns, columns + lengths, lines % height, lines % height + 1, peaks)


def _columns(*values: Tensor) -> Tensor:
    """Join columns (R,) for one copy to the CPU, as float64, which holds places of pixels and float32 exactly."""
    return torch.stack([column.double() for column in values], dim=1)


@dataclass(frozen=True)
class Spans:
    """R rectangles of pixels, one a map or one a maximal horizontal run, sorted by map, row and column.

    All (R,) int64 but ``peaks`` (R,) float32, the largest value; pixels are ``x0`` <= x < ``x1``, ``y0`` <= y < ``y1``.
    """

    maps: np.ndarray
    x0: np.ndarray
    x1: np.ndarray
    y0: np.ndarray
    y1: np.ndarray
    peaks: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Spans:
        """Read rows (R, 6) float64 of the fields; empty rectangles are left out."""
        kept = rows[rows[:, 2] > rows[:, 1]]
        maps, x0, x1, y0, y1 = kept[:, :5].astype(np.int64).T
        return cls(maps, x0, x1, y0, y1, kept[:, 5].astype(np.float32))


def _bound(spans: Spans, labels: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return map (B,), peak (B,) and tight box (B, 4) of each label, by map and descending peak, ``limit`` a map."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    if not len(starts):
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, 4))
    owners = spans.maps[order][starts]
    peaks = np.maximum.reduceat(spans.peaks[order], starts)
    x0 = np.minimum.reduceat(spans.x0[order], starts)
    y0 = np.minimum.reduceat(spans.y0[order], starts)
    x1 = np.maximum.reduceat(spans.x1[order], starts)
    y1 = np.maximum.reduceat(spans.y1[order], starts)
    boxes = np.stack([x0, y0, x1, y1], axis=1).astype(np.float64)
    ranked = np.lexsort((x0, y0, -peaks, owners))
    first_of_map = np.searchsorted(owners[ranked], owners[ranked], side="left")
    kept = ranked[np.arange(len(ranked)) - first_of_map < limit]
    return owners[kept], peaks[kept], boxes[kept]


def at_least(boxes_px: np.ndarray, min_side_px: float, sides_px: np.ndarray) -> np.ndarray:
    """Widen the short sides of boxes (B, 4) to ``min_side_px``, inside images of (B, 2) width and height."""
    low = boxes_px[:, :2]
    high = boxes_px[:, 2:]
    length = np.minimum(min_side_px, sides_px)
    moved = np.clip((low + high - length) / 2, 0, sides_px - length)
    short = high - low < length
    return np.concatenate([np.where(short, moved, low), np.where(short, moved + length, high)], axis=1)


def label_components(runs: Spans) -> np.ndarray:
    """Label runs, (R,) int64: one label per 8-connected component, from 0 in the order of their first runs."""
    upper, lower = _touching(runs)
    labels = np.arange(len(runs.maps))
    while not np.array_equal(labels[upper], labels[lower]):
        # both sides' roots take the smaller label, then every run follows its chain of labels to the end
        smaller = np.minimum(labels[upper], labels[lower])
        np.minimum.at(labels, labels[upper], smaller)
        np.minimum.at(labels, labels[lower], smaller)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
    return np.unique(labels, return_inverse=True)[1]


def _touching(runs: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of runs (indices) in neighbouring rows of a map that share a column or touch at a corner."""
    if not len(runs.maps):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    height = int(runs.y0.max()) + 2
    width = int(runs.x1.max()) + 2
    line = (runs.maps * height + runs.y0) * width  # a coordinate that ascends over all runs of all maps
    below = line + width
    # of the sorted, disjoint runs in the next row, those that touch are neighbours of each other
    first = np.searchsorted(line + runs.x1, below + runs.x0, side="left")
    stop = np.searchsorted(line + runs.x0, below + runs.x1, side="right")
    counts = np.maximum(stop - first, 0)
    upper = np.repeat(np.arange(len(line)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + offsets
