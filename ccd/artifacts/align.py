"""Row alignment between artifacts: ids are compared, not lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ccd.artifacts.atomic import unreadable
from ccd.artifacts.names import Names


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
