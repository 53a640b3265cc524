"""Boxes of local views from class activation maps (method section 5).

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError, listed

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


def cam_boxes(
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
) -> Boxes:
    """Box the peaks of the requested maps; a flat map (maximum = minimum) gives no box.

    A map is upsampled bilinearly to the input, min-max normalised, and the pixels above ``cam_threshold`` are boxed.

    Args:
        cams: (b, C, h, w) float.
        requested: (b, C) bool, on the device of ``cams``: the maps to box.
        sizes_px: (b, 2) height and width of the original images.
        input_px: side of the square the student saw.
        cam_threshold: in [0, 1).
        offset: share of the image's side by which a box is widened on each of its sides, before it is clipped.
        connected_components: False: one box around all pixels; True: one per 8-connected component, of which the
            ``boxes_per_class`` with the largest peaks are kept (of equal ones the upper, then the left).
        min_side_px: shorter sides are widened about their centre to this length in original pixels; a box that
            would leave the image by that is moved inside, and never exceeds the image.
        names: image of each row of the batch, for error messages.

    Raises:
        CcdError: a requested map is not finite; the images are named.
    """
    at = requested.nonzero()  # (M, 2), by row, then class
    maps = cams[at[:, 0], at[:, 1]].float()  # (M, h, w)
    finite = torch.isfinite(maps).all(dim=(1, 2)) if len(maps) else at.new_ones(0, dtype=torch.bool)
    if not finite.all():
        bad = np.unique(at[~finite, 0].cpu().numpy())
        images = listed(names[row] if names is not None else f"row {row} of the batch" for row in bad)
        raise CcdError(f"class activation maps are NaN or infinite for: {images}; train the student again, in fp32")
    runs = _peak_runs(maps, input_px, cam_threshold)
    labels = label_components(runs) if connected_components else np.unique(runs.maps, return_inverse=True)[1]
    owners, peaks, boxes_px = _bound(runs, labels, limit=boxes_per_class)
    rows, classes = at.cpu().numpy()[owners].T
    sides_px = sizes_px.cpu().numpy().astype(np.float64)[rows][:, [1, 0, 1, 0]]  # (B, 4): w, h, w, h
    boxes_px = boxes_px * (sides_px / input_px) + offset * sides_px * [-1, -1, 1, 1]
    boxes_px = at_least(np.clip(boxes_px, 0, sides_px), min_side_px, sides_px[:, :2])
    return Boxes(rows, classes, peaks, boxes_px.astype(np.float32))


def _peak_runs(maps: Tensor, input_px: int, cam_threshold: float) -> Runs:
    """Find the runs of pixels above the threshold in the upsampled, normalised maps (M, h, w)."""
    pixels = [np.empty(0, np.int64)]
    values = [np.empty(0, np.float32)]
    per_chunk = max(1, (_PIXELS_AT_ONCE_GPU if maps.is_cuda else _PIXELS_AT_ONCE) // input_px**2)
    for start in range(0, len(maps), per_chunk):
        chunk = maps[start : start + per_chunk]
        # judged before upsampling, whose rounding gives a constant map some relief
        flat = chunk.amax(dim=(1, 2)) == chunk.amin(dim=(1, 2))
        large = F.interpolate(chunk[:, None], size=(input_px, input_px), mode="bilinear", align_corners=False)[:, 0]
        low = large.amin(dim=(1, 2), keepdim=True)
        high = large.amax(dim=(1, 2), keepdim=True)
        above = (large - low).div_(high - low) > cam_threshold  # (m, S, S)
        above[flat] = False
        positions = above.flatten().nonzero()[:, 0]
        pixels.append(positions.cpu().numpy() + start * input_px**2)
        values.append(large.flatten()[positions].cpu().numpy())
    return runs_of_pixels(np.concatenate(pixels), np.concatenate(values), (input_px, input_px))


def _bound(runs: Runs, labels: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return map (B,), peak (B,) and tight box (B, 4) of each label, by map and descending peak, ``limit`` a map."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    if not len(starts):
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, 4))
    owners = runs.maps[order][starts]
    peaks = np.maximum.reduceat(runs.peaks[order], starts)
    x0 = np.minimum.reduceat(runs.starts[order], starts)
    y0 = np.minimum.reduceat(runs.rows[order], starts)
    x1 = np.maximum.reduceat(runs.ends[order], starts)
    y1 = np.maximum.reduceat(runs.rows[order], starts) + 1
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


@dataclass(frozen=True)
class Runs:
    """R maximal horizontal runs of pixels, by map, row and column. All (R,) int64 but ``peaks`` (R,) float32.

    Pixel columns are ``starts`` <= x < ``ends``; ``peaks`` is the largest value in the run.
    """

    maps: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    peaks: np.ndarray


def runs_of_pixels(pixels: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> Runs:
    """Join set pixels into runs.

    Args:
        pixels: (P,) int64, ascending flat indices into maps of (M, H, W).
        values: (P,) float32, their values.
        shape: (H, W).
    """
    height, width = shape
    columns = pixels % width
    first = np.flatnonzero((np.diff(pixels, prepend=-2) != 1) | (columns == 0))
    last = np.append(first[1:], len(pixels))[: len(first)] - 1
    peaks = np.maximum.reduceat(values, first) if len(first) else values[:0]
    lines = pixels[first] // width
    return Runs(lines // height, lines % height, columns[first], columns[last] + 1, peaks)


def label_components(runs: Runs) -> np.ndarray:
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


def _touching(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of runs (indices) in neighbouring rows of a map that share a column or touch at a corner."""
    if not len(runs.maps):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    height = int(runs.rows.max()) + 2
    width = int(runs.ends.max()) + 2
    line = (runs.maps * height + runs.rows) * width  # a coordinate that ascends over all runs of all maps
    below = line + width
    # of the sorted, disjoint runs in the next row, those that touch are neighbours of each other
    first = np.searchsorted(line + runs.ends, below + runs.starts, side="left")
    stop = np.searchsorted(line + runs.starts, below + runs.ends, side="right")
    counts = np.maximum(stop - first, 0)
    upper = np.repeat(np.arange(len(line)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + offsets


def tiles(sizes_px: np.ndarray, count: int, min_side_px: float = 1.0) -> np.ndarray:
    """Return ``count`` x ``count`` equal tiles that cover each image, row by row.

    Args:
        sizes_px: (N, 2) height and width.
        min_side_px: shorter sides are widened to this, inside the image (`ccd.views.boxes.at_least`).

    Returns:
        (N, count**2, 4) float64 x0, y0, x1, y1 in pixels.
    """
    row, column = np.divmod(np.arange(count**2), count)
    shares = np.stack([column, row, column + 1, row + 1], axis=1) / count
    sides_px = np.asarray(sizes_px, np.float64)[:, None, [1, 0]]
    boxes_px = shares * np.tile(sides_px, 2)
    sides_px = np.broadcast_to(sides_px, (*boxes_px.shape[:2], 2)).reshape(-1, 2)
    return at_least(boxes_px.reshape(-1, 4), min_side_px, sides_px).reshape(boxes_px.shape)
