"""What people answered: a filled CSV or Label Studio's JSON export, merged into the corrections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.class_table import ClassTable
from ccd.artifacts.corrections import BadRow, Decisions, Row, Sorted, sort_rows
from ccd.artifacts.csv_files import meant, records
from ccd.datasets.label_table import CLASSES, IMAGE, ImageFinder, named_classes
from ccd.errors import CcdError, listed
from ccd.export.annotation_tools import CONTROL
from ccd.labels.thresholds import LABELLED

OURS = f"{CONTROL} (choices)"
UNDECIDED = {"", "nan", "none", "null"}
HINT = "in Label Studio choose Export, JSON (not JSON-MIN)"


@dataclass(frozen=True)
class Merged:
    """``decisions`` after the merge. Of the answers, which are about ``images``, ``new`` are about what nobody had
    decided, ``changed`` replace a decision (they are listed), ``unchanged`` repeat one, and ``against`` contradict the
    label at 0.5."""

    decisions: Decisions
    images: int
    new: int
    changed: list[str]
    unchanged: int
    against: int


@dataclass(frozen=True)
class TrainingImages:
    """What answers may be about: ``ids`` (N) and ``paths`` (N) of the training images under ``root``."""

    ids: Sequence[str]
    paths: Sequence[str]
    root: Path | None = None

    def identify(self) -> Callable[[str], str]:
        """A function from what a person calls an image to its id, or to the same text where that is unclear."""
        known, finder = frozenset(self.ids), ImageFinder(self.paths, self.root)
        id_of = dict(zip(self.paths, self.ids, strict=True))

        def identified(text: str) -> str:
            if meant(text, known) is not None:
                return text
            found = finder.find(text.strip())
            return id_of[found[0]] if len(found) == 1 else text

        return identified


def read_reviewed(path: Path, images: TrainingImages, classes: Sequence[str]) -> Sorted:
    """The decisions in a reviewed file, by its ending ``.csv`` or ``.json``, and the rows that cannot be used.

    A CSV has a row per image and class (columns image_id or path, class, label; without a label nothing is decided), or
    a row per image (image_id or path, and classes or labels, as `ccd predict` writes it), which decides every class.
    Label Studio: a task with an annotation decides every class, those chosen in our control are present and all others
    absent; a task without one, or a skipped one, decides nothing. Other columns and controls are passed over.

    Raises:
        CcdError: the file is missing or cannot be read as a whole.
    """
    unreadable: list[BadRow] = []

    def note(where: str, reason: str) -> None:
        unreadable.append(BadRow(Row(where, "", "", ""), f"{where}: {reason}"))

    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        rows = _csv_rows(path, classes, lambda line, reason, row: note(f"line {line}", reason))
    elif path.suffix.lower() == ".json":
        rows = _task_rows(path, classes, note)
    else:
        raise CcdError(f"{path}: the name must end in .csv (a filled sheet) or .json (Label Studio's export)")
    identified = images.identify()
    found = sort_rows((row._replace(image=identified(row.image)) for row in rows), images.ids, classes)
    return Sorted(found.decisions, [*unreadable, *found.bad])


def _csv_rows(path: Path, classes: Sequence[str], on_bad_row: Callable[[int, str, str], None]) -> list[Row]:
    try:
        pairs = list(records(path, (IMAGE, "class", "label"), on_bad_row=on_bad_row))
        return [
            Row(f"line {line}", cells["image_id"], cells["class"], cells["label"])
            for line, cells in pairs
            if cells["label"].strip().casefold() not in UNDECIDED
        ]
    except CcdError:
        try:
            whole = list(records(path, (IMAGE, CLASSES), on_bad_row=on_bad_row))
        except CcdError:
            whole = None
        if whole is None:
            raise
    return [row for line, cells in whole for row in _every_class(f"line {line}", cells, classes)]


def _every_class(where: str, cells: Mapping[str, str], classes: Sequence[str]) -> Iterator[Row]:
    present, unknown = named_classes(cells["classes"], classes)
    if unknown:  # a misspelt class must not count as absent, so such a row decides nothing
        yield from (Row(where, cells["image_id"], name, "1") for name in unknown)  # to be listed
        return
    yield from (Row(where, cells["image_id"], name, str(int(name in present))) for name in classes)


def _task_rows(path: Path, classes: Sequence[str], note: Callable[[str, str], None]) -> list[Row]:
    rows: list[Row] = []
    controls: set[str] = set()
    for number, task in enumerate(_tasks(path), start=1):
        where = f"task {number}"
        try:
            image = str(task["data"]["image_id"])
            answers = [each for each in task["annotations"] if not each.get("was_cancelled")]
            chosen = [_chosen(each, controls) for each in answers]
        except (KeyError, TypeError, AttributeError) as error:
            note(where, f"not as Label Studio writes it ({error!r}); {HINT}")
            continue
        for names in chosen:
            unknown = sorted(names - set(classes))
            if unknown:  # as in a table: such an answer decides nothing
                rows += [Row(where, image, name, "1") for name in unknown]  # to be listed
            else:
                rows += [Row(where, image, name, str(int(name in names))) for name in classes]
    if controls and OURS not in controls:
        raise CcdError(
            f"{path}: no choice of the control '{CONTROL}' in it, but of {listed(sorted(controls))}; set the project "
            "up with the labelling_config.xml of: ccd review export --format label-studio"
        )
    return rows


def _tasks(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())  # finds out UTF-8, UTF-16 and byte order marks
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not JSON ({' '.join(str(error).split())}); {HINT}") from None
    if not isinstance(content, list):
        raise CcdError(f"{path}: holds no list of tasks; {HINT}")
    return content


def _chosen(annotation: Mapping[str, Any], controls: set[str]) -> set[str]:
    """The classes ticked in our control; other controls and boxes say nothing of them. ``controls`` takes the names of
    all controls that answer something."""
    found: set[str] = set()
    for part in annotation["result"]:
        if part.get("from_name") is None or part["type"] in ("rectanglelabels", "relation"):
            continue  # our boxes say nothing of classes
        control = f"{part['from_name']} ({part['type']})"
        controls.add(control)
        if control == OURS:
            names = part["value"]["choices"]
            found |= {names} if isinstance(names, str) else {str(name) for name in names}
    return found


def merge(old: Decisions, answers: Decisions, current: ClassTable) -> Merged:
    """Answers replace old decisions about the same image and class; all others stay.

    Args:
        current: the table of ``pseudo_labels.parquet``, at least its ``label``.
    """
    image_of, class_of = ({name: row for row, name in enumerate(names)} for names in (current.ids, current.classes))
    changed = [
        f"{image}, {name}: {old[image, name]} -> {label}"
        for (image, name), label in answers.items()
        if old.get((image, name), label) != label
    ]
    unchanged = sum(old.get(key) == label for key, label in answers.items())
    against = sum(
        (current.columns["label"][image_of[image], class_of[name]] >= LABELLED) != bool(label)
        for (image, name), label in answers.items()
    )
    images = len({image for image, _ in answers})
    new = len(answers) - len(changed) - unchanged
    return Merged({**old, **answers}, images, new, changed, unchanged, int(against))
