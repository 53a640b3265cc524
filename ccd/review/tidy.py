"""Corrections that no longer fit the data set are set aside, not deleted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts import corrections
from ccd.artifacts.atomic import replacing
from ccd.artifacts.corrections import COLUMNS, LeftOut
from ccd.artifacts.csv_files import csv_line
from ccd.artifacts.existing import keep_old
from ccd.artifacts.image_keys import ImageKeys
from ccd.console import StageLog
from ccd.datasets import load_dataset
from ccd.errors import CcdError, printable
from ccd.indexing import scan
from ccd.params.index import IndexParams

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
    index = scan(root, found.images, workers, **checks,
                 progress=lambda each: log.progress(each, len(found.images), "img"))  # fmt: skip
    return list(index.train().ids), [entry.name for entry in found.classes]


def tidy(path: Path, images: ImageKeys, classes: list[str]) -> Tidied:
    """Move the rows of the corrections ``path`` that cannot be used to `set_aside_of`; nothing is written without any.

    A row that lies there already is not written again. `ccd review import` takes them back when they fit again.

    Raises:
        CcdError: a file cannot be read or written, or the file of rows set aside is not one that this writes.
    """
    decisions, left_out = corrections.judge(corrections.read_answers(path), images, classes)
    if not left_out:
        return Tidied(len(decisions), (), None)
    _append(set_aside_of(path), [_line(each) for each in left_out])
    old = keep_old(path)
    corrections.write(path, decisions)
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
            raise CcdError(f"{path}: not as `{corrections.TIDY}` writes it; rename it, and try again")
    there = {_decision(line) for line in old.splitlines()}
    new = "".join({_decision(line): line for line in lines if _decision(line) not in there}.values())
    try:
        with replacing(path) as temporary:
            temporary.write_text(old + ("" if old.endswith("\n") else "\n") + new, encoding="utf-8", newline="")
    except OSError as error:
        raise CcdError(f"{path}: cannot be written ({error.strerror or error})") from None


def _decision(line: str) -> tuple[str, ...]:
    """What makes a row the same as another: image, class and label, or the whole row where these are empty."""
    cells = next(csv.reader([line]), [])
    return tuple(cells[: len(COLUMNS)] if any(cells[: len(COLUMNS)]) else cells)
