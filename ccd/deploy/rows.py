"""Predictions as tables: one row per image, one column per class, in Parquet, CSV and JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.atomic import replacing
from ccd.artifacts.csv_files import csv_line
from ccd.errors import CcdError
from ccd.labels.thresholds import decide

SCHEMA = "ccd.predicted/1"
KEYS = ("path", "labels")
RESERVED = frozenset({*KEYS, "image_id", "classes", "class", "split"})
"""Columns, in lower case, in which readers of people's lists look for something else than a class's probability."""
Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet")


def format_of(path: Path) -> Format:
    """By the file name's ending. Raises CcdError for another one."""
    for name in FORMATS:
        if path.suffix.lower() == f".{name}":
            return name
    raise CcdError(f"{path}: the name must end in .csv, .jsonl or .parquet; or give --format")


def class_columns(classes: Sequence[str]) -> list[str]:
    """The column of each class: its name, with ``_`` behind it where that is a column already or one of `RESERVED`."""
    columns: list[str] = []
    for name in classes:
        column = name
        while column.casefold() in RESERVED or column in columns or (column != name and column in classes):
            column += "_"
        columns.append(column)
    return columns


def table(paths: Iterable[Path], probs: np.ndarray, cuts: np.ndarray, classes: Sequence[str]) -> pa.Table:
    """``path``, ``labels`` (the decided classes) and the (b, C) probabilities, one float32 column per class."""
    present = decide(probs, cuts)
    labels = [[name for name, there in zip(classes, row, strict=True) if there] for row in present]
    columns = [pa.array(np.ascontiguousarray(column), pa.float32()) for column in probs.astype(np.float32).T]
    keys = [pa.array([path.as_posix() for path in paths], pa.string()), pa.array(labels, pa.list_(pa.string()))]
    return pa.Table.from_arrays([*keys, *columns], schema=table_schema(classes))


def table_schema(classes: Sequence[str]) -> pa.Schema:
    """The schema of `table`; its metadata holds the class names in order."""
    fields = [pa.field("path", pa.string(), False), pa.field("labels", pa.list_(pa.string()), False)]
    fields += [pa.field(name, pa.float32(), False) for name in class_columns(classes)]
    return pa.schema(fields, {"schema": SCHEMA, "classes": json.dumps(list(classes), ensure_ascii=False)})


def write(path: Path, kind: Format, tables: Iterable[pa.Table], classes: Sequence[str]) -> int:
    """Write tables of `table` one after the other; the file appears when it is whole. Returns the number of rows."""
    with replacing(path) as temporary:
        if kind == "parquet":
            return _write_parquet(temporary, tables, classes)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            rows, writer = 0, TextWriter(file, kind, classes)
            for piece in tables:
                writer.write(piece)
                rows += len(piece)
            return rows


def _write_parquet(path: Path, tables: Iterable[pa.Table], classes: Sequence[str]) -> int:
    rows = 0
    with pq.ParquetWriter(path, table_schema(classes), compression="zstd") as writer:
        for piece in tables:
            writer.write_table(piece)
            rows += len(piece)
    return rows


class TextWriter:
    """CSV (with a header, written at once) or JSON Lines, row by row."""

    def __init__(self, file: IO[str], kind: Format, classes: Sequence[str]) -> None:
        self._file, self._kind, self._classes = file, kind, list(classes)
        if kind == "csv":
            file.write(csv_line([*KEYS, *class_columns(classes)]))

    def write(self, piece: pa.Table) -> None:
        """Append the rows of a `table`."""
        for path, labels, probs in rows_of(piece):
            if self._kind == "csv":
                self._file.write(csv_line([path, ";".join(labels), *probs]))
            else:
                row = {"path": path, "labels": labels, "probs": dict(zip(self._classes, probs, strict=True))}
                self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows_of(piece: pa.Table) -> Iterator[tuple[str, list[str], list[float]]]:
    """Path, decided classes and probabilities of each row, in the fewest digits that identify a float32."""
    values = np.stack([column.to_numpy() for column in piece.columns[2:]], axis=1)
    for path, labels, row in zip(piece["path"].to_pylist(), piece["labels"].to_pylist(), values, strict=True):
        yield path, labels, [short(value) for value in row]


def short(value: float) -> float:
    """The float64 with the fewest digits that is the same float32."""
    return float(str(np.float32(value)))
