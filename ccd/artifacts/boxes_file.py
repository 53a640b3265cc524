"""``boxes.parquet``: the local views; and ``regions.h5``: those that the pass over the whole image has embedded.

A view is a crop of an image that CLIP reads by itself, or a region: a group of like patches with their mean embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ccd.artifacts.features_file import FeatureWriter
from ccd.artifacts.files import delayed_interrupts, unreadable
from ccd.artifacts.image_index import Names, read_strings, same_ids
from ccd.artifacts.sealed import (
    attributes_of,
    creating,
    damage_named,
    file_metadata,
    open_parquet,
    read_parquet,
    reading,
    rows_with,
    schema,
    write_parquet,
    write_strings,
)

ROWS_PER_GROUP = 2**17
REGIONS_SCHEMA = "ccd.regions/1"
IMAGES_PER_CHUNK = 64

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
    (B, 4) float32 as x0, y0, x1, y1. ``metadata``: tau, if maps were asked, and the ``precision`` of that, if not fp32;
    ``views`` (dense or both), if there are regions, the last rows of each image."""

    image_ids: Sequence[str]
    classes: list[str]
    scores: np.ndarray
    cam_peaks: np.ndarray
    boxes_px: np.ndarray
    metadata: dict[str, str]

    @property
    def requested(self) -> np.ndarray:
        """Rows of the views that a class asked for, int64; the others are tiles and regions."""
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
    return _boxes(*read_parquet(path, SCHEMA, "cam_boxes"))


def read_image(path: Path, image_id: str) -> tuple[np.ndarray, BoxTable, int]:
    """Read one image's boxes alone: their ids (b,) int64, the b boxes, and the number of all images' boxes."""
    with open_parquet(path, SCHEMA, "cam_boxes") as file, damage_named(path, "cam_boxes", OSError, pa.ArrowException):
        table = rows_with(file, "image_id", image_id)
        return table["box_id"].to_numpy(), _boxes(table, file_metadata(file.schema_arrow)), file.metadata.num_rows


def _boxes(table: pa.Table, metadata: dict[str, str]) -> BoxTable:
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
    return list(names[encoded.indices.to_numpy()])


class RegionWriter:
    """Writes the regions of images in any order, each image exactly once."""

    def __init__(self, boxes_px: FeatureWriter, features: FeatureWriter) -> None:
        self._boxes_px = boxes_px
        self._features = features

    def write(self, rows: np.ndarray, boxes_px: np.ndarray, features: np.ndarray) -> None:
        """Store boxes (b, k, 4) and features (b, k, D) of the images at ``rows`` (b,); absent regions are zeros, last.

        Raises:
            CcdError: a value is NaN or Inf, or a row was written before.
            OSError: this or an earlier write failed.
        """
        self._boxes_px.write(rows, boxes_px)
        self._features.write(rows, features)


@contextmanager
def writing_regions(
    path: Path, ids: Sequence[str], count: int, width: int, attributes: dict[str, str]
) -> Iterator[RegionWriter]:
    """Open ``regions.h5``, of at most ``count`` regions an image (0: none) with embeddings of ``width`` numbers.

    It appears at ``path`` only if the block succeeds and writes every image.
    """
    with creating(path, REGIONS_SCHEMA, attributes) as (file, check):
        write_strings(file, "image_id", list(ids))
        writers = []
        for name, last in (("boxes_px", 4), ("features", width)):
            chunks = (max(1, min(IMAGES_PER_CHUNK, len(ids))), max(1, count), last)
            with delayed_interrupts():
                shape = (len(ids), count, last)
                limits = (None, None, last)
                values = file.create_dataset(name, shape, np.float32, chunks=chunks, maxshape=limits, fletcher32=True)
            writers.append(FeatureWriter(values, check))
        yield RegionWriter(*writers)
        for writer in writers:
            writer.finish()


