"""An output that can be continued: finished rows lie as numbered pieces in a folder beside it until all are there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.atomic import remove_leftovers, replacing, write_json
from ccd.errors import CcdError

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
