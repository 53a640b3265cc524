"""``clip_global.h5`` and ``clip_local.h5``: CLIP's image embeddings by id; and parts of them, made side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ccd.artifacts.files import delayed_interrupts, remove_leftovers, unreadable
from ccd.artifacts.image_index import Names, read_strings, same_ids, same_teacher
from ccd.artifacts.sealed import attributes_of, creating, reading, short_digest, write_array, write_strings
from ccd.errors import CcdError, listed

GLOBAL_SCHEMA = "ccd.clip_global/1"
LOCAL_SCHEMA = "ccd.clip_local/1"
SHARD_SCHEMA = "ccd.shard/1"
_INTEGER_IDS = {LOCAL_SCHEMA: "box_id", SHARD_SCHEMA: "row"}
_STAGES = {GLOBAL_SCHEMA: "clip_global", LOCAL_SCHEMA: "clip_local"}
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
    """Writes rows in any order, each exactly once. ``check``: see `creating`. ``first``: number of the first row."""

    def __init__(self, values: h5py.Dataset, check: Callable[[], None], first: int = 0) -> None:
        self._values = values
        self._check = check
        self._first = first
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
        rows = rows - self._first
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
        if schema == GLOBAL_SCHEMA:
            write_strings(file, "image_id", list(map(str, ids)))
        else:
            write_array(file, _INTEGER_IDS[schema], np.asarray(ids, np.int64), np.int64)
        chunks = (max(1, min(ROWS_PER_CHUNK, len(ids))), width)
        shape = (len(ids), width)
        maximum = (None, width)
        with delayed_interrupts():
            values = file.create_dataset(
                "features", shape, np.float32, chunks=chunks, maxshape=maximum, fletcher32=True
            )
        writer = FeatureWriter(values, check, int(ids[0]) if schema == SHARD_SCHEMA and len(ids) else 0)
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
        with reading(path, schema, _STAGES.get(schema)) as file:
            self.ids = _ids(file, schema)
            self.attributes = attributes_of(file)
            count = len(file["features"])
            if file["features"].ndim != 2:
                raise ValueError("its features are no table of rows and columns")
        if len(self.ids) != count:
            raise unreadable(path, f"{len(self.ids)} ids for {count} rows", _STAGES.get(schema))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read the features (m, D) float32 of ``rows`` (m,), which ascend. Raises CcdError for NaN or Inf in them."""
        with reading(self._path, self._schema, _STAGES.get(self._schema), check_seal=False) as file:
            dataset = file["features"]
            values = np.empty((len(rows), dataset.shape[1]), np.float32)
            ends = rows[[0, -1]] if len(rows) else (0, -1)
            for begin in range(ends[0], ends[1] + 1, ROWS_PER_PIECE):
                first, last = np.searchsorted(rows, (begin, begin + ROWS_PER_PIECE))
                chunk = rows[first:last]
                if len(chunk):
                    values[first:last] = dataset[chunk[0] : chunk[-1] + 1][chunk - chunk[0]]
        if not np.isfinite(values).all():
            raise unreadable(self._path, "it holds NaN or Inf", _STAGES.get(self._schema))
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


def _ids(file: h5py.File, schema: str) -> Names | np.ndarray:
    is_integer = schema in _INTEGER_IDS
    return np.asarray(file[_INTEGER_IDS[schema]][...]) if is_integer else read_strings(file, "image_id")


def read_views(path: Path, boxes: Sequence[int] | np.ndarray, box_count: int) -> np.ndarray:
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


Write = Callable[[np.ndarray, np.ndarray], None]
Pieces = Iterable[tuple[np.ndarray, np.ndarray]]
_FOREIGN = {
    "encoding": "its teacher, parameters, or version of ccd or of a library are not those of this run",
    "shard": "it is another shard under this name",
    "things": "it is of other images or views than those that are listed now",
}