class RegionFile:
    """``regions.h5``: at most k regions of each of N images, whose embeddings stay on disk until `features`.

    ``boxes_px`` (N, k, 4) float32 as x0, y0, x1, y1; behind an image's last region are zeros. ``attributes``: teacher,
    its fingerprint, preprocessing. ``width``: D of the embeddings.
    """

    def __init__(self, path: Path, ids: Sequence[str]) -> None:
        """Open the regions of the images ``ids``.

        Raises:
            CcdError: the file is missing, damaged, of another schema or of other images, or holds no regions.
        """
        self.path = path
        with reading(path, REGIONS_SCHEMA, "clip_global") as file:
            known = read_strings(file, "image_id")
            self.boxes_px: np.ndarray = file["boxes_px"][...]
            self.attributes = attributes_of(file)
            self.width = int(file["features"].shape[2])
            if self.boxes_px.shape != (len(known), file["features"].shape[1], 4):
                raise ValueError("its boxes are not those of its embeddings")
        same_ids(path, "clip_global", known, ids)
        if not self.boxes_px.size:
            raise unreadable(path, "it holds no regions, though params.yaml asks for views of them", "clip_global")

    @property
    def exist(self) -> np.ndarray:
        """Which of an image's k regions there are, (N, k) bool."""
        exist: np.ndarray = self.boxes_px[..., 2] > self.boxes_px[..., 0]
        return exist

    def rows_in(self, path: Path, views: BoxTable, image_rows: np.ndarray) -> np.ndarray:
        """Return the rows (R,) int64 of ``views`` that are regions, ascending: the last rows of each image.

        Args:
            path: that of ``views``.
            image_rows: (B,) the image of each view, in 0..N - 1.

        Raises:
            CcdError: the views are not in the order of the images, or their regions are others than here.
        """
        views_of = np.bincount(image_rows, minlength=len(self.boxes_px))
        exist = self.exist & (views_of > 0)[:, None]
        first = np.cumsum(views_of) - exist.sum(axis=1)  # the first region of each image
        rows: np.ndarray = (first[:, None] + np.cumsum(exist, axis=1) - 1)[exist]
        fit = not (np.diff(image_rows) < 0).any() and (exist.sum(axis=1) <= views_of).all()
        if not fit or not np.array_equal(views.boxes_px[rows], self.boxes_px[exist]):
            raise unreadable(path, f"its regions were made from another {self.path}", "cam_boxes")
        return rows

    def features(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the embeddings (r, D) float32 of the regions of ``images``, which ascend, a bounded number at a time.

        Raises:
            CcdError: one is NaN or Inf.
        """
        exist = self.exist
        with reading(self.path, REGIONS_SCHEMA, "clip_global", check_seal=False) as file:
            for start in range(0, len(images), IMAGES_PER_CHUNK):
                some = images[start : start + IMAGES_PER_CHUNK]
                values = file["features"][some][exist[some]]
                if not np.isfinite(values).all():
                    raise unreadable(self.path, "it holds NaN or Inf", "clip_global")
                yield values


@dataclass(frozen=True)
class EmbeddedViews:
    """The views of B that are regions: ``rows`` (R,) int64, ascending, of the images ``images``; ``others`` (B - R,).

    ``file``: None if nobody asked for regions.
    """

    file: RegionFile | None
    rows: np.ndarray
    images: np.ndarray
    others: np.ndarray

    @property
    def all_views(self) -> bool:
        """Whether regions were asked for, and every view is one."""
        return self.file is not None and not len(self.others)

    @property
    def width(self) -> int:
        """D of the embeddings; 0 without regions."""
        return 0 if self.file is None else self.file.width

    @property
    def teacher(self) -> dict[str, str]:
        """The attributes that describe the teacher of the regions; empty without."""
        known = {} if self.file is None else self.file.attributes
        return {key: known[key] for key in ("teacher", "fingerprint") if key in known}

    def check_teacher(self, teacher: Mapping[str, str]) -> None:
        """Raise CcdError if the regions are of another teacher than the one that ``teacher`` describes."""
        if self.file is not None and self.teacher["fingerprint"] != teacher["fingerprint"]:
            reason = f"its teacher is not {teacher['teacher']}, that of the crops"
            raise unreadable(self.file.path, reason, "clip_global")

    def copy(self, write: Callable[[np.ndarray, np.ndarray], None]) -> None:
        """Pass the regions' rows and embeddings to ``write``. Raises CcdError if one is NaN or Inf."""
        done = 0
        for values in self.file.features(self.images) if self.file is not None else ():
            write(self.rows[done : done + len(values)], values)
            done += len(values)


def embedded_views(
    path: Path, boxes: Path, views: BoxTable, image_rows: np.ndarray, ids: Sequence[str]
) -> EmbeddedViews:
    """Find the views that are regions, whose embeddings are in ``regions.h5`` at ``path``.

    Args:
        boxes: the path of ``views``. image_rows: (B,) the image of each view, in ``ids``.

    Raises:
        CcdError: see `RegionFile`, and `RegionFile.rows_in`.
    """
    every = np.arange(len(image_rows))
    if "views" not in views.metadata:
        return EmbeddedViews(None, every[:0], every[:0], every)
    file = RegionFile(path, ids)
    rows = file.rows_in(boxes, views, image_rows)
    return EmbeddedViews(file, rows, np.unique(image_rows[rows]), np.setdiff1d(every, rows))
