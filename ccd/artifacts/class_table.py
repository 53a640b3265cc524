"""The long form of (N, C) arrays: one row per image and class, image-major, as people filter it.

``labels.parquet``, ``global_labels.parquet`` and ``pseudo_labels.parquet`` share it. Memory does not grow with the
file while writing; reading gives the dense arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.align import same_classes
from ccd.artifacts.atomic import unreadable
from ccd.artifacts.parquet import file_metadata, open_parquet, schema, write_parquet

ROWS_PER_BATCH = 1_000_000
NAME = pa.dictionary(pa.int32(), pa.string())
Column = tuple[str, pa.DataType, bool, str]


@dataclass(frozen=True)
class ClassTable:
    """``ids`` (N) image ids, ``classes`` (C), ``columns`` name -> (N, C) array, ``metadata`` of the file.

    A nullable column is a float array with NaN, or an integer array with -1, where the file has null.
    """

    ids: list[str]
    classes: tuple[str, ...]
    columns: dict[str, np.ndarray]
    metadata: dict[str, str]


@dataclass(frozen=True)
class TableSpec:
    """What one artifact declares: its schema's name, its value columns, the stage that writes it."""

    name: str
    columns: tuple[Column, ...]
    stage: str

    @property
    def schema(self) -> pa.Schema:
        """The declared Arrow schema, keys first."""
        keys: list[Column] = [
            ("image_id", NAME, False, "image, as in images.parquet"),
            ("class", NAME, False, "class name, as in classes.json"),
        ]
        return schema(self.name, [*keys, *self.columns])


def write(path: Path, spec: TableSpec, table: ClassTable) -> None:
    """Write (N, C) columns as N*C rows; ``metadata`` goes beside the schema, with the class names."""
    metadata = {**table.metadata, "classes": json.dumps(list(table.classes), ensure_ascii=False)}
    write_parquet(path, _batches(spec, table), spec.schema, metadata)


def _batches(spec: TableSpec, table: ClassTable) -> Iterator[pa.RecordBatch]:
    """Dictionaries are those of the piece at hand, so that a piece costs what it holds."""
    class_count = len(table.classes)
    step = max(1, ROWS_PER_BATCH // class_count)
    names = pa.array(table.classes, pa.string())
    for start in range(0, len(table.ids), step):
        ids = pa.array(table.ids[start : start + step], pa.string())
        image_keys = np.repeat(np.arange(len(ids), dtype=np.int32), class_count)
        class_keys = np.tile(np.arange(class_count, dtype=np.int32), len(ids))
        values = [
            _values(table.columns[name][start : start + step], kind, nullable)
            for name, kind, nullable, _ in spec.columns
        ]
        keys = [pa.DictionaryArray.from_arrays(image_keys, ids), pa.DictionaryArray.from_arrays(class_keys, names)]
        yield pa.record_batch([*keys, *values], schema=spec.schema)


def _values(array: np.ndarray, kind: pa.DataType, nullable: bool) -> pa.Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    if not nullable:
        return pa.array(flat, kind)
    return pa.array(flat, kind, mask=np.isnan(flat) if pa.types.is_floating(kind) else flat < 0)


def read(
    path: Path, spec: TableSpec, columns: Sequence[str] | None = None, *, of: Sequence[str] | None = None
) -> ClassTable:
    """Read the value columns (all, or the named ones) as (N, C) arrays.

    Args:
        of: the classes that the table must be of, in order; None: any.

    Raises:
        CcdError: missing, damaged, of another version or other classes, with NaN or Inf where no value may be missing,
            or its rows are not images x classes in order.
    """
    wanted = [column for column in spec.columns if columns is None or column[0] in columns]
    with open_parquet(path, spec.schema, spec.stage) as file:
        metadata = file_metadata(file.schema_arrow)
        classes = _class_names(path, spec, metadata.pop("classes", ""))
        if of is not None:
            same_classes(path, spec.stage, classes, of)
        count, rest = divmod(file.metadata.num_rows, max(1, len(classes)))
        if rest:
            raise unreadable(
                path, f"{file.metadata.num_rows} rows are not a multiple of {len(classes)} classes", spec.stage
            )
        try:
            ids, arrays = _dense(file, classes, count, wanted)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unreadable(path, " ".join(str(error).split()), spec.stage) from None
    shaped = {name: array.reshape(count, len(classes)) for name, array in arrays.items()}
    return ClassTable(ids, tuple(classes), shaped, metadata)


def _dense(
    file: pq.ParquetFile, classes: list[str], count: int, wanted: list[Column]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Image ids and flat columns, a row group at a time. Raises ValueError if they are not what a table may hold."""
    arrays = {name: np.empty(count * len(classes), kind.to_pandas_dtype()) for name, kind, _, _ in wanted}
    ids: list[str] = []
    start = 0
    for group in range(file.num_row_groups):
        piece = file.read_row_group(group, columns=["image_id", "class", *arrays])
        ids += _check_keys(piece, classes)
        for name in arrays:
            _fill(arrays[name][start : start + len(piece)], piece[name])
        start += len(piece)
    broken = [name for name, _, nullable, _ in wanted if not nullable and not np.isfinite(arrays[name]).all()]
    if broken:
        raise ValueError(f"its column {broken[0]} holds NaN or Inf")
    return ids, arrays


def _class_names(path: Path, spec: TableSpec, text: str) -> list[str]:
    try:
        names = [str(name) for name in json.loads(text)]
        if not names:
            raise ValueError("there is none")
        return names
    except (ValueError, TypeError) as error:
        raise unreadable(path, f"its class names are malformed ({error})", spec.stage) from None


def _fill(target: np.ndarray, column: pa.ChunkedArray) -> None:
    missing: float | int = np.nan if np.issubdtype(target.dtype, np.floating) else -1
    target[:] = column.fill_null(missing).to_numpy() if column.null_count else column.to_numpy()


def _check_keys(piece: pa.Table, classes: list[str]) -> list[str]:
    """The images of a row group, once its rows are proven to be images x classes in order."""
    if len(piece) % len(classes):
        raise ValueError("a row group ends within an image")
    image, name = piece["image_id"].combine_chunks(), piece["class"].combine_chunks()
    image_codes = image.indices.to_numpy().reshape(-1, len(classes))
    name_codes = name.indices.to_numpy().reshape(-1, len(classes))
    in_order = name.dictionary.take(pa.array(name_codes[0])).to_pylist() == classes if len(piece) else True
    if not in_order or not (name_codes == name_codes[:1]).all() or not (image_codes == image_codes[:, :1]).all():
        raise ValueError("rows are not images x classes in order")
    return image.dictionary.take(pa.array(image_codes[:, 0])).to_pylist()  # type: ignore[no-any-return]
