"""``images.parquet``: one row per image. Every later artifact is aligned with it by ``image_id``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccd.artifacts.files import unreadable
from ccd.artifacts.ids import Names
from ccd.artifacts.parquet import read_parquet, schema, write_parquet

SCHEMA = schema(
    "ccd.images/2",
    [
        ("image_id", pa.string(), False, "unique name of the image"),
        ("path", pa.string(), False, "file, relative to dataset.root, with forward slashes"),
        ("split", pa.string(), False, "train (unlabelled, used for training) or test (evaluation only)"),
        ("width_px", pa.int32(), False, "width after EXIF orientation"),
        ("height_px", pa.int32(), False, "height after EXIF orientation"),
        ("bytes", pa.int64(), False, "size of the file"),
        ("blake2b", pa.string(), False, "BLAKE2b-128 of the file's content, hexadecimal"),
    ],
)


@dataclass(frozen=True)
class SkippedImage:
    """A file that could not be used and was left out; the file's metadata ``skipped`` lists them as JSON."""

    path: str
    reason: str


@dataclass(frozen=True)
class DarkImage:
    """An image whose 16-bit values use only the lowest quarter of their range: ``highest`` is the largest of them."""

    path: str
    highest: int
    is_colour: bool


@dataclass(frozen=True)
class ImageIndex:
    """N images as parallel columns: ``ids``, ``paths``, ``is_train`` (N,) bool, ``sizes_px`` (N, 2) int32 as
    (height, width), ``file_bytes`` (N,) int64, ``digests``. ``skipped``: what the data set has beside them. ``dark``:
    images that look black; known right after a scan alone, not stored."""

    ids: Sequence[str]
    paths: Sequence[str]
    is_train: np.ndarray
    sizes_px: np.ndarray
    file_bytes: np.ndarray
    digests: Sequence[str]
    skipped: tuple[SkippedImage, ...] = ()
    dark: tuple[DarkImage, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> ImageIndex:
        """The given rows, in the given order."""
        return ImageIndex(
            Names(self.ids).take(rows),
            Names(self.paths).take(rows),
            self.is_train[rows],
            self.sizes_px[rows],
            self.file_bytes[rows],
            Names(self.digests).take(rows),
            self.skipped,
            self.dark,
        )

    @property
    def train_rows(self) -> np.ndarray:
        """Where the training images stand, ascending, int64."""
        return np.flatnonzero(self.is_train)

    @property
    def test_rows(self) -> np.ndarray:
        """Where the evaluation images stand, ascending, int64."""
        return np.flatnonzero(~self.is_train)

    def train(self) -> ImageIndex:
        """The training images, in index order."""
        return self.take(self.train_rows)

    def test(self) -> ImageIndex:
        """The evaluation images, in index order."""
        return self.take(self.test_rows)


def write(path: Path, index: ImageIndex) -> None:
    """Write ``images.parquet``."""
    batch = pa.record_batch(
        [
            Names(index.ids).arrow,
            Names(index.paths).arrow,
            pa.array(np.where(index.is_train, "train", "test"), pa.string()),
            pa.array(index.sizes_px[:, 1], pa.int32()),
            pa.array(index.sizes_px[:, 0], pa.int32()),
            pa.array(index.file_bytes, pa.int64()),
            Names(index.digests).arrow,
        ],
        schema=SCHEMA,
    )
    skipped = [{"path": each.path, "reason": each.reason} for each in index.skipped]
    write_parquet(path, [batch], SCHEMA, {"skipped": json.dumps(skipped, ensure_ascii=False)})


def read(path: Path) -> ImageIndex:
    """Read ``images.parquet``. Raises CcdError if it is missing, damaged or of another version."""
    table, metadata = read_parquet(path, SCHEMA, "index")
    height, width = (table[name].to_numpy() for name in ("height_px", "width_px"))
    return ImageIndex(
        Names(table["image_id"]),
        Names(table["path"]),
        pc.equal(table["split"], "train").to_numpy(),
        np.stack([height, width], axis=1).astype(np.int32),
        table["bytes"].to_numpy(),
        Names(table["blake2b"]),
        _skipped(path, metadata.get("skipped", "")),
    )


def read_splits(path: Path) -> tuple[Names, np.ndarray]:
    """Of ``images.parquet`` only ``ids`` (N) and ``is_train`` (N,) bool, for stages that open no image; see `read`."""
    table, _ = read_parquet(path, SCHEMA, "index", ["image_id", "split"])
    return Names(table["image_id"]), pc.equal(table["split"], "train").to_numpy()


def _skipped(path: Path, text: str) -> tuple[SkippedImage, ...]:
    try:
        return tuple(SkippedImage(each["path"], each["reason"]) for each in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise unreadable(path, f"its list of skipped images is malformed ({error})", "index") from None
