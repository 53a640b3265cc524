"""``clip_global.h5`` and ``clip_local.h5``: CLIP's image embeddings by id; and the reading and writing of HDF5.

HDF5 artifacts have a schema, datasets with fletcher32 checksums, and a seal over the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from ccd.artifacts.files import Sink, delayed_interrupts, replacing, unreadable
from ccd.artifacts.image_index import Names, same_ids, same_teacher
from ccd.artifacts.sealed import BLANK, KEY, check_schema, damage_named, stamp, verify
from ccd.errors import CcdError


@contextmanager
def creating(
    path: Path, schema: str, attributes: Mapping[str, str | float]
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file under ``schema``; it appears at ``path``, sealed, only if the block succeeds.

    Yields:
        The file, and a function that raises OSError once a write has failed. It is called at the end in any case; a
        long block calls it now and then, to stop early.
    """
    with replacing(path) as temporary:
        with Sink(temporary, "w+b") as sink:
            file = None
            try:
                with delayed_interrupts():
                    file = h5py.File(sink, "w", track_order=False)
                    for key, value in sorted({"schema": schema, KEY: BLANK, **attributes}.items()):
                        file.attrs[key] = value
                yield file, sink.check
            finally:
                try:
                    _close(file)
                finally:
                    _close(file)  # an interrupt may have come before the first one delayed it
                    sink.check()  # names the cause of an error that HDF5 raised
        stamp(temporary)


def _close(file: h5py.File | None) -> None:
    if file is not None:
        with delayed_interrupts():
            file.close()


@contextmanager
def reading(path: Path, schema: str, stage: str, *, check_seal: bool = True) -> Iterator[h5py.File]:
    """Open a file that ``stage`` wrote under ``schema``.

    Args:
        check_seal: check the seal, which reads the whole file; the chunks' own checksums are checked in any case.

    Raises:
        CcdError: the file is missing, damaged or of another schema, or the block finds no such dataset or a wrong type.
    """
    if check_seal:
        verify(path, stage)
    with (
        damage_named(path, stage, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError),
        h5py.File(path, "r", locking=False) as file,  # files are replaced by renaming: no reader needs a lock
    ):
        check_schema(path, str(file.attrs.get("schema", "none")), schema, stage)
        if any(_is_external(file, name) for name in file):
            raise unreadable(path, "it refers to data in other files", stage)
        yield file


def _is_external(file: h5py.File, name: str) -> bool:
    """Tell whether a dataset refers to other files, which HDF5 would read; no artifact does."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return True
    dataset = file[name]
    return not isinstance(dataset, h5py.Dataset) or dataset.external is not None or bool(dataset.is_virtual)


def attributes_of(file: h5py.File) -> dict[str, str]:
    """Return the attributes that describe the content."""
    return {key: str(value) for key, value in file.attrs.items() if key not in ("schema", KEY)}


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write strings of fixed width (UTF-8, padded), since HDF5 has no checksums for strings of variable width."""
    encoded = [value.encode("utf-8") for value in values]
    kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
    write_array(file, name, np.asarray(encoded, kind), kind)


def write_array(file: h5py.File, name: str, values: np.ndarray, kind: object) -> None:
    """Write a dataset in one chunk, with a checksum."""
    chunks = tuple(max(1, side) for side in values.shape)
    limits = tuple(None if side == 0 else side for side in values.shape)
    with delayed_interrupts():
        file.create_dataset(name, data=values, dtype=kind, chunks=chunks, maxshape=limits, fletcher32=True)


def read_strings(file: h5py.File, name: str) -> Names:
    """Read a dataset of strings. Raises KeyError, TypeError or ValueError if there is none; see `reading`."""
    if h5py.check_string_dtype(file[name].dtype) is None:
        raise TypeError(f"{name} holds no strings")
    return Names(pa.array(file[name][...], pa.binary()))


GLOBAL_SCHEMA = "ccd.clip_global/1"
LOCAL_SCHEMA = "ccd.clip_local/1"
ROWS_PER_CHUNK = 256
ROWS_PER_PIECE = 1024


@dataclass(frozen=True)
class Features:
    """CLIP's embeddings: ``values`` (M, D) float32, rows of unit length.

    ``ids`` (M): image ids as strings, or box ids as an int64 array. ``attributes``: teacher, its fingerprint,
    preprocessing.
    """

    ids: Sequence[str] | np.ndarray
    values: np.ndarray
    attributes: dict[str, str]


