"""``corrections/<dataset.name>.csv``: what people decided about training images. Hand work: it belongs into git.

Columns ``image_id,class,label``; a row per image and class that somebody decided, ``label`` 1: present, 0: absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ccd.artifacts.atomic import replacing
from ccd.artifacts.csv_files import csv_line, meant, records, slashed
from ccd.errors import CcdError, listed

FOLDER = Path("corrections")
COLUMNS = ("image_id", "class", "label")
UNDECIDED = -1

Decisions = dict[tuple[str, str], int]
"""(image id, class) -> 1 present, 0 absent."""
_LABELS = {
    **dict.fromkeys(("1", "1.", "1.0", "1.00", "true", "yes", "y"), 1),
    **dict.fromkeys(("0", "0.", "0.0", "0.00", "false", "no", "n"), 0),
}


class Row(NamedTuple):
    """``where`` it stands (``line 3``), image, class and label as written."""

    where: str
    image: str
    name: str
    label: str


class BadRow(NamedTuple):
    """A row that cannot be used, and why."""

    row: Row
    reason: str


class Sorted(NamedTuple):
    """Rows that decide something, and those that cannot be used."""

    decisions: Decisions
    bad: list[BadRow]


@dataclass(frozen=True)
class Corrections:
    """K decisions, sorted by image and class: ``image_rows`` and ``class_rows`` (K,) int64 say where in the tables,
    ``labels`` (K,) int8 what; of ``class_count`` classes."""

    image_rows: np.ndarray
    class_rows: np.ndarray
    labels: np.ndarray
    class_count: int

    def of_images(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, C) int8 of the images from ``start`` up to ``stop``: 1, 0, or `UNDECIDED`."""
        first, last = np.searchsorted(self.image_rows, (start, stop))
        decided = np.full((stop - start, self.class_count), UNDECIDED, np.int8)
        decided[self.image_rows[first:last] - start, self.class_rows[first:last]] = self.labels[first:last]
        return decided


def path_of(dataset: str) -> Path:
    """Where the corrections of a data set lie, seen from the project's folder."""
    return FOLDER / f"{dataset}.csv"


def ensure(path: Path) -> bool:
    """Write the header alone where there is no file, since DVC needs one to depend on. Returns whether it did."""
    if path.exists():
        return False
    write(path, {})
    return True


def read(path: Path, ids: Sequence[str], classes: Sequence[str]) -> Corrections:
    """The corrections of the training images ``ids`` (N) and ``classes`` (C). Raises CcdError: see `read_decisions`."""
    decisions = read_decisions(path, ids, classes)
    image_of, class_of = ({name: row for row, name in enumerate(names)} for names in (ids, classes))
    rows = sorted((image_of[image], class_of[name], label) for (image, name), label in decisions.items())
    images, columns, labels = np.asarray(rows, np.int64).reshape(-1, 3).T
    return Corrections(images, columns, labels.astype(np.int8), len(classes))


def read_decisions(path: Path, ids: Sequence[str], classes: Sequence[str]) -> Decisions:
    """The rows of the file.

    Raises:
        CcdError: the file is missing, not text, not CSV or has other columns; or rows cannot be used (`sort_rows`): all
            are counted, and the first are named by where they stand.
    """
    found = sort_rows(rows_of(path), ids, classes)
    if found.bad:
        count = f"{len(found.bad)} row{'' if len(found.bad) == 1 else 's'} cannot be used"
        raise CcdError(
            f"{path}: {count}: {listed(bad.reason for bad in found.bad)}; correct them, or set them aside with: "
            "ccd review tidy"
        )
    return found.decisions


def rows_of(path: Path, on_bad_row: Callable[[int, str, str], None] | None = None) -> list[Row]:
    """The rows as they are written; ``on_bad_row`` as in `ccd.artifacts.csv_files.records`.

    Raises:
        CcdError: the file is missing, not text, not CSV or has other columns.
    """
    if not path.exists():
        raise CcdError(f"{path} does not exist; write its header into it: {','.join(COLUMNS)}")
    found = records(path, COLUMNS, others=False, on_bad_row=on_bad_row)
    return [Row(f"line {line}", cells["image_id"], cells["class"], cells["label"]) for line, cells in found]


def check(path: Path, ids: Sequence[str], classes: Sequence[str]) -> None:
    """Say at once what a later stage could not use: rows about images or classes that are gone. No file is fine.

    Raises:
        CcdError: see `read_decisions`.
    """
    if path.exists():
        read_decisions(path, ids, classes)


def sort_rows(rows: Iterable[Row], ids: Sequence[str], classes: Sequence[str]) -> Sorted:
    """Tell rows that decide something about the training images ``ids`` and ``classes`` from those that cannot be used.

    A row cannot be used if it names no training image or no class of the data set, has a label that is no yes or no, or
    contradicts another row; then neither counts. The same decision twice counts once.
    """
    images, names = frozenset(ids), frozenset(classes)
    found: dict[tuple[str, str], tuple[int, Row]] = {}
    contradicted: set[tuple[str, str]] = set()
    bad: list[BadRow] = []
    for row in rows:
        image_id = meant(row.image, images) or meant(slashed(row.image), images)
        class_name, label = meant(row.name, names), read_label(row.label)
        if image_id is None:
            bad.append(BadRow(row, f"{row.where}: '{row.image}' is no training image of this data set"))
        elif class_name is None:
            bad.append(BadRow(row, f"{row.where}: '{row.name}' is no class (classes: {listed(classes)})"))
        elif label is None:
            bad.append(BadRow(row, f"{row.where}: label '{row.label}' is neither 0 nor 1"))
        elif found.setdefault((image_id, class_name), (label, row))[0] != label:
            key = (image_id, class_name)
            if key not in contradicted:
                contradicted.add(key)
                bad.append(BadRow(found[key][1], f"{found[key][1].where}: contradicted by {row.where}"))
            bad.append(BadRow(row, f"{row.where}: contradicts an earlier row about '{image_id}' and '{class_name}'"))
    return Sorted({key: label for key, (label, _) in found.items() if key not in contradicted}, bad)


def read_label(text: str) -> int | None:
    """1 or 0 as people and spreadsheets write them (``1.0``, ``TRUE``, ``no``); None: neither."""
    return _LABELS.get(text.strip().strip("'").replace(",", ".").casefold())


def write(path: Path, found: Mapping[tuple[str, str], int]) -> None:
    """Write decisions by image and class in the order of their names: the same ones give the same bytes, and git shows
    what changed. Raises CcdError if the file cannot be written."""
    lines = [csv_line(COLUMNS), *(csv_line([*key, found[key]]) for key in sorted(found))]
    try:
        with replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", newline="")
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None
