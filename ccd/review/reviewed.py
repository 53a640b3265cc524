"""What came back from reviews: read, written as corrections, and kept tidy."""

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
from ccd.artifacts.files import csv_line, write_text
from ccd.artifacts.image_keys import ImageKeys
from ccd.datasets import load_dataset
from ccd.datasets.scan import scan
from ccd.errors import CcdError, listed, printable
from ccd.labels.thresholds import LABELLED
from ccd.params.sections import IndexParams
from ccd.review.label_studio import read_tasks
from ccd.runtime.console import StageLog

LONG = (IMAGE, ("class",), ("label",))
WIDE = (IMAGE, ("classes",))
NOTHING = frozenset({"", "nan", "<na>", "n/a", "na", "null", "none"})
"""What stands in a cell that nobody filled in, in lower case."""


@dataclass(frozen=True)
class Reviewed:
    """The ``decisions`` in a file, and what was ``left_out`` of it."""

    decisions: Decisions
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Change:
    """A decision that an answer replaces."""

    image_id: str
    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Merged:
    """``decisions`` after the merge. Of the answers, which are about ``images``, ``new`` are about what nobody had
    decided, ``changes`` replace a decision, ``unchanged`` repeat one, and ``against`` contradict the label at 0.5."""

    decisions: Decisions
    images: int
    new: int
    changes: tuple[Change, ...]
    unchanged: int
    against: int


def read_reviewed(path: Path, training: ImageKeys, classes: Sequence[str], every: ImageKeys | None = None) -> Reviewed:
    """The decisions in a reviewed file, by its ending: ``.json`` is Label Studio's, see `ccd.review.label_studio`; the
    others are CSV.

    A CSV has a row per image and class with its label (a filled sheet; rows without a label are undecided), or a row
    per image with its classes, as `ccd predict` and `ccd export labels` write: these decide every class. Other columns
    are passed over.

    Args:
        training: the images that decisions are about.
        every: these and all others of the data set, so that a path is never taken for that of another image; None:
            there are no others.

    Raises:
        CcdError: the file cannot be read, see `read_sheet` and `read_tasks`.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".txt", ".json"):
        raise CcdError(
            f"{path}: the name must end in .csv, .tsv or .txt (a filled sheet) or .json (Label Studio's export)"
        )
    answers = read_tasks(path, classes) if ending == ".json" else _sheet_answers(path, every or training, classes)
    decisions, left_out = judge(answers, training, classes)
    return Reviewed(decisions, tuple({str(each): each for each in left_out}.values()))  # who differ are one matter


def _sheet_answers(path: Path, images: ImageKeys, classes: Sequence[str]) -> Iterator[Answer]:
    sheet = read_sheet(path, [LONG, WIDE])
    names = _image_names(sheet, images)
    for row in sheet.rows:
        where = f"line {row.line}"
        cells = row.cells
        name = next((cell for column in IMAGE if (cell := cells.get(column, "")).strip()), "")
        problem = row.problem
        if not problem and len(names.get(name, [name])) > 1:
            problem = f"'{name}' names {len(names[name])} images"
        image = next(iter(names.get(name, [])), name)
        if problem:
            yield Answer(where, text=row.text, problem=problem)
        elif sheet.layout == LONG:
            if cells["label"].strip().casefold() not in NOTHING:
                yield Answer(where, image, cells["class"], cells["label"], row.text)
        else:
            yield from _every_class(where, image, cells["classes"], classes)


def _image_names(sheet: Sheet, images: ImageKeys) -> dict[str, list[str]]:
    """What rows call their images -> ids. An ``image_id`` is taken at its word; a path is looked for."""
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
    """Answers replace old decisions about the same image and class; all others stay.

    Args:
        current: the table of ``pseudo_labels.parquet``, at least its ``label``.
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
    """What `tidy` did: ``kept`` decisions, rows ``moved`` out of the file, and the copy of the ``old`` file, None if
    nothing was written."""

    kept: int
    moved: tuple[LeftOut, ...]
    old: Path | None


def set_aside_of(path: Path) -> Path:
    """Where rows of the corrections ``path`` go that cannot be used: ``NAME.set_aside.csv`` beside it."""
    return path.with_name(f"{path.stem}.set_aside.csv")


def train_images_and_classes(
    params: IndexParams, root: Path, workers: int, log: StageLog
) -> tuple[list[str], list[str]]:
    """The ids of the training images and the classes, as stage ``index`` finds them: every image is read.

    Raises:
        CcdError: whatever stops that stage too.
    """
    checks = params.model_dump(include={"on_bad_image", "verify", "follow_links"})
    found = load_dataset(**params.model_dump(exclude=set(checks)), root=root, progress=log.counter("scene"))
    index = scan(
        root, found.images, workers, **checks, progress=lambda each: log.progress(each, len(found.images), "img")
    )
    return list(index.train().ids), [entry.name for entry in found.classes]


def tidy(path: Path, images: ImageKeys, classes: list[str]) -> Tidied:
    """Move the rows of the corrections ``path`` that cannot be used to `set_aside_of`; nothing is written without any.

    A row that lies there already is not written again. `ccd review import` takes them back when they fit again.

    Raises:
        CcdError: a file cannot be read or written, or the file of rows set aside is not one that this writes.
    """
    decisions, left_out = corrections_file.judge(corrections_file.read_answers(path), images, classes)
    if not left_out:
        return Tidied(len(decisions), (), None)
    _append(set_aside_of(path), [_line(each) for each in left_out])
    old = keep_old(path)
    corrections_file.write(path, decisions)
    return Tidied(len(decisions), tuple(left_out), old)


def _line(left_out: LeftOut) -> str:
    answer = left_out.answer
    if answer.problem:  # which cell is which is not certain, so that no import may take it
        return csv_line(["", "", "", f"{answer.problem.partition(': ')[0]}: {printable(answer.text.strip())}"])
    return csv_line([answer.image, answer.name, answer.label, left_out.reason.partition(" (classes: ")[0]])


def _append(path: Path, lines: list[str]) -> None:
    """Write further lines behind those that are there."""
    header = csv_line(HEADER)
    old = header
    if path.exists():
        old = path.read_bytes().decode("utf-8", "replace")
        if not old.startswith(header) or "\ufffd" in old:
            raise CcdError(f"{path}: not as `{corrections_file.TIDY}` writes it; rename it, and try again")
    there = {_decision(line) for line in old.splitlines()}
    new = "".join({_decision(line): line for line in lines if _decision(line) not in there}.values())
    try:
        write_text(path, old + ("" if old.endswith("\n") else "\n") + new)
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None


def _decision(line: str) -> tuple[str, ...]:
    """What makes a row the same as another: image, class and label, or the whole row where these are empty."""
    cells = next(csv.reader([line]), [])
    return tuple(cells[: len(COLUMNS)] if any(cells[: len(COLUMNS)]) else cells)
