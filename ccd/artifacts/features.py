"""``clip_global.h5`` and ``clip_local.h5``: CLIP's image embeddings, row-aligned with an id dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ccd.artifacts.align import same_ids, same_teacher
from ccd.artifacts.atomic import unreadable
from ccd.artifacts.hdf5 import attributes_of, creating, read_strings, reading, write_array, write_strings
from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError

GLOBAL_SCHEMA = "ccd.clip_global/1"
LOCAL_SCHEMA = "ccd.clip_local/1"
ROWS_PER_CHUNK = 256


@dataclass(frozen=True)
class Features:
    """``ids`` (M): image ids as strings, or box ids as an int64 array. ``values``: (M, D) float32, unit rows.
    ``attributes``: teacher, its fingerprint, preprocessing."""

    ids: Sequence[str] | np.ndarray
    values: np.ndarray
    attributes: dict[str, str]


class FeatureWriter:
    """Takes rows in any order; every row must come exactly once. ``check``: see `ccd.artifacts.hdf5.creating`."""

    def __init__(self, values: h5py.Dataset, check: Callable[[], None]) -> None:
        self._values = values
        self._check = check
        self._seen = np.zeros(len(values), bool)

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Store ``features`` (b, D) at ``rows`` (b,).

        Raises:
            CcdError: NaN, Inf, or a row that was written before.
            OSError: the disk refused a write, this one or an earlier one.
        """
        if not np.isfinite(features).all():
            raise CcdError(
                f"the teacher gave NaN or Inf for rows {rows[~np.isfinite(features).all(axis=1)][:10].tolist()}"
            )
        order = np.argsort(rows)
        if self._seen[rows].any():
            raise CcdError("a row of features was written twice")
        self._values[rows[order]] = features[order]
        self._seen[rows] = True
        self._check()

    def finish(self) -> None:
        """Raises CcdError if a row is missing."""
        if not self._seen.all():
            raise CcdError(f"{(~self._seen).sum()} of {len(self._seen)} rows of features are missing")


@contextmanager
def writing(
    path: Path, schema: str, ids: Sequence[str] | Sequence[int] | np.ndarray, width: int, attributes: dict[str, str]
) -> Iterator[FeatureWriter]:
    """Open a feature file for writing; it appears at ``path`` only when the block ends well and every row is there."""
    with creating(path, schema, attributes) as (file, check):
        if schema == LOCAL_SCHEMA:
            write_array(file, "box_id", np.asarray(ids, np.int64), np.int64)
        else:
            write_strings(file, "image_id", list(map(str, ids)))
        chunks = (max(1, min(ROWS_PER_CHUNK, len(ids))), width)
        shape, maximum = (len(ids), width), (None, width)
        values = file.create_dataset("features", shape, np.float32, chunks=chunks, maxshape=maximum, fletcher32=True)
        writer = FeatureWriter(values, check)
        yield writer
        writer.finish()


def read_global(path: Path, index: ImageIndex, teacher: Mapping[str, str]) -> np.ndarray:
    """The features (N, D) of ``clip_global.h5``, proven to be those of the ``index``, by the ``teacher`` whose
    attributes ``text.h5`` holds. Raises CcdError otherwise."""
    found = read(path, GLOBAL_SCHEMA)
    same_ids(path, "clip_global", found.ids, index.ids)
    same_teacher(path, "clip_global", found.attributes, teacher)
    return found.values


def write(path: Path, schema: str, features: Features) -> None:
    """Write features that are already in memory."""
    with writing(path, schema, features.ids, features.values.shape[1], features.attributes) as writer:
        writer.write(np.arange(len(features.values)), features.values)


def read(path: Path, schema: str) -> Features:
    """Read a whole feature file.

    Raises:
        CcdError: missing, damaged, of another schema, or with NaN or Inf in it.
    """
    stage = "clip_global" if schema == GLOBAL_SCHEMA else "clip_local"
    with reading(path, schema, stage) as file:
        ids = file["box_id"][...] if schema == LOCAL_SCHEMA else read_strings(file, "image_id")
        values, attributes = file["features"][...], attributes_of(file)
    if len(ids) != len(values):
        raise unreadable(path, f"{len(ids)} ids for {len(values)} rows", stage)
    if not np.isfinite(values).all():
        raise unreadable(path, "it holds NaN or Inf", stage)
    return Features(ids, values, attributes)
