"""Filters, order and map of the images of a project: rows of the index for the grid, from arrays alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.ui.project_data import Tables

Split = Literal["", "train", "test"]
Disagreement = Literal["", "views", "student"]
Order = Literal["index", "doubt", "high", "low", "near"]
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Wanted:
    """What the grid shows. ``class_row``: -1 for any, where an image's largest value counts.

    ``low`` .. ``high``: the label; ``doubt``: at least. ``corrected``: 1 somebody decided, 0 nobody did, -1 either.
    ``disagreement``: of CLIP's whole image with the ``views`` (training images) or with the ``student`` (test images):
    one says at least 0.5, the other less. ``region``: x0, y0, x1, y1 of the map.
    """

    class_row: int = -1
    low: float = 0.0
    high: float = 1.0
    split: Split = ""
    doubt: float = 0.0
    corrected: int = -1
    disagreement: Disagreement = ""
    order: Order = "index"
    region: tuple[float, float, float, float] | None = None


def select(
    tables: Tables, decided: np.ndarray, wanted: Wanted, similarity: np.ndarray | None, xy: np.ndarray | None
) -> np.ndarray:
    """Return the rows of the images that fit, in the order asked for, int32.

    Args:
        decided: (N, C) int8, see `ccd.ui.project_data.ProjectData.decided`.
        similarity: (N,) of the order ``near``. xy: (N, 2) of the map, for ``region``.
    """
    keep = np.ones(len(tables.index), bool)
    if wanted.split:
        keep &= tables.index.is_train == (wanted.split == "train")
    label = _of_class(tables.steps["label"], wanted.class_row)
    if wanted.low > 0 or wanted.high < 1:
        keep &= (label >= wanted.low) & (label <= wanted.high)
    doubt = _of_class(np.where(decided >= 0, 0.0, tables.doubt), wanted.class_row)
    if wanted.doubt > 0:
        keep &= doubt >= wanted.doubt
    if wanted.corrected >= 0:
        keep &= (_of_class(decided, wanted.class_row) >= 0) == bool(wanted.corrected)
    if wanted.disagreement:
        keep &= _differs(tables, wanted)
    if wanted.region is not None and xy is not None:
        x0, y0, x1, y1 = wanted.region
        keep &= (xy[:, 0] >= x0) & (xy[:, 0] <= x1) & (xy[:, 1] >= y0) & (xy[:, 1] <= y1)
    rows = np.flatnonzero(keep)
    keys = {"doubt": -doubt, "high": -label, "low": label, "near": None if similarity is None else -similarity}
    key = keys.get(wanted.order)
    return (rows if key is None else rows[np.argsort(key[rows], kind="stable")]).astype("<i4")


def _of_class(table: np.ndarray, class_row: int) -> np.ndarray:
    return np.asarray(table.max(axis=1) if class_row < 0 else table[:, class_row])


def _differs(tables: Tables, wanted: Wanted) -> np.ndarray:
    """Return (N,) bool: whether two steps give different answers about the class, or about any."""
    columns = slice(None) if wanted.class_row < 0 else slice(wanted.class_row, wanted.class_row + 1)
    one = tables.steps["clip"][:, columns]
    other = tables.steps[wanted.disagreement][:, columns]
    return np.asarray((((one >= LABELLED) != (other >= LABELLED)) & ~np.isnan(other)).any(axis=1))


def principal_axes(features: np.ndarray) -> np.ndarray:
    """Return the two principal components of (N, D) embeddings, (N, 2) float32 in [0, 1], by pieces of rows."""
    width = features.shape[1]
    mean = features.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((width, width))
    for start in range(0, len(features), ROWS_AT_ONCE):
        part = features[start : start + ROWS_AT_ONCE] - mean.astype(np.float32)
        scatter += part.T @ part
    _, axes = np.linalg.eigh(scatter)
    axes = axes[:, [-1, -2]]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # an eigenvector's sign is arbitrary
    return fitted((features @ axes.astype(np.float32)) - (mean @ axes).astype(np.float32))


def fitted(xy: np.ndarray) -> np.ndarray:
    """Return points (N, 2) shifted and scaled into the unit square, float32; the few outermost lie on its edge."""
    if not len(xy):
        return xy.astype(np.float32)
    low, high = np.percentile(xy, [0.1, 99.9], axis=0)
    return np.asarray(np.clip((xy - low) / np.maximum(high - low, 1e-9), 0, 1), np.float32)