class Shards:
    """Shards of the file ``whole``, beside it, each made by a process of its own.

    Shard i of n of M things is ``STEM.shard-0000i-of-0000n.h5``, rows M (i - 1) // n .. M i // n - 1: their features as
    the teacher gives them, the name of all that makes them (``encoding``: teacher, parameters, code, libraries), and a
    hash of the ``keys`` of the things.
    """

    def __init__(self, whole: Path, shard: str | None, encoding: str, keys: Sequence[bytes]) -> None:
        """``shard``: ``i/n``, for its maker; None, for that of ``whole``. Raises CcdError if it is anything else."""
        match = re.fullmatch(r"0*([1-9]\d{0,8})/0*([1-9]\d{0,8})", "1/1" if shard is None else shard)
        number, count = (int(match[1]), int(match[2])) if match else (1, 0)
        if number > count:
            raise CcdError(f"--shard {shard}: write I/N, the number of this shard and how many there are, e.g. 3/8")
        self._whole = whole
        self._encoding = encoding
        self._keys = keys
        self._own = (number, count)
        self._is_whole = shard is None
        self.rows = self._rows(number, count)
        self.path = whole if self._is_whole else self._path(number, count)
        self.store_name = encoding if self._is_whole else f"{encoding}-{number}-of-{count}"
        self.source = "the store"

    def writing(self, width: int) -> AbstractContextManager[FeatureWriter]:
        """Open this process's shard for writing features of ``width`` numbers, at the numbers of their things."""
        remove_leftovers(self.path.parent, self.path.name)
        return writing(self.path, SHARD_SCHEMA, self.rows, width, self._attributes(*self._own))

    def restore(self, stored: Any, write: Write) -> np.ndarray:
        """Pass ``stored`` features, then for ``whole`` those of its shards, to ``write``; return what is missing.

        ``stored``: a `ccd.runtime.store.StoredFeatures`, which gets what it lacks.
        That is the things (m,) int64 that this process has to encode, ascending; none if there are shards. Raises
        CcdError if a shard is missing, damaged, of other things or otherwise made, or if there are two divisions.
        """

        def write_own(rows: np.ndarray, values: np.ndarray) -> None:
            own = (rows >= self.rows.start) & (rows < self.rows.stop)
            write(rows[own], values[own])

        missing: np.ndarray = stored.restore(write_own)
        missing = missing[(missing >= self.rows.start) & (missing < self.rows.stop)]
        count = self._count() if self._is_whole and len(missing) else 0
        for rows, values in stored.recording(self._pieces(count, missing)) if count else ():
            write(rows, values)
        self.source = f"{count} shards" if count else self.source
        return missing[:0] if count else missing

    def _path(self, number: int, count: int) -> Path:
        return self._whole.with_name(f"{self._whole.stem}.shard-{number:05}-of-{count:05}.h5")

    def _rows(self, number: int, count: int) -> range:
        return range(len(self._keys) * (number - 1) // count, len(self._keys) * number // count)

    def _attributes(self, number: int, count: int) -> dict[str, str]:
        rows = self._rows(number, count)
        things = short_digest(b"".join(self._keys[rows.start : rows.stop]))
        return {"encoding": self._encoding, "shard": f"{number}/{count}", "things": things}

    def _count(self) -> int:
        """Return the number of shards, 0 if there are none. Raises CcdError if one is missing, see `restore`."""
        stem = self._whole.stem
        name = re.compile(rf"{re.escape(stem)}\.shard-(\d{{5,}})-of-(\d{{5,}})\.h5")
        parts = [match for path in self._whole.parent.glob("*.h5") if (match := name.fullmatch(path.name))]
        counts = sorted({int(match[2]) for match in parts})
        if len(counts) > 1:
            raise CcdError(f"{self._whole.parent} holds {stem}.shard-* of {listed(counts)}: keep those of one division")
        lost = sorted(set(range(1, sum(counts) + 1)) - {int(match[1]) for match in parts})
        if lost:
            raise CcdError(
                f"{self._whole.parent}: shards {listed(lost)} of {counts[0]} are missing; make them: python -m "
                f"stages.{stem} ... --shard {lost[0]}/{counts[0]}; or delete all {stem}.shard-*"
            )
        return sum(counts)

    def _pieces(self, count: int, missing: np.ndarray) -> Pieces:
        """Yield the ``missing`` things and their features, a bounded number at a time; see `restore`."""
        for number in range(1, count + 1):
            rows = self._rows(number, count)
            first, last = np.searchsorted(missing, (rows.start, rows.stop))
            path = self._path(number, count)
            if first == last:
                continue
            try:
                file = FeatureFile(path, SHARD_SCHEMA)
                for key, value in self._attributes(number, count).items():
                    if file.attributes.get(key) != value:
                        raise CcdError(f"{path}: {_FOREIGN[key]}")
                for some, values in file.pieces(missing[first:last] - rows.start):
                    yield some + rows.start, values
            except CcdError as error:
                again = f"python -m stages.{self._whole.stem} ... --shard {number}/{count}"
                raise CcdError(f"{error}; delete it, and make it again: {again}") from None
