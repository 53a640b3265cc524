"""``clip_global.h5`` and ``clip_local.h5``: CLIP's image embeddings, row-aligned with an id dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ccd.artifacts.align import same_ids
from ccd.artifacts.atomic import replacing, unreadable
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
    """Takes rows in any order; every row must come exactly once."""

    def __init__(self, values: h5py.Dataset) -> None:
        self._values = values
        self._seen = np.zeros(len(values), bool)

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        """Store ``features`` (b, D) at ``rows`` (b,). Raises CcdError for NaN, Inf or a row written before."""
        if not np.isfinite(features).all():
            raise CcdError(
                f"the teacher gave NaN or Inf for rows {rows[~np.isfinite(features).all(axis=1)][:10].tolist()}"
            )
        order = np.argsort(rows)
        if self._seen[rows].any():
            raise CcdError("a row of features was written twice")
        self._values[rows[order]] = features[order]
        self._seen[rows] = True

    def finish(self) -> None:
        """Raises CcdError if a row is missing."""
        if not self._seen.all():
            raise CcdError(f"{(~self._seen).sum()} of {len(self._seen)} rows of features are missing")


@contextmanager
def writing(
    path: Path, schema: str, ids: Sequence[str] | Sequence[int] | np.ndarray, width: int, attributes: dict[str, str]
) -> Iterator[FeatureWriter]:
    """Open a feature file for writing; it appears at ``path`` only when the block ends well and every row is there."""
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        for key, value in sorted({"schema": schema, **attributes}.items()):
            file.attrs[key] = value
        kind = np.int64 if schema == LOCAL_SCHEMA else h5py.string_dtype()
        file.create_dataset(_id_name(schema), data=ids, dtype=kind)
        chunks = (max(1, min(ROWS_PER_CHUNK, len(ids))), width)
        shape, maximum = (len(ids), width), (None, width)
        values = file.create_dataset("features", shape, np.float32, chunks=chunks, maxshape=maximum, fletcher32=True)
        writer = FeatureWriter(values)
        yield writer
        writer.finish()


def read_global(path: Path, index: ImageIndex) -> np.ndarray:
    """The features (N, D) of ``clip_global.h5``, proven to be those of the ``index``. Raises CcdError otherwise."""
    found = read(path, GLOBAL_SCHEMA)
    same_ids(path, "clip_global", found.ids, index.ids)
    return found.values


def write(path: Path, schema: str, features: Features) -> None:
    """Write features that are already in memory."""
    with writing(path, schema, features.ids, features.values.shape[1], features.attributes) as writer:
        writer.write(np.arange(len(features.values)), features.values)


def read(path: Path, schema: str) -> Features:
    """Read a whole feature file.

    Raises:
        CcdError: missing, damaged (the chunks carry checksums), or of another schema.
    """
    stage = "clip_global" if schema == GLOBAL_SCHEMA else "clip_local"
    try:
        with h5py.File(path, "r") as file:
            attributes = {key: str(value) for key, value in file.attrs.items()}
            found = attributes.pop("schema", "none")
            if found != schema:
                raise unreadable(path, f"its schema is {found!r}, expected {schema!r}", stage)
            raw = file[_id_name(schema)]
            ids: Sequence[str] | np.ndarray = raw[...] if schema == LOCAL_SCHEMA else list(raw.asstr()[...])
            values = file["features"][...]
    except (OSError, KeyError, ValueError) as error:
        raise unreadable(path, str(error), stage) from None
    if len(ids) != len(values):
        raise unreadable(path, f"{len(ids)} ids for {len(values)} rows", stage)
    return Features(ids, values, attributes)


def _id_name(schema: str) -> str:
    return "image_id" if schema == GLOBAL_SCHEMA else "box_id"
