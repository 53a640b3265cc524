"""``boxes.parquet``: the local views that the student's class activation maps propose.

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ccd.artifacts.image_index import Names
from ccd.artifacts.sealed import read_parquet, schema, write_parquet

ROWS_PER_GROUP = 2**17

SCHEMA = schema(
    "ccd.boxes/1",
    [
        ("box_id", pa.int64(), False, "0..B-1; rows of clip_local.h5 are in this order"),
        ("image_id", pa.string(), False, "image, as in images.parquet"),
        ("class", pa.string(), False, "the class whose map asked for the view; empty: a tile, that nobody asked for"),
        ("score", pa.float32(), False, "the warmed-up student's probability of that class; NaN for a tile"),
        (
            "cam_peak",
            pa.float32(),
            False,
            "largest activation of the map in the box, before normalising; NaN for a tile",
        ),
        ("x0_px", pa.float32(), False, "left, in pixels of the original image after EXIF orientation"),
        ("y0_px", pa.float32(), False, "top"),
        ("x1_px", pa.float32(), False, "right (exclusive)"),
        ("y1_px", pa.float32(), False, "bottom (exclusive)"),
    ],
)


@dataclass(frozen=True)
class BoxTable:
    """B boxes: ``image_ids`` and ``classes`` (B) strings, ``scores`` and ``cam_peaks`` (B,) float32, ``boxes_px``
    (B, 4) float32 as x0, y0, x1, y1. ``metadata``: tau and the rule that chose it."""

    image_ids: Sequence[str]
    classes: list[str]
    scores: np.ndarray
    cam_peaks: np.ndarray
    boxes_px: np.ndarray
    metadata: dict[str, str]

    @property
    def requested(self) -> np.ndarray:
        """Rows of the views that a class asked for, int64; the others are tiles."""
        return np.flatnonzero(np.asarray(self.classes, object) != "")

    @property
    def images_with_requests(self) -> int:
        """Number of images with a view that a class asked for."""
        return len(Names(self.image_ids).take(self.requested).arrow.unique())


def write(path: Path, boxes: BoxTable) -> None:
    """Write ``boxes.parquet``; ``box_id`` is the row number."""
    write_parquet(path, _batches(boxes), SCHEMA, boxes.metadata)


def _batches(boxes: BoxTable) -> Iterator[pa.RecordBatch]:
    """Yield the rows, `ROWS_PER_GROUP` at a time; one empty batch if there are none."""
    floats = [boxes.scores, boxes.cam_peaks, *boxes.boxes_px.T]
    count = len(boxes.image_ids)
    for start in range(0, max(count, 1), ROWS_PER_GROUP):
        rows = slice(start, min(start + ROWS_PER_GROUP, count))
        yield pa.record_batch(
            [
                pa.array(np.arange(rows.start, rows.stop), pa.int64()),
                Names(boxes.image_ids[rows]).arrow,
                pa.array(boxes.classes[rows], pa.string()),
                *[pa.array(np.ascontiguousarray(column[rows]), pa.float32()) for column in floats],
            ],
            schema=SCHEMA,
        )


def read(path: Path) -> BoxTable:
    """Read ``boxes.parquet``. Raises CcdError if it is missing, damaged or of another version."""
    table, metadata = read_parquet(path, SCHEMA, "cam_boxes")
    corners = [table[name].to_numpy() for name in ("x0_px", "y0_px", "x1_px", "y1_px")]
    return BoxTable(
        _names(table["image_id"]),
        _names(table["class"]),
        table["score"].to_numpy(),
        table["cam_peak"].to_numpy(),
        np.stack(corners, axis=1).astype(np.float32),
        {key: value for key, value in metadata.items() if key != "schema"},
    )


def _names(column: pa.ChunkedArray) -> list[str]:
    """Return the names with one string object per distinct name, so that millions of boxes cost a pointer each."""
    encoded = column.combine_chunks().dictionary_encode()
    names = np.asarray(encoded.dictionary.to_pylist(), object)
    repeated: list[str] = names[encoded.indices.to_numpy()].tolist()
    return repeated
