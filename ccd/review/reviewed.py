"""Read reviewed files, merge their answers into the corrections, and set aside corrections that no longer fit."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts import corrections_file
from ccd.artifacts.class_table import ClassTable
from ccd.artifacts.corrections_file import COLUMNS, Answer, Decisions, LeftOut, judge
from ccd.artifacts.csv_files import IMAGE, Sheet, classes_in, read_sheet
from ccd.artifacts.existing import keep_old
from ccd.artifacts.files import csv_line
from ccd.artifacts.image_keys import ImageKeys
from ccd.datasets.label_table import image_cells
from ccd.datasets.scan import scan_dataset
from ccd.errors import CcdError, listed, printable
from ccd.labels.thresholds import LABELLED
from ccd.params.sections import IndexParams
from ccd.review.label_studio import read_tasks
from ccd.runtime.console import StageLog

LONG = (IMAGE, ("class",), ("label",))
WIDE = (IMAGE, ("classes",))
EMPTY_CELLS = frozenset({"", "nan", "<na>", "n/a", "na", "null", "none"})
"""Contents of a label cell that nobody filled in, in lower case."""


@dataclass(frozen=True)
class Reviewed:
    """The ``decisions`` in a reviewed file, and the answers ``left_out`` because they cannot be used."""

    decisions: Decisions
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Change:
    """A decision about an image and the class ``name`` that an answer replaces; ``before`` and ``after`` are 0 or 1."""

    image_id: str
    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Merged:
    """``decisions`` after merging answers about ``images`` images.

    ``new`` answers are about undecided labels, ``changes`` replace a decision, ``unchanged`` repeat one. ``against``
    answers contradict the pseudo-label, cut at 0.5.
    """

    decisions: Decisions
    images: int
    new: int
    changes: tuple[Change, ...]
    unchanged: int
    against: int


def read_reviewed(path: Path, training: ImageKeys, classes: Sequence[str], every: ImageKeys | None = None) -> Reviewed:
    """Read the decisions in a reviewed file.

    A ``.json`` file is an export of Label Studio, see `ccd.review.label_studio`. Other files are CSV with one of two
    layouts: a row per image and class with its label, where rows without a label are undecided (a filled sheet); or a
    row per image with its classes, which decides every class (as `ccd predict` and `ccd export labels` write it).
    Other columns are ignored.

    Args:
        training: the images that decisions are about.
        every: all images of the data set, so that a path is never mistaken for that of another image; None: there are
            no others.

    Raises:
        CcdError: the file cannot be read, see `read_sheet` and `read_tasks`.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".json"):
        raise CcdError(
            f"{path}: the name must end in .csv, .tsv or .txt (a filled sheet) or .json (Label Studio's export)"
        )
    answers = read_tasks(path, classes) if suffix == ".json" else _sheet_answers(path, every or training, classes)
    decisions, left_out = judge(answers, training, classes)
    # A row or task can yield one unusable answer per class, all with the same text: list it once.
    return Reviewed(decisions, tuple({str(each): each for each in left_out}.values()))


def _sheet_answers(path: Path, images: ImageKeys, classes: Sequence[str]) -> Iterator[Answer]:
    sheet = read_sheet(path, [LONG, WIDE])
    ids_by_name = _ids_by_name(sheet, images)
    for row in sheet.rows:
        where = f"line {row.line}"
        name = next(iter(image_cells(row)), "")
        ids = ids_by_name.get(name, [])
        problem = row.problem
        if not problem and len(ids) > 1:
            problem = f"'{name}' names {len(ids)} images"
        image = ids[0] if ids else name
        if problem:
            yield Answer(where, text=row.text, problem=problem)
        elif sheet.layout == LONG:
            if row.cells["label"].strip().casefold() not in EMPTY_CELLS:
                yield Answer(where, image, row.cells["class"], row.cells["label"], row.text)
        else:
            yield from _every_class(where, image, row.cells["classes"], classes)


def _ids_by_name(sheet: Sheet, images: ImageKeys) -> dict[str, list[str]]:
    """Return the ids that each path in the sheet may stand for; empty if the sheet has ids, which need no search."""
    if IMAGE[0] in sheet.columns:
        return {}
    return images.find_all(row.cells.get(IMAGE[1], "") for row in sheet.rows if not row.problem)


