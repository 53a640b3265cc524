"""Corrections whose image or class the data set has no more: set aside, not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ccd.artifacts import corrections
from ccd.artifacts.atomic import replacing
from ccd.artifacts.csv_files import csv_line
from ccd.datasets import load_dataset
from ccd.indexing import FileFacts, scan
from ccd.params.dataset import DatasetParams
from ccd.params.index import IndexParams

COLUMNS = (*corrections.COLUMNS, "reason")


class Tidied(NamedTuple):
    """Where rows went, how many decisions are left, and why each other row went."""

    aside: Path
    left: int
    reasons: list[str]


def current_names(
    dataset: DatasetParams,
    index: IndexParams,
    workers: int,
    progress: Callable[[Iterable[FileFacts], int, str], Iterable[FileFacts]],
) -> tuple[list[str], tuple[str, ...]]:
    """Ids of the training images and the classes, as stage index would write them now.

    Raises:
        CcdError: what stage index would say of the data set.
    """
    root = Path(dataset.root)
    checks = index.model_dump(include={"on_bad_image", "verify", "follow_links"})
    found = load_dataset(**index.model_dump(exclude=set(checks)), root=root)
    images = scan(root, found.images, workers, **checks, progress=lambda each: progress(each, len(found.images), "img"))
    return list(images.train().ids), tuple(info.name for info in found.classes)


def tidy(name: str, ids: Sequence[str], classes: Sequence[str]) -> Tidied:
    """Move the rows of the data set ``name`` that cannot be used into a file beside the corrections.

    Raises:
        CcdError: one of the files cannot be read.
    """
    path = corrections.path_of(name)
    aside = path.with_name(f"{name}.set_aside.csv")
    corrections.ensure(path)
    malformed: list[corrections.BadRow] = []

    def keep(line: int, reason: str, text: str) -> None:
        malformed.append(corrections.BadRow(corrections.Row(f"line {line}", text, "", ""), f"line {line}: {reason}"))

    found = corrections.sort_rows(corrections.rows_of(path, keep), ids, classes)
    bad_rows = [*malformed, *found.bad]
    if bad_rows:
        earlier = aside.read_text(encoding="utf-8") if aside.exists() else csv_line(COLUMNS)
        earlier += "" if earlier.endswith("\n") else "\n"
        rows = [(bad.row.image, bad.row.name, bad.row.label, bad.reason) for bad in bad_rows]
        lines = dict.fromkeys(line for line in map(csv_line, rows) if line not in earlier.splitlines(keepends=True))
        with replacing(aside) as temporary:  # what is there is a person's too, and stays as it is
            temporary.write_text(earlier + "".join(lines), encoding="utf-8", newline="")
        corrections.write(path, found.decisions)
    return Tidied(aside, len(found.decisions), [bad.reason for bad in bad_rows])
