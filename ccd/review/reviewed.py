"""What people answered: a filled CSV or Label Studio's JSON export, merged into the corrections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.class_table import ClassTable
from ccd.artifacts.corrections import COLUMNS, Decisions, Row, decisions
from ccd.errors import CcdError
from ccd.labels.thresholds import LABELLED
from ccd.spreadsheet import records

HINT = "in Label Studio choose Export, JSON (not JSON-MIN)"


@dataclass(frozen=True)
class Merged:
    """``decisions`` after the merge. Of the answers, which are about ``images``, ``new`` are about what nobody had
    decided, ``changed`` replace a decision, ``unchanged`` repeat one, and ``against`` contradict the label at 0.5."""

    decisions: Decisions
    images: int
    new: int
    changed: int
    unchanged: int
    against: int


def read_reviewed(path: Path, ids: Sequence[str], classes: Sequence[str]) -> Decisions:
    """The decisions in a reviewed file, by its ending ``.csv`` or ``.json``.

    A CSV needs the columns image_id, class and label; rows without a label are undecided, other columns are passed
    over. Label Studio: a task with an annotation decides every class, those chosen are present and all others absent; a
    task without one, or a skipped one, decides nothing.

    Raises:
        CcdError: the file is missing or malformed, or names what is no training image or class; see
            `ccd.artifacts.corrections.decisions`.
    """
    if path.suffix.lower() == ".csv":
        return decisions(path, _csv_rows(path), ids, classes)
    if path.suffix.lower() == ".json":
        return decisions(path, _task_rows(path, classes), ids, classes)
    raise CcdError(f"{path}: the name must end in .csv (a filled sheet) or .json (Label Studio's export)")


def _csv_rows(path: Path) -> Iterator[Row]:
    for line, cells in records(path, COLUMNS, None):
        label = cells["label"].strip()
        if label:
            yield f"line {line}", cells["image_id"], cells["class"], label


def _task_rows(path: Path, classes: Sequence[str]) -> Iterator[Row]:
    for number, task in enumerate(_tasks(path), start=1):
        where = f"task {number}"
        try:
            image = str(task["data"]["image_id"])
            for annotation in task["annotations"]:
                if annotation.get("was_cancelled"):
                    continue
                chosen = _chosen(annotation)
                yield from ((where, image, name, "1") for name in sorted(chosen - set(classes)))  # to be refused
                yield from ((where, image, name, str(int(name in chosen))) for name in classes)
        except (KeyError, TypeError, AttributeError) as error:
            raise CcdError(f"{path}, {where}: not as Label Studio writes it ({error!r}); {HINT}") from None


def _tasks(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8 is one of them
        raise CcdError(f"{path}: not JSON ({' '.join(str(error).split())}); {HINT}") from None
    if not isinstance(content, list):
        raise CcdError(f"{path}: holds no list of tasks; {HINT}")
    return content


def _chosen(annotation: Mapping[str, Any]) -> set[str]:
    """The classes ticked in the choice; boxes say nothing of them."""
    parts = [part["value"]["choices"] for part in annotation["result"] if part["type"] == "choices"]
    return {str(name) for names in parts for name in names}


def merge(old: Decisions, answers: Decisions, current: ClassTable) -> Merged:
    """Answers replace old decisions about the same image and class; all others stay.

    Args:
        current: the table of ``pseudo_labels.parquet``, at least its ``label``.
    """
    image_of, class_of = ({name: row for row, name in enumerate(names)} for names in (current.ids, current.classes))
    changed = sum(key in old and old[key] != label for key, label in answers.items())
    unchanged = sum(old.get(key) == label for key, label in answers.items())
    against = sum(
        (current.columns["label"][image_of[image], class_of[name]] >= LABELLED) != bool(label)
        for (image, name), label in answers.items()
    )
    images = len({image for image, _ in answers})
    return Merged({**old, **answers}, images, len(answers) - changed - unchanged, changed, unchanged, int(against))