def _every_class(where: str, image: str, cell: str, classes: Sequence[str]) -> Iterator[Answer]:
    present, unknown = classes_in(cell, frozenset(classes))
    if unknown:
        yield Answer(where, problem=f"'{listed(unknown)}' is no class (classes: {listed(classes)})")
    else:
        yield from (Answer(where, image, name, str(int(name in present))) for name in classes)


def merge(old: Decisions, answers: Decisions, current: ClassTable) -> Merged:
    """Replace old decisions by answers about the same image and class; keep all others.

    Args:
        current: the table of ``pseudo_labels.parquet`` with at least the column ``label``.
    """
    image_of, class_of = ({name: row for row, name in enumerate(names)} for names in (current.ids, current.classes))
    changes = [Change(*key, old[key], label) for key, label in sorted(answers.items()) if old.get(key, label) != label]
    unchanged = sum(old.get(key) == label for key, label in answers.items())
    against = sum(
        (current.columns["label"][image_of[image], class_of[name]] >= LABELLED) != bool(label)
        for (image, name), label in answers.items()
    )
    images = len({image for image, _ in answers})
    new = len(answers) - len(changes) - unchanged
    return Merged({**old, **answers}, images, new, tuple(changes), unchanged, int(against))


HEADER = (*COLUMNS, "reason")


@dataclass(frozen=True)
class Tidied:
    """The result of `tidy`: the number of ``kept`` decisions, the rows ``moved`` out of the file, and the ``backup`` of
    the file, None if nothing was written."""

    kept: int
    moved: tuple[LeftOut, ...]
    backup: Path | None


def set_aside_path(path: Path) -> Path:
    """Return the file for rows of the corrections ``path`` that cannot be used: ``NAME.set_aside.csv`` beside it."""
    return path.with_name(f"{path.stem}.set_aside.csv")


def train_ids_and_classes(params: IndexParams, root: Path, workers: int, log: StageLog) -> tuple[list[str], list[str]]:
    """Return the ids of the training images and the classes, as stage ``index`` finds them: every image is read.

    Raises:
        CcdError: see `scan_dataset`.
    """
    dataset, index = scan_dataset(
        params,
        root,
        workers,
        scene_progress=log.counter("scene"),
        image_progress=lambda facts, count: log.progress(facts, count, "img"),
    )
    return list(index.train().ids), [entry.name for entry in dataset.classes]


def tidy(path: Path, images: ImageKeys, classes: list[str]) -> Tidied:
    """Move the rows of the corrections ``path`` that cannot be used to `set_aside_path`; write nothing if all can.

    A row that is already in that file is not added again. `ccd review import` takes rows back when they fit again.

    Raises:
        CcdError: a file cannot be read or written, or the file of rows set aside has another layout.
    """
    decisions, left_out = corrections_file.judge(corrections_file.read_answers(path), images, classes)
    if not left_out:
        return Tidied(len(decisions), (), None)
    _append(set_aside_path(path), [_line(each) for each in left_out])
    backup = keep_old(path)
    corrections_file.write(path, decisions)
    return Tidied(len(decisions), tuple(left_out), backup)


def _line(left_out: LeftOut) -> str:
    answer = left_out.answer
    if answer.problem:  # the columns of its cells are uncertain: leave them empty, so that no import takes the row
        return csv_line(["", "", "", f"{answer.problem.partition(': ')[0]}: {printable(answer.text.strip())}"])
    return csv_line([answer.image, answer.name, answer.label, left_out.reason.partition(" (classes: ")[0]])


def _append(path: Path, lines: list[str]) -> None:
    """Append the lines whose decisions the file does not hold yet."""
    header = csv_line(HEADER)
    old = header
    if path.exists():
        old = path.read_bytes().decode("utf-8", "replace")
        if not old.startswith(header) or "\ufffd" in old:
            raise CcdError(f"{path}: not as `{corrections_file.TIDY}` writes it; rename it and run this again")
    known = {_decision(line) for line in old.splitlines()}
    new = {_decision(line): line for line in lines if _decision(line) not in known}
    corrections_file.write_lines(path, [old, "" if old.endswith("\n") else "\n", *new.values()])


def _decision(line: str) -> tuple[str, ...]:
    """Return the cells that identify a row: image, class and label, or all cells if these are empty."""
    cells = next(csv.reader([line]), [])
    return tuple(cells[: len(COLUMNS)] if any(cells[: len(COLUMNS)]) else cells)
