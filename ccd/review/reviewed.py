"""What people answered: a filled CSV or Label Studio's JSON export, merged into the corrections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.class_table import ClassTable
from ccd.artifacts.corrections import Answer, Decisions, LeftOut, judge
from ccd.artifacts.csv_files import IMAGE, Sheet, classes_in, read_sheet
from ccd.artifacts.image_keys import ImageKeys
from ccd.errors import CcdError, listed
from ccd.labels.thresholds import LABELLED
from ccd.review.label_studio import read_tasks

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
        where, cells = f"line {row.line}", row.cells
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
    images, new = len({image for image, _ in answers}), len(answers) - len(changes) - unchanged
    return Merged({**old, **answers}, images, new, tuple(changes), unchanged, int(against))