class FeatureWriter:
    """Writes rows in any order, each exactly once. ``check``: see `creating`."""

    def __init__(self, values: h5py.Dataset, check: Callable[[], None]) -> None:
        self._values = values
        self._check = check
        self._seen = np.zeros(len(values), bool)

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Store ``features`` (b, D), or (b, k, D), at ``rows`` (b,).

        Raises:
            CcdError: the features hold NaN or Inf, or a row was written before.
            OSError: this or an earlier write failed.
        """
        if not np.isfinite(features).all():
            flat = features.reshape(len(features), -1)
            raise CcdError(f"the teacher gave NaN or Inf for rows {rows[~np.isfinite(flat).all(axis=1)][:10].tolist()}")
        order = np.argsort(rows)
        if self._seen[rows].any():
            raise CcdError("a row of features was written twice")
        if features.size:  # HDF5 selects no rows of nothing
            with delayed_interrupts():
                self._values[rows[order]] = features[order]
        self._seen[rows] = True
        self._check()

    def finish(self) -> None:
        """Raise CcdError if a row is missing."""
        if not self._seen.all():
            raise CcdError(f"{(~self._seen).sum()} of {len(self._seen)} rows of features are missing")


@contextmanager
def writing(
    path: Path, schema: str, ids: Sequence[str] | Sequence[int] | np.ndarray, width: int, attributes: dict[str, str]
) -> Iterator[FeatureWriter]:
    """Open a feature file for writing; it appears at ``path`` only if the block succeeds and writes every row."""
    with creating(path, schema, attributes) as (file, check):
        if schema == LOCAL_SCHEMA:
            write_array(file, "box_id", np.asarray(ids, np.int64), np.int64)
        else:
            write_strings(file, "image_id", list(map(str, ids)))
        chunks = (max(1, min(ROWS_PER_CHUNK, len(ids))), width)
        shape = (len(ids), width)
        maximum = (None, width)
        with delayed_interrupts():
            values = file.create_dataset(
                "features", shape, np.float32, chunks=chunks, maxshape=maximum, fletcher32=True
            )
        writer = FeatureWriter(values, check)
        yield writer
        writer.finish()


class FeatureFile:
    """A feature file whose M rows stay on disk until `take` reads them. ``ids`` and ``attributes`` as in `Features`.

    Raises:
        CcdError: the file is missing, damaged, or of another schema.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        self._schema = schema
        with reading(path, schema, _stage(schema)) as file:
            self.ids = _ids(file, schema)
            self.attributes = attributes_of(file)
            count = len(file["features"])
            if file["features"].ndim != 2:
                raise ValueError("its features are no table of rows and columns")
        if len(self.ids) != count:
            raise unreadable(path, f"{len(self.ids)} ids for {count} rows", _stage(schema))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read the features (m, D) float32 of ``rows`` (m,), which ascend. Raises CcdError for NaN or Inf in them."""
        with reading(self._path, self._schema, _stage(self._schema), check_seal=False) as file:
            dataset = file["features"]
            values = np.empty((len(rows), dataset.shape[1]), np.float32)
            ends = rows[[0, -1]] if len(rows) else (0, -1)
            for begin in range(ends[0], ends[1] + 1, ROWS_PER_PIECE):
                first, last = np.searchsorted(rows, (begin, begin + ROWS_PER_PIECE))
                chunk = rows[first:last]
                if len(chunk):
                    values[first:last] = dataset[chunk[0] : chunk[-1] + 1][chunk - chunk[0]]
        if not np.isfinite(values).all():
            raise unreadable(self._path, "it holds NaN or Inf", _stage(self._schema))
        return values

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``rows``, which ascend, and their features, `ROWS_PER_PIECE` at a time; one empty piece for no rows."""
        for start in range(0, max(1, len(rows)), ROWS_PER_PIECE):
            part = rows[start : start + ROWS_PER_PIECE]
            yield part, self.take(part)


def open_global(path: Path, ids: Sequence[str], teacher: Mapping[str, str]) -> FeatureFile:
    """Open ``clip_global.h5``, of the images ``ids`` and the ``teacher`` in the attributes of ``text.h5``.

    Raises:
        CcdError: it is missing, damaged, or of other images or another teacher.
    """
    features = FeatureFile(path, GLOBAL_SCHEMA)
    same_ids(path, "clip_global", features.ids, ids)
    same_teacher(path, "clip_global", features.attributes, teacher)
    return features


def open_local(path: Path, box_count: int, teacher: Mapping[str, str]) -> FeatureFile:
    """Open ``clip_local.h5``, of boxes 0 .. ``box_count`` - 1 and the ``teacher``; see `open_global` for errors."""
    features = FeatureFile(path, LOCAL_SCHEMA)
    same_ids(path, "clip_local", features.ids, np.arange(box_count))
    same_teacher(path, "clip_local", features.attributes, teacher)
    return features


def write(path: Path, schema: str, features: Features) -> None:
    """Write features that are already in memory."""
    with writing(path, schema, features.ids, features.values.shape[1], features.attributes) as writer:
        writer.write(np.arange(len(features.values)), features.values)


def read(path: Path, schema: str) -> Features:
    """Read a whole feature file.

    Raises:
        CcdError: it is missing, damaged, of another schema, or holds NaN or Inf.
    """
    file = FeatureFile(path, schema)
    return Features(file.ids, file.take(np.arange(len(file.ids))), file.attributes)


def _stage(schema: str) -> str:
    return "clip_global" if schema == GLOBAL_SCHEMA else "clip_local"


def _ids(file: h5py.File, schema: str) -> Names | np.ndarray:
    return np.asarray(file["box_id"][...]) if schema == LOCAL_SCHEMA else read_strings(file, "image_id")


def read_views(path: Path, boxes: Sequence[int], box_count: int) -> np.ndarray:
    """Read the embeddings (len(boxes), D) float32 of the box ids ``boxes`` from ``clip_local.h5``.

    Raises:
        CcdError: it is missing, damaged, of another schema, or not aligned with ``box_count`` boxes.
    """
    with reading(path, LOCAL_SCHEMA, "clip_local", check_seal=False) as file:
        if not np.array_equal(file["box_id"][...], np.arange(box_count)):
            raise unreadable(path, f"its rows are not the {box_count} boxes of boxes.parquet", "clip_local")
        rows = np.asarray(boxes, np.int64)
        order = np.argsort(rows)
        values = np.empty((len(rows), file["features"].shape[1]), np.float32)
        values[order] = file["features"][rows[order]]
    return values
