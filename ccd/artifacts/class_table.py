"""The tables of image x class in long form: one row per image and class, image by image, easy to filter.

`read` and `write` take whole (N, C) arrays, `pieces` and `writing` a bounded number of images at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.files import unreadable
from ccd.artifacts.image_index import Names, same_classes
from ccd.artifacts.sealed import file_metadata, open_parquet, rows_with, schema, writing_parquet

ROWS_PER_BATCH = 2**17
IMAGES_PER_PIECE = 1024
NAME = pa.dictionary(pa.int32(), pa.string())
Column = tuple[str, pa.DataType, bool, str]


@dataclass(frozen=True)
class ClassTable:
    """``ids`` (N) image ids, ``classes`` (C), ``columns`` name -> (N, C) array, ``metadata`` of the file.

    A nullable column is a float array with NaN, or an integer array with -1, where the file has null.
    """

    ids: Sequence[str]
    classes: tuple[str, ...]
    columns: dict[str, np.ndarray]
    metadata: dict[str, str]


@dataclass(frozen=True)
class TableSpec:
    """The declaration of one artifact: its schema's name, its value columns, the stage that writes it."""

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
    with writing(path, spec, table.classes, table.metadata) as writer:
        writer.write(table.ids, table.columns)


@contextmanager
def writing(path: Path, spec: TableSpec, classes: Sequence[str], metadata: dict[str, str]) -> Iterator[TableWriter]:
    """Open a table for writing in pieces; it appears at ``path`` only if the block succeeds.

    The bytes do not depend on the sizes of the pieces.
    """
    named = {**metadata, "classes": json.dumps(list(classes), ensure_ascii=False)}
    with writing_parquet(path, spec.schema, named) as write_group:
        writer = TableWriter(spec, classes, write_group)
        yield writer
        writer.flush()


