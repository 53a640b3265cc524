"""A few rows of a feature file, without reading the whole of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccd.artifacts.atomic import unreadable
from ccd.artifacts.features import LOCAL_SCHEMA
from ccd.artifacts.hdf5 import reading


def read_views(path: Path, boxes: Sequence[int], box_count: int) -> np.ndarray:
    """The embeddings (len(boxes), D) float32 of the given box ids from ``clip_local.h5``.

    Raises:
        CcdError: missing, damaged, of another schema, or not aligned with ``box_count`` boxes.
    """
    with reading(path, LOCAL_SCHEMA, "clip_local", whole=False) as file:
        if not np.array_equal(file["box_id"][...], np.arange(box_count)):
            raise unreadable(path, f"its rows are not the {box_count} boxes of boxes.parquet", "clip_local")
        rows = np.asarray(boxes, np.int64)
        order = np.argsort(rows)
        values = np.empty((len(rows), file["features"].shape[1]), np.float32)
        values[order] = file["features"][rows[order]]
    return values
