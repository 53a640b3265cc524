"""Row alignment between artifacts: ids are compared, not lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ccd.artifacts.atomic import unreadable


def same_ids(path: Path, stage: str, found: Iterable[object], wanted: Iterable[object]) -> None:
    """Raises CcdError unless the ids of the artifact at ``path`` are the wanted ones, in order."""
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


def rows_of(path: Path, stage: str, wanted: Iterable[str], ids: Sequence[str]) -> np.ndarray:
    """Where each ``wanted`` id of the artifact at ``path`` stands in ``ids``, int64. Raises CcdError for a stranger."""
    place = {name: row for row, name in enumerate(ids)}
    rows = [(name, place.get(name, -1)) for name in wanted]
    strangers = [name for name, row in rows if row < 0]
    if strangers:
        raise unreadable(
            path, f"{strangers[0]!r} (and {len(strangers) - 1} more) is unknown to the other artifacts", stage
        )
    return np.asarray([row for _, row in rows], np.int64)
