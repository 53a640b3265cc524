"""Connected components of many masks at once, on the runs of their rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    """(R,) int64: the same label for runs of one 8-connected component, in the order of their first runs from 0."""
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
    """Pairs of runs (indices) in neighbouring rows of a map that share a column or touch at a corner."""
    if not len(runs.maps):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    height, width = int(runs.rows.max()) + 2, int(runs.ends.max()) + 2
    line = (runs.maps * height + runs.rows) * width  # a coordinate that ascends over all runs of all maps
    below = line + width
    # of the sorted, disjoint runs in the next row, those that touch are neighbours of each other
    first = np.searchsorted(line + runs.ends, below + runs.starts, side="left")
    stop = np.searchsorted(line + runs.starts, below + runs.ends, side="right")
    counts = np.maximum(stop - first, 0)
    upper = np.repeat(np.arange(len(line)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, np.repeat(first, counts) + offsets
