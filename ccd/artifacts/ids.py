"""Ids of all images in little memory, rows matched by them, and the names that people give images."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np
import pyarrow as pa

from ccd.artifacts.csv_files import spellings
from ccd.artifacts.files import unreadable

_AT_ONCE = 4096


class Names(Sequence[str]):
    """A list of strings that costs their bytes and four more each; as Python's own strings they would cost sixty.

    Slices share the memory of the whole. Equal to any sequence of the same strings.
    """

    def __init__(self, values: Iterable[str] | pa.Array | pa.ChunkedArray) -> None:
        """Raises ValueError for what is no text (pyarrow.ArrowInvalid, of bytes that are not UTF-8)."""
        if isinstance(values, Names):
            values = values.arrow
        elif not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(list(values), pa.string())
        one = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        self.arrow: pa.StringArray = one.cast(pa.string())
        if self.arrow.null_count:
            raise ValueError("a name is missing")

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Names: ...
    def __getitem__(self, row: int | slice) -> str | Names:
        if isinstance(row, slice):
            start, end, step = row.indices(len(self))
            return Names(self.arrow[start:end] if step == 1 else self.take(np.arange(start, end, step)).arrow)
        name: str = self.arrow[row].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.arrow.slice(start, _AT_ONCE).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self.arrow.equals(other.arrow))
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''})"

    def take(self, rows: np.ndarray) -> Names:
        """The names at ``rows`` (m,), in that order."""
        return Names(self.arrow.take(pa.array(rows, pa.int64())))


def same_ids(path: Path, stage: str, found: Iterable[object], wanted: Iterable[object]) -> None:
    """Raises CcdError unless the ids of the artifact at ``path`` are the wanted ones, in order."""
    if isinstance(found, np.ndarray) and isinstance(wanted, np.ndarray) and np.array_equal(found, wanted):
        return
    if isinstance(found, Names) and isinstance(wanted, Names) and found == wanted:
        return
    found, wanted = list(found), list(wanted)
    if found == wanted:
        return
    pairs = zip(found, wanted, strict=False)
    at = next((row for row, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))
    raise unreadable(
        path, f"its {len(found)} rows are not the {len(wanted)} images asked for (first at row {at})", stage
    )


def same_classes(path: Path, stage: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises CcdError unless the classes of the artifact at ``path`` are the wanted ones, in order."""
    if list(found) != list(wanted):
        raise unreadable(
            path, f"its {len(found)} classes are not the {len(wanted)} of the data set, in their order", stage
        )


def same_teacher(path: Path, stage: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises CcdError unless the attributes of the artifact at ``path`` name the teacher of the ``wanted`` ones."""
    own, other = (attributes.get("fingerprint", "unknown") for attributes in (found, wanted))
    if own != other:
        reason = f"its teacher is {own[:12]} ({found.get('teacher', '?')}), that of text.h5 is {other[:12]}"
        raise unreadable(path, reason, stage)


def rows_of(path: Path, stage: str, wanted: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    """Where each ``wanted`` id of the artifact at ``path`` stands in ``ids``, int64. Raises CcdError for a stranger."""
    place = {name: row for row, name in enumerate(ids)}
    rows = np.fromiter((place.get(name, -1) for name in wanted), np.int64, len(wanted))
    strangers = np.flatnonzero(rows < 0)
    if len(strangers):
        first, others = wanted[strangers[0]], len(strangers) - 1
        raise unreadable(path, f"{first!r} (and {others} more) is unknown to the other artifacts", stage)
    return rows


class RowsOfImages:
    """Which rows of a table lie on which images: ``image_rows`` (B,) is the image of each row, in any order."""

    def __init__(self, image_rows: np.ndarray) -> None:
        self._order = np.argsort(image_rows, kind="stable")
        self._images = image_rows[self._order]

    def between(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows on images ``start`` .. ``end`` - 1, ascending, and the image of each, counted from ``start``; both
        (b,) int64."""
        first, last = np.searchsorted(self._images, (start, end))
        by_row = np.argsort(self._order[first:last])
        return self._order[first:last][by_row], self._images[first:last][by_row] - start
