"""``corrections/<dataset.name>.csv``: people's decisions about training images, which belong into git.

Columns ``image_id,class,label``; a row per decided image and class, ``label`` 1: present, 0: absent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts.csv_files import Row, meant, read_sheet
from ccd.artifacts.files import csv_line, write_text
from ccd.artifacts.image_keys import ImageKeys
from ccd.errors import CcdError, listed

FOLDER = Path("corrections")
COLUMNS = ("image_id", "class", "label")
LAYOUT = tuple((name,) for name in COLUMNS)
UNDECIDED = -1
TIDY = "ccd review tidy"

Decisions = dict[tuple[str, str], int]
"""(image id, class) -> 1 present, 0 absent."""


@dataclass(frozen=True)
class Answer:
    """A person's answer: ``where`` (``line 3``), image, class ``name`` and label as written; ``text``: the whole row.

    ``problem``: the reason why it cannot be used, if reading found one.
    """

    where: str
    image: str = ""
    name: str = ""
    label: str = ""
    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class LeftOut:
    """An answer that cannot be used, and the reason."""

    answer: Answer
    reason: str

    def __str__(self) -> str:
        return f"{self.answer.where}: {self.reason}"


@dataclass(frozen=True)
class Corrections:
    """K decisions, sorted by image and class: ``image_rows`` and ``class_rows`` (K,) int64 in the (N, C) tables,
    ``labels`` (K,) int8, and the number of classes ``class_count``."""

    image_rows: np.ndarray
    class_rows: np.ndarray
    labels: np.ndarray
    class_count: int

    def of_images(self, start: int, stop: int) -> np.ndarray:
        """Return the decisions of images ``start`` .. ``stop`` - 1 as (stop - start, C) int8: 1, 0, or `UNDECIDED`."""
        first, last = np.searchsorted(self.image_rows, (start, stop))
        decided = np.full((stop - start, self.class_count), UNDECIDED, np.int8)
        decided[self.image_rows[first:last] - start, self.class_rows[first:last]] = self.labels[first:last]
        return decided


def path_of(dataset: str) -> Path:
    """Return the path of a data set's corrections, relative to the project's folder."""
    return FOLDER / f"{dataset}.csv"


def ensure(path: Path) -> bool:
    """Write a file with the header alone if there is none, since DVC depends on it. Returns whether it was written."""
    if path.exists():
        return False
    write(path, {})
    return True


def read(path: Path, ids: Sequence[str], classes: Sequence[str], root: Path | None = None) -> Corrections:
    """Read the corrections of the training images ``ids`` (N) and ``classes`` (C); see `read_decisions` for errors."""
    decisions = read_decisions(path, ids, classes, root)
    image_of, class_of = ({name: row for row, name in enumerate(names)} for names in (ids, classes))
    rows = sorted((image_of[image], class_of[name], label) for (image, name), label in decisions.items())
    images, columns, labels = np.asarray(rows, np.int64).reshape(-1, 3).T
    return Corrections(images, columns, labels.astype(np.int8), len(classes))


def read_decisions(path: Path, ids: Sequence[str], classes: Sequence[str], root: Path | None = None) -> Decisions:
    """Read the decisions about the training images ``ids`` and ``classes``.

    Args:
        root: folder of the images, for rows that name images by a path under it.

    Raises:
        CcdError: see `read_answers`; or rows cannot be used, see `judge`: the message counts them and names the first,
            and the command that sets them aside.
    """
    decisions, left_out = judge(read_answers(path), ImageKeys(ids, root), classes)
    if left_out:
        count = f"{len(left_out):,} row{'' if len(left_out) == 1 else 's'} cannot be used"
        raise CcdError(f"{path}: {count}: {listed(left_out)}; correct them, or set them aside with: {TIDY}")
    return decisions


def read_answers(path: Path) -> list[Answer]:
    """Read the rows of the file as written.

    Raises:
        CcdError: the file is missing, is no text, or has further columns, which would be lost when it is rewritten.
    """
    if not path.exists():
        raise CcdError(f"{path} does not exist; write its header into it: {','.join(COLUMNS)}")
    sheet = read_sheet(path, [LAYOUT])
    if more := [name for name in sheet.columns if name and name not in COLUMNS]:
        raise CcdError(
            f"{path}, line 1: its columns are {listed(sheet.columns)}; needed: {', '.join(COLUMNS)} alone, since "
            f"`ccd review import` writes no others; keep {listed(more)} in another file"
        )
    return [_answer(row) for row in sheet.rows]


def _answer(row: Row) -> Answer:
    image, name, label = (row.cells.get(column, "") for column in COLUMNS)
    return Answer(f"line {row.line}", image, name, label, row.text, row.problem)


def check(path: Path, ids: Sequence[str], classes: Sequence[str], root: Path | None = None) -> None:
    """Check that the file, if there is one, fits the images ``ids`` and ``classes``, before hours of work depend on it.

    Raises:
        CcdError: see `read_decisions`.
    """
    if path.exists():
        read_decisions(path, ids, classes, root)


def judge(answers: Iterable[Answer], images: ImageKeys, classes: Sequence[str]) -> tuple[Decisions, list[LeftOut]]:
    """Turn answers into decisions about the training ``images`` and ``classes``.

    The same decision twice counts once.

    Returns:
        The decisions, and the answers that cannot be used: they name no training image or no class, have no label that
        `label_of` knows, or contradict each other (then all of them are left out).
    """
    names = frozenset(classes)
    understood = [(answer, *_understood(answer, images, names, classes)) for answer in answers]
    labels: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for _, key, label, reason in understood:
        if not reason:
            labels[key].add(label)
    left_out: list[LeftOut] = []
    for answer, key, _, reason in understood:
        if reason or len(labels[key]) > 1:
            contradiction = f"contradicts another row about '{key[0]}' and '{key[1]}'"
            left_out.append(LeftOut(answer, reason or contradiction))
    return {key: min(decided) for key, decided in labels.items() if len(decided) == 1}, left_out


def _understood(
    answer: Answer, images: ImageKeys, names: frozenset[str], classes: Sequence[str]
) -> tuple[tuple[str, str], int, str]:
    """Return image and class of an answer, its label, and the reason why it cannot be used (empty: it can)."""
    if answer.problem:
        return ("", ""), UNDECIDED, answer.problem
    image_id = images.find(answer.image)
    name = meant(answer.name, names)
    label = label_of(answer.label)
    if image_id is None:
        reason = f"'{answer.image}' is no training image of this data set"
    elif name is None:
        reason = f"'{answer.name}' is no class (classes: {listed(classes)})"
    else:
        reason = "" if label is not None else f"label '{answer.label}' is neither 0 nor 1"
    return (image_id or "", name or ""), UNDECIDED if label is None else label, reason


def label_of(text: str) -> int | None:
    """Return 1 (present) for 1, 1.0, true, yes or y, 0 for their opposites, in any case; None for anything else."""
    word = text.strip().casefold()
    if re.fullmatch(r"[01]([.,]0*)?", word):
        return int(word[0])
    return {"true": 1, "yes": 1, "y": 1, "false": 0, "no": 0, "n": 0}.get(word)


def write(path: Path, decisions: Mapping[tuple[str, str], int]) -> None:
    """Write decisions sorted by image and class, so that git shows only real changes.

    Raises:
        CcdError: the file cannot be written.
    """
    lines = [csv_line(COLUMNS), *(csv_line([*key, decisions[key]]) for key in sorted(decisions))]
    write_lines(path, lines)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, which bring their line ends, whole or not at all. Raises CcdError if the file cannot be written."""
    try:
        write_text(path, "".join(lines))
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None
