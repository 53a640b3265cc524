"""``corrections/<dataset.name>.csv``: what people decided about training images. Hand work: it belongs into git.

Columns ``image_id,class,label``; a row per image and class that somebody decided, ``label`` 1: present, 0: absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts.atomic import replacing
from ccd.errors import CcdError, listed
from ccd.spreadsheet import csv_line, meant, records

FOLDER = Path("corrections")
COLUMNS = ("image_id", "class", "label")
UNDECIDED = -1

Decisions = dict[tuple[str, str], int]
"""(image id, class) -> 1 present, 0 absent."""
Row = tuple[str, str, str, str]
"""Where it stands (``line 3``), image, class and label as written."""


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
        CcdError: the file is missing, not UTF-8, not CSV or has other columns; or see `decisions`.
    """
    if not path.exists():
        raise CcdError(f"{path} does not exist; write its header into it: {','.join(COLUMNS)}")
    found = records(path, COLUMNS, ())
    rows = ((f"line {line}", cells["image_id"], cells["class"], cells["label"]) for line, cells in found)
    return decisions(path, rows, ids, classes)


def decisions(path: Path, rows: Iterable[Row], ids: Sequence[str], classes: Sequence[str]) -> Decisions:
    """Rows of the file ``path`` as decisions about the training images ``ids`` and ``classes``; the same decision twice
    counts once.

    Raises:
        CcdError: rows name no training image or no class of the data set, have a label other than 0 and 1, or
            contradict an earlier row; all are counted, and the first are named by where they stand.
    """
    images, names = frozenset(ids), frozenset(classes)
    found: Decisions = {}
    problems = []
    for where, image, name, label in rows:
        image_id, class_name = meant(image, images), meant(name, names)
        if image_id is None:
            problems.append(f"{where}: '{image}' is no training image of this data set")
        elif class_name is None:
            problems.append(f"{where}: '{name}' is no class (classes: {listed(classes)})")
        elif label not in ("0", "1"):
            problems.append(f"{where}: label '{label}' is neither 0 nor 1")
        elif found.setdefault((image_id, class_name), int(label)) != int(label):
            problems.append(f"{where}: contradicts an earlier row about '{image_id}' and '{class_name}'")
    if problems:
        count = f"{len(problems)} row{'' if len(problems) == 1 else 's'} cannot be used"
        raise CcdError(f"{path}: {count}: {listed(problems)}; correct or remove them")
    return found


def write(path: Path, found: Mapping[tuple[str, str], int]) -> None:
    """Write decisions by image and class in the order of their names: the same ones give the same bytes, and git shows
    what changed. Raises CcdError if the file cannot be written."""
    lines = [csv_line(COLUMNS), *(csv_line([*key, found[key]]) for key in sorted(found))]
    try:
        with replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8", newline="")
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None
