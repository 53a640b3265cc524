"""Tables of predictions in CSV, JSON Lines or Parquet, and the pieces in which unfinished ones are kept."""

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
from ccd.images.remote import name_of
from ccd.labels.thresholds import decide

SCHEMA = "ccd.predicted/1"
KEYS = ("path", "labels")
RESERVED = frozenset({*KEYS, "image_id", "classes", "class", "split"})
"""Column names, in lower case, that readers of label lists use for something else than a class's probability."""
Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "jsonl", "parquet")
_IDENTITY_FILE = "run.json"


def folder_of(out: Path) -> Path:
    """Return the folder for the pieces of an unfinished ``out``."""
    return out.with_name(f"{out.name}.partial")


def is_unfinished(out: Path) -> bool:
    """Tell whether an interrupted run left pieces of ``out``."""
    return (folder_of(out) / _IDENTITY_FILE).exists()


def refuse_unfinished(out: Path) -> None:
    """Refuse to start over if an interrupted run left pieces of ``out``, since they may be hours of work.

    Raises:
        CcdError: there are pieces, or see `refuse_other_folder`.
    """
    if is_unfinished(out):
        raise CcdError(
            f"{folder_of(out)} is left from an interrupted run; continue it with --resume, or start over with --force"
        )
    refuse_other_folder(out)


def refuse_other_folder(out: Path) -> None:
    """Refuse a folder for the pieces of ``out`` that holds other files. Raises CcdError if so."""
    folder = folder_of(out)
    if folder.exists() and not is_unfinished(out) and (not folder.is_dir() or _holds_files(folder)):
        raise CcdError(
            f"{folder} is needed for unfinished work but holds other files; rename it, or choose another --out"
        )


def _holds_files(folder: Path) -> bool:
    return any(not path.name.endswith(".tmp") for path in folder.iterdir())


def discard(out: Path) -> None:
    """Delete the pieces of ``out`` that an interrupted run left; other files in their folder stay."""
    if is_unfinished(out):
        _remove(folder_of(out))


def _remove(folder: Path) -> None:
    """Delete the pieces, then the file of their identity, then the folder if it is empty."""
    for path in [*_piece_paths(folder), folder / _IDENTITY_FILE, *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _piece_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{'[0-9]' * 8}.parquet"))


class Pieces:
    """The finished pieces of ``out``, in the folder ``OUT.partial``; ``count`` is their number."""

    def __init__(self, out: Path, identity: dict[str, str], *, resume: bool) -> None:
        """Start, or with ``resume`` continue an interrupted run.

        Args:
            identity: settings that two runs must share for their rows to belong into one file.

        Raises:
            CcdError: there are pieces and ``resume`` is false, their identity is another, or see
                `refuse_other_folder`.
        """
        self.folder = folder_of(out)
        identity_file = self.folder / _IDENTITY_FILE
        remove_leftovers(out.parent, out.name)
        if not resume:
            refuse_unfinished(out)
        refuse_other_folder(out)
        if identity_file.exists():
            _check_identity(self.folder, identity_file, identity)
        else:
            write_json(identity_file, dict(identity))
        self.count = len(self._paths())

    def _paths(self) -> list[Path]:
        return _piece_paths(self.folder)

    def add(self, piece: pa.Table) -> None:
        """Write a piece, whole or not at all."""
        with replacing(self.folder / f"{self.count:08}.parquet") as temporary:
            pq.write_table(piece, temporary, compression="zstd")
        self.count += 1

    def keep(self, count: int) -> None:
        """Delete all pieces but the first ``count``."""
        for path in self._paths()[count:]:
            path.unlink()
        self.count = min(self.count, count)

    def tables(self) -> Iterator[pa.Table]:
        """Read all pieces in order."""
        for path in self._paths():
            yield pq.read_table(path)

    def done(self) -> set[str]:
        """Return the values of column ``path`` in all pieces."""
        return {path for file in self._paths() for path in pq.read_table(file, columns=["path"])["path"].to_pylist()}

    def remove(self) -> None:
        """Delete the pieces, once they are in the output."""
        _remove(self.folder)


def _check_identity(folder: Path, identity_file: Path, identity: dict[str, str]) -> None:
    try:
        stored = dict(json.loads(identity_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise CcdError(f"{identity_file} is damaged; start over with --force") from None
    differing = sorted(key for key in stored.keys() | identity.keys() if stored.get(key) != identity.get(key))
    if differing:
        raise CcdError(
            f"{folder} was begun with another {', '.join(differing)}; use the same again, or start over with --force"
        )


def format_of(path: Path) -> Format:
    """Return the format by the extension of a file name. Raises CcdError for an unknown extension."""
    for name in FORMATS:
        if path.suffix.lower() == f".{name}":
            return name
    raise CcdError(f"{path}: the name must end in .csv, .jsonl or .parquet; or give --format")


def class_columns(classes: Sequence[str]) -> list[str]:
    """Return the column name of each class: its name, with ``_`` appended while it is taken or one of `RESERVED`."""
    columns: list[str] = []
    for name in classes:
        column = name
        while column.casefold() in RESERVED or column in columns or (column != name and column in classes):
            column += "_"
        columns.append(column)
    return columns


def table(paths: Iterable[Path], probs: np.ndarray, cuts: np.ndarray, classes: Sequence[str]) -> pa.Table:
    """Return a table of ``path``, ``labels`` (the decided classes) and the probabilities, a float32 column per class.

    Args:
        probs: (b, C) probabilities.
        cuts: (C,) thresholds.
    """
    present = decide(probs, cuts)
    labels = [[name for name, is_present in zip(classes, row, strict=True) if is_present] for row in present]
    columns = [pa.array(np.ascontiguousarray(column), pa.float32()) for column in probs.astype(np.float32).T]
    keys = [pa.array([name_of(path) for path in paths], pa.string()), pa.array(labels, pa.list_(pa.string()))]
    return pa.Table.from_arrays([*keys, *columns], schema=table_schema(classes))


def table_schema(classes: Sequence[str]) -> pa.Schema:
    """Return the schema of `table`; its metadata holds the class names in order."""
    fields = [pa.field("path", pa.string(), False), pa.field("labels", pa.list_(pa.string()), False)]
    fields += [pa.field(name, pa.float32(), False) for name in class_columns(classes)]
    return pa.schema(fields, {"schema": SCHEMA, "classes": json.dumps(list(classes), ensure_ascii=False)})


def write(path: Path, kind: Format, tables: Iterable[pa.Table], classes: Sequence[str]) -> int:
    """Write the tables one after the other; the file appears when it is complete. Return the number of rows."""
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
    """Write CSV (its header at once) or JSON Lines, row by row."""

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
    """Yield path, decided classes and probabilities of each row, see `short`."""
    values = np.stack([column.to_numpy() for column in piece.columns[2:]], axis=1)
    for path, labels, row in zip(piece["path"].to_pylist(), piece["labels"].to_pylist(), values, strict=True):
        yield path, labels, [short(value) for value in row]


def short(value: float) -> float:
    """Return the float64 with the fewest digits that rounds to the same float32."""
    return float(str(np.float32(value)))
