"""An output that can be continued: finished rows lie as numbered pieces in a folder beside it until all are there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.atomic import remove_leftovers, replacing, write_json
from ccd.errors import CcdError


class Pieces:
    """The unfinished part of ``out``, in the folder ``OUT.partial``."""

    def __init__(self, out: Path, identity: dict[str, str], *, resume: bool) -> None:
        """Start, or with ``resume`` continue what was interrupted.

        Args:
            identity: what must be the same for two runs' rows to belong into one file.

        Raises:
            CcdError: there are pieces and nobody asked to continue them, or they are of another model.
        """
        self.folder = out.with_name(f"{out.name}.partial")
        note = self.folder / "run.json"
        remove_leftovers(out.parent, out.name)
        if note.exists():
            if not resume:
                raise CcdError(
                    f"{self.folder} is left from an interrupted run; continue it with --resume, or remove it"
                )
            _same(self.folder, note, identity)
        else:
            write_json(note, dict(identity))
        self.count = len(self._paths())

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

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
        shutil.rmtree(self.folder)


def _same(folder: Path, note: Path, wanted: dict[str, str]) -> None:
    try:
        found = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise CcdError(f"{note} is damaged; remove {folder} to start over") from None
    other = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if other:
        raise CcdError(f"{folder} was begun with another {', '.join(other)}; remove it to start over")