class TableWriter:
    """Takes images in order, any number at a time, and writes row groups of `ROWS_PER_BATCH` rows."""

    def __init__(self, spec: TableSpec, classes: Sequence[str], write_group: Callable[[pa.RecordBatch], None]) -> None:
        self._spec = spec
        self._names = pa.array(classes, pa.string())
        self._write_group = write_group
        self._images = max(1, ROWS_PER_BATCH // len(classes))
        self._ids: list[str] = []
        self._parts: list[dict[str, np.ndarray]] = []

    def write(self, ids: Sequence[str], columns: Mapping[str, np.ndarray]) -> None:
        """Append M images: their ``ids`` and (M, C) ``columns``; columns that the spec lacks are ignored."""
        start = 0
        while start < len(ids):
            end = min(len(ids), start + self._images - len(self._ids))
            self._ids += ids[start:end]
            self._parts.append({name: columns[name][start:end] for name, *_ in self._spec.columns})
            if len(self._ids) == self._images:
                self.flush()
            start = end

    def flush(self) -> None:
        """Write the pending images as a row group with its own dictionaries, which hold no other group's names."""
        if not self._ids:
            return
        ids = pa.array(self._ids, pa.string())
        image_keys = np.repeat(np.arange(len(ids), dtype=np.int32), len(self._names))
        class_keys = np.tile(np.arange(len(self._names), dtype=np.int32), len(ids))
        values = [
            _values(np.concatenate([part[name] for part in self._parts]), kind, nullable)
            for name, kind, nullable, _ in self._spec.columns
        ]
        keys = [
            pa.DictionaryArray.from_arrays(image_keys, ids),
            pa.DictionaryArray.from_arrays(class_keys, self._names),
        ]
        self._write_group(pa.record_batch([*keys, *values], schema=self._spec.schema))
        self._ids = []
        self._parts = []


def _values(array: np.ndarray, kind: pa.DataType, nullable: bool) -> pa.Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    if not nullable:
        return pa.array(flat, kind)
    return pa.array(flat, kind, mask=np.isnan(flat) if pa.types.is_floating(kind) else flat < 0)


def read(
    path: Path, spec: TableSpec, columns: Sequence[str] | None = None, *, of: Sequence[str] | None = None
) -> ClassTable:
    """Read the value columns (all, or the named ones) as (N, C) arrays; see `pieces` for ``of`` and the errors."""
    with _opened(path, spec, of) as (file, classes, metadata):
        wanted = _wanted(spec, columns)
        shape = (file.metadata.num_rows // len(classes), len(classes))
        arrays = {name: np.empty(shape, kind.to_pandas_dtype()) for name, kind, _, _ in wanted}
        ids = [pa.array([], pa.string())]
        done = 0
        for names, group in _groups(path, spec, file, classes, wanted):
            for name, values in group.items():
                arrays[name][done : done + len(names)] = values
            ids.append(names.arrow)
            done += len(names)
    return ClassTable(Names(pa.chunked_array(ids)), classes, arrays, metadata)


def read_image(path: Path, spec: TableSpec, image_id: str) -> ClassTable:
    """Read the row of one image alone, N = 1, or 0 if it has none; see `pieces` for the errors."""
    with _opened(path, spec, None) as (file, classes, metadata):
        ((ids, columns),) = _groups(path, spec, file, classes, list(spec.columns), image_id)
    return ClassTable(ids, classes, columns, metadata)


def pieces(
    path: Path, spec: TableSpec, columns: Sequence[str] | None = None, *, of: Sequence[str] | None = None
) -> Iterator[ClassTable]:
    """Yield the table as consecutive pieces of at most `IMAGES_PER_PIECE` images; memory does not grow with the file.

    Args:
        of: the classes that the table must have, in order; None: any.

    Raises:
        CcdError: the file is missing, damaged, of another version or other classes, has NaN or Inf where no value may
            be missing, or its rows are not images x classes in order.
    """
    with _opened(path, spec, of) as (file, classes, metadata):
        for ids, group in _groups(path, spec, file, classes, _wanted(spec, columns)):
            for start in range(0, len(ids), IMAGES_PER_PIECE):
                part = slice(start, start + IMAGES_PER_PIECE)
                yield ClassTable(ids[part], classes, {name: values[part] for name, values in group.items()}, metadata)


def _wanted(spec: TableSpec, columns: Sequence[str] | None) -> list[Column]:
    return [column for column in spec.columns if columns is None or column[0] in columns]


@contextmanager
def _opened(
    path: Path, spec: TableSpec, of: Sequence[str] | None
) -> Iterator[tuple[pq.ParquetFile, tuple[str, ...], dict[str, str]]]:
    """Yield the file, its classes and its other metadata."""
    with open_parquet(path, spec.schema, spec.stage) as file:
        metadata = file_metadata(file.schema_arrow)
        classes = _class_names(path, spec, metadata.pop("classes", ""))
        if of is not None:
            same_classes(path, spec.stage, classes, of)
        if file.metadata.num_rows % len(classes):
            raise unreadable(
                path, f"{file.metadata.num_rows} rows are not a multiple of {len(classes)} classes", spec.stage
            )
        yield file, classes, metadata


def _groups(
    path: Path, spec: TableSpec, file: pq.ParquetFile, classes: tuple[str, ...], wanted: list[Column], image: str = ""
) -> Iterator[tuple[Names, dict[str, np.ndarray]]]:
    """Yield image ids (M) and columns (M, C) of each row group; with an ``image``, once, of that alone."""
    names = ["image_id", "class", *(name for name, *_ in wanted)]
    for group in range(1 if image else file.num_row_groups):
        try:
            piece = rows_with(file, "image_id", image) if image else file.read_row_group(group, names)
            ids = _check_keys(piece, classes)
            arrays = {column[0]: _dense(piece[column[0]], column) for column in wanted}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unreadable(path, " ".join(str(error).split()), spec.stage) from None
        yield ids, {name: array.reshape(-1, len(classes)) for name, array in arrays.items()}


def _dense(values: pa.ChunkedArray, column: Column) -> np.ndarray:
    """Return flat values, NaN or -1 for null. Raises ValueError for NaN or Inf where no value may be missing."""
    name, kind, nullable, _ = column
    missing: float | int = np.nan if pa.types.is_floating(kind) else -1
    array: np.ndarray = values.fill_null(missing).to_numpy() if values.null_count else values.to_numpy()
    if not nullable and not np.isfinite(array).all():
        raise ValueError(f"its column {name} holds NaN or Inf")
    return array


def _class_names(path: Path, spec: TableSpec, text: str) -> tuple[str, ...]:
    try:
        names = tuple(str(name) for name in json.loads(text))
        if not names:
            raise ValueError("there is none")
        return names
    except (ValueError, TypeError) as error:
        raise unreadable(path, f"its class names are malformed ({error})", spec.stage) from None


def _check_keys(piece: pa.Table, classes: tuple[str, ...]) -> Names:
    """Return the images of a row group after checking that its rows are images x classes in order."""
    if len(piece) % len(classes):
        raise ValueError("a row group ends within an image")
    image = piece["image_id"].combine_chunks()
    name = piece["class"].combine_chunks()
    image_codes = image.indices.to_numpy().reshape(-1, len(classes))
    name_codes = name.indices.to_numpy().reshape(-1, len(classes))
    in_order = name.dictionary.take(pa.array(name_codes[0])).to_pylist() == list(classes) if len(piece) else True
    if not in_order or not (name_codes == name_codes[:1]).all() or not (image_codes == image_codes[:, :1]).all():
        raise ValueError("rows are not images x classes in order")
    return Names(image.dictionary.take(pa.array(image_codes[:, 0])))


LABELS = TableSpec(
    "ccd.labels/1",
    (
        ("label", pa.int8(), False, "1: the class is present, 0: it is not; images without known labels have no rows"),
        ("difficult", pa.bool_(), False, "all objects of the class in the image are marked difficult"),
    ),
    "index",
)


GLOBAL_LABELS = TableSpec(
    "ccd.global_labels/1",
    (
        ("prob", pa.float32(), False, "p: softmax over classes of s * cosine (method section 1)"),
        ("entropy_nats", pa.float32(), False, "H of the image's p, the same for all its classes (section 2)"),
        ("label", pa.float32(), False, "q = clip(max(p, floor) / b, 0, 1) (section 3)"),
    ),
    "global_labels",
)


PSEUDO_LABELS = TableSpec(
    "ccd.pseudo_labels/2",
    (
        ("global_prob", pa.float32(), False, "p of the whole image"),
        ("local_prob", pa.float32(), True, "largest p over the image's local views; null: the image has none"),
        ("global_label", pa.float32(), False, "q, from global_prob (method section 3)"),
        ("local_label", pa.float32(), False, "l, from local_prob (section 6); q where the image has no view"),
        ("label", pa.float32(), False, "y = clip(alpha * q + (1 - alpha) * l, 0, 1) (section 7): the training target"),
        ("box_id", pa.int64(), True, "the view with the largest p, as in boxes.parquet; null: the image has none"),
        ("correction", pa.int8(), True, "what a person decided: 1 present, 0 absent; null: nobody did"),
        ("uncorrected_label", pa.float32(), True, "y before the correction; null: there is none, label is y"),
    ),
    "aggregate",
)


def middles_metadata(classes: Sequence[str], middles: np.ndarray | None) -> dict[str, str]:
    """Return the metadata of ``pseudo_labels.parquet`` on t (C,), the middle of each class's labels; None: none."""
    if middles is None:
        return {}
    return {"sharpen_at": json.dumps(dict(zip(classes, middles.tolist(), strict=True)), ensure_ascii=False)}


def middles_of(table: ClassTable) -> np.ndarray | None:
    """Return t (C,) of `middles_metadata`; None where all classes share one."""
    text = table.metadata.get("sharpen_at")
    return None if text is None else np.asarray([json.loads(text)[name] for name in table.classes], np.float64)


PREDICTIONS = TableSpec(
    "ccd.predictions/1",
    (
        ("zero_shot_prob", pa.float32(), False, "the teacher's p of the whole image"),
        ("student_prob", pa.float32(), False, "sigmoid(logit) of the selected student"),
    ),
    "evaluate",
)
