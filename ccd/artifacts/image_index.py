"""``images.parquet``: a row per image, with which later artifacts align by ``image_id``; `Names`; checks of ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccd.artifacts.files import unreadable
from ccd.artifacts.sealed import read_parquet, schema, short_digest, write_parquet
from ccd.errors import is_utf8, redacted

_AT_ONCE = 4096
# What file systems call a version, the best first.
_VERSIONS = ("ETag", "md5Hash", "etag", "blob_id", "Content-MD5", "Last-Modified", "last_modified", "updated", "mtime")


class Names(Sequence[str]):
    """A list of strings that needs four bytes more than each string; Python's strings need about sixty.

    Slices share memory. Equal to any sequence of the same strings.
    """

    def __init__(self, values: Iterable[str] | pa.Array | pa.ChunkedArray) -> None:
        """Raises ValueError for values that are no text (pyarrow.ArrowInvalid for bytes that are not UTF-8)."""
        if isinstance(values, Names):
            values = values.arrow
        elif not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(list(values), pa.string())
        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        self.arrow: pa.StringArray = array.cast(pa.string())
        if self.arrow.null_count:
            raise ValueError("a name is missing")

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Names: ...
    def __getitem__(self, row: int | slice) -> str | Names:
        if isinstance(row, slice):
            start, end, step = row.indices(len(self))
            return Names(self.arrow[start:end] if step == 1 else self.take(np.arange(start, end, step)).arrow)
        name: str = self.arrow[row].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.arrow.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self.arrow.equals(other.arrow))
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"

    def find(self, name: str) -> int:
        """Return the first row of ``name``; -1: none."""
        return int(pc.index(self.arrow, name).as_py()) if is_utf8(name) else -1

    def take(self, rows: np.ndarray) -> Names:
        """Return the names at ``rows`` (m,), in that order."""
        return Names(self.arrow.take(pa.array(rows, pa.int64())))


def read_strings(file: h5py.File, name: str) -> Names:
    """Read a dataset of strings of HDF5. Raises KeyError, TypeError or ValueError if there is none."""
    if h5py.check_string_dtype(file[name].dtype) is None:
        raise TypeError(f"{name} holds no strings")
    return Names(pa.array(file[name][...], pa.binary()))


def same_ids(path: Path, stage: str, actual: Iterable[object], expected: Iterable[object]) -> None:
    """Raise CcdError unless the ids of the artifact at ``path`` are the ``expected`` ones, in order."""
    if isinstance(actual, np.ndarray) and isinstance(expected, np.ndarray) and np.array_equal(actual, expected):
        return
    if isinstance(actual, Names) and isinstance(expected, Names) and actual == expected:
        return
    actual = list(actual)
    expected = list(expected)
    if actual == expected:
        return
    pairs = zip(actual, expected, strict=False)
    at = next((row for row, (one, other) in enumerate(pairs) if one != other), min(len(actual), len(expected)))
    reason = f"its {len(actual)} rows are not the {len(expected)} expected images (first difference at row {at})"
    raise unreadable(path, reason, stage)


def same_classes(path: Path, stage: str, actual: Sequence[str], expected: Sequence[str]) -> None:
    """Raise CcdError unless the classes of the artifact at ``path`` are the ``expected`` ones, in order."""
    if list(actual) != list(expected):
        raise unreadable(
            path, f"its {len(actual)} classes are not the {len(expected)} of the data set, in their order", stage
        )


def same_teacher(path: Path, stage: str, actual: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise CcdError unless the attributes of the artifact at ``path`` name the teacher of the ``expected`` ones."""
    own, wanted = (attributes.get("fingerprint", "unknown") for attributes in (actual, expected))
    if own != wanted:
        reason = f"its teacher is {own[:12]} ({actual.get('teacher', '?')}), that of text.h5 is {wanted[:12]}"
        raise unreadable(path, reason, stage)


def rows_of(path: Path, stage: str, wanted: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Return the row in ``ids`` of each ``wanted`` id of the artifact at ``path``, int64.

    Raises:
        CcdError: ``ids`` lacks an id.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    rows = np.fromiter((row_of.get(name, -1) for name in wanted), np.int64, len(wanted))
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = f"{wanted[unknown[0]]!r} (and {len(unknown) - 1} more)"
        raise unreadable(path, f"{first} is unknown to the other artifacts", stage)
    return rows


class RowsOfImages:
    """Finds the rows of a table by image; ``image_rows`` (B,) is the image of each row, in any order."""

    def __init__(self, image_rows: np.ndarray) -> None:
        self._order = np.argsort(image_rows, kind="stable")
        self._images = image_rows[self._order]

    def between(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (b,) int64 of images ``start`` .. ``end`` - 1, ascending, and their images less ``start``."""
        first, last = np.searchsorted(self._images, (start, end))
        by_row = np.argsort(self._order[first:last])
        return self._order[first:last][by_row], self._images[first:last][by_row] - start


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
    """An image file that could not be used; the metadata ``skipped`` of ``images.parquet`` lists them as JSON."""

    path: str
    reason: str


@dataclass(frozen=True)
class DarkImage:
    """An image whose 16-bit values use only the lowest quarter of their range: ``highest`` is the largest of them."""

    path: str
    highest: int
    is_colour: bool


@dataclass(frozen=True)
class Version:
    """The version of a remote file: ``size`` in bytes (-1: not stated), ``token``: its ETag, checksum or time."""

    size: int
    token: str

    @classmethod
    def stated(cls, info: Mapping[str, Any]) -> Version:
        """Return the version in the ``info`` of one of fsspec's file systems."""
        token = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        return cls(-1 if info.get("size") is None else int(info["size"]), token.strip('"'))

    def digest(self, url: str) -> str:
        """Return a BLAKE2b-128 (hex) that stands for the content in the index.

        An MD5 tells contents apart. Any other token does so only together with the URL.
        """
        place = "" if re.fullmatch(r"[0-9a-f]{32}", self.token) else redacted(url, "")
        return short_digest(f"{self.size}\0{self.token}\0{place}".encode())


@dataclass(frozen=True)
class ImageIndex:
    """N images as parallel columns.

    ``ids``, ``paths``, ``is_train`` (N,) bool, ``sizes_px`` (N, 2) int32 as (height, width), ``file_bytes`` (N,) int64,
    ``digests``. ``skipped``: files that could not be used. ``dark``: images that look black; filled by a scan, not
    stored.
    """

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
        """Return the images at ``rows``, in that order."""
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
        """Rows of the training images, ascending, int64."""
        return np.flatnonzero(self.is_train)

    @property
    def test_rows(self) -> np.ndarray:
        """Rows of the test images, ascending, int64."""
        return np.flatnonzero(~self.is_train)

    def train(self) -> ImageIndex:
        """Return the training images, in index order."""
        return self.take(self.train_rows)

    def test(self) -> ImageIndex:
        """Return the test images, in index order."""
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
    """Read only ``ids`` (N) and ``is_train`` (N,) bool, for stages that open no image; see `read`."""
    table, _ = read_parquet(path, SCHEMA, "index", ["image_id", "split"])
    return Names(table["image_id"]), pc.equal(table["split"], "train").to_numpy()


def _skipped(path: Path, text: str) -> tuple[SkippedImage, ...]:
    try:
        return tuple(SkippedImage(each["path"], each["reason"]) for each in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise unreadable(path, f"its list of skipped images is malformed ({error})", "index") from None
