"""Predictions as rows of CSV, JSON lines or Parquet, in whole pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.files import csv_line, remove_leftovers, replacing, write_json
from ccd.errors import CcdError
from ccd.labels.thresholds import decide

_NOTE = "run.json"


def folder_of(out: Path) -> Path:
    """Where the unfinished part of ``out`` lies."""
    return out.with_name(f"{out.name}.partial")


def is_unfinished(out: Path) -> bool:
    """Whether an interrupted run left pieces of ``out``."""
    return (folder_of(out) / _NOTE).exists()


def refuse_unfinished(out: Path) -> None:
    """Refuse to start over where an interrupted run left pieces: they may be hours of work.

    Raises:
        CcdError: there are some, or a folder of another kind has their name.
    """
    if is_unfinished(out):
        raise CcdError(
            f"{folder_of(out)} is left from an interrupted run; continue it with --resume, or start over with --force"
        )
    refuse_other_folder(out)


def refuse_other_folder(out: Path) -> None:
    """Raises CcdError if the folder for the pieces of ``out`` is somebody's own."""
    folder = folder_of(out)
    if folder.exists() and not is_unfinished(out) and (not folder.is_dir() or _holds_files(folder)):
        raise CcdError(
            f"{folder} is needed for unfinished work, and is no part of it; rename it, or choose another --out"
        )


def _holds_files(folder: Path) -> bool:
    return any(not path.name.endswith(".tmp") for path in folder.iterdir())


def discard(out: Path) -> None:
    """Delete the pieces of ``out`` that an interrupted run left; what others put beside them stays."""
    if is_unfinished(out):
        _remove(folder_of(out))


def _remove(folder: Path) -> None:
    """Delete pieces, then the note that says whose they are, then the folder if it is empty."""
    for path in [*_paths_in(folder), folder / _NOTE, *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _paths_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{'[0-9]' * 8}.parquet"))


class Pieces:
    """The unfinished part of ``out``, in the folder ``OUT.partial``."""

    def __init__(self, out: Path, identity: dict[str, str], *, resume: bool) -> None:
        """Start, or with ``resume`` continue what was interrupted.

        Args:
            identity: what must be the same for two runs' rows to belong into one file.

        Raises:
            CcdError: there are pieces and nobody asked to continue them, they are of another model, or the folder is
                somebody's own.
        """
        self.folder = folder_of(out)
        note = self.folder / _NOTE
        remove_leftovers(out.parent, out.name)
        if not resume:
            refuse_unfinished(out)
        refuse_other_folder(out)
        if note.exists():
            _same(self.folder, note, identity)
        else:
            write_json(note, dict(identity))
        self.count = len(self._paths())

    def _paths(self) -> list[Path]:
        return _paths_in(self.folder)

    def add(self, piece: pa.Table) -> None:
        """Keep a piece: whole, or not at all."""
        with replacing(self.folder / f"{self.count:08}.parquet") as temporary:
            pq.write_table(piece, temporary, compression="zstd")
        self.count += 1

    def keep(self, count: int) -> None:
        """Drop all pieces but the first ``count``."""
        for path in self._paths()[count:]:
            path.unlink()
        self.count = min(self.count, count)

    def tables(self) -> Iterator[pa.Table]:
        """All pieces, in order."""
        for path in self._paths():
            yield pq.read_table(path)

    def done(self) -> set[str]:
        """The ``path`` column of all pieces."""
        return {path for file in self._paths() for path in pq.read_table(file, columns=["path"])["path"].to_pylist()}

    def remove(self) -> None:
        """Forget the pieces, once they are in the output."""
        _remove(self.folder)


def _same(folder: Path, note: Path, wanted: dict[str, str]) -> None:
    try:
        found = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise CcdError(f"{note} is damaged; start over with --force") from None
    other = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if other:
        raise CcdError(
            f"{folder} was begun with another {', '.join(other)}; give the same again, or start over with --force"
        )


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
            rows = 0
            writer = TextWriter(file, kind, classes)
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
        self._file = file
        self._kind = kind
        self._classes = list(classes)
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
