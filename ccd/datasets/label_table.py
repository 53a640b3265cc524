"""Reads a CSV of image labels: columns ``image_id`` or ``path``, ``classes`` (separated by ``;``), maybe ``split``.

`ccd predict` and `ccd export labels` write such files. `ccd.artifacts.csv_files` describes the accepted forms of CSV,
`ccd.artifacts.image_keys` the accepted names of images. Empty ``classes`` means that no class is present; an image
without a row has unknown labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.csv_files import IMAGE, Row, classes_in, read_sheet
from ccd.artifacts.image_keys import ImageKeys
from ccd.errors import CcdError, listed

LAYOUT = (IMAGE, ("classes",))


@dataclass(frozen=True)
class LabelRow:
    """``split`` as written, or "", and the ``columns`` of the classes that are present."""

    split: str
    columns: tuple[int, ...]


def read_label_table(
    path: Path, images: Sequence[str], names: Sequence[str], root: Path | None = None
) -> dict[str, LabelRow]:
    """Read the rows, by image path.

    Args:
        images: paths of all images, relative to the root, with forward slashes.
        names: the class names, in the order of the columns.
        root: folder of the images; None: paths that lead there from elsewhere are not recognised.

    Raises:
        CcdError: the file is missing, no text, or lacks columns; rows are malformed, or have unknown or ambiguous
            images, unknown classes, or an image twice; all such rows are counted.
    """
    sheet = read_sheet(path, [LAYOUT], "set index.labels_file to a CSV of labels, or leave it empty")
    named = ImageKeys(images, root).find_all(cell for row in sheet.rows for cell in image_cells(row))
    column = {name: index for index, name in enumerate(names)}
    rows: dict[str, LabelRow] = {}
    problems = []
    any_unknown = False
    for row in sheet.rows:
        keys = image_cells(row)
        matches = next((named[key] for key in keys if named[key]), [])
        classes, unknown = classes_in(row.cells.get("classes", ""), column)
        hint = " (several classes go into one cell, with ';')" if row.cells else ""
        problem = row.problem and row.problem + hint
        if not problem and len(matches) != 1:
            problem = f"'{(keys or ('',))[0]}' names {len(matches) or 'no'} images"
        if not problem and unknown:
            problem = f"unknown class {listed(unknown)}"
            any_unknown = True
        if not problem and matches[0] in rows:
            problem = f"'{keys[0]}' has an earlier row"
        if problem:
            problems.append(f"line {row.line}: {problem}")
        else:
            rows[matches[0]] = LabelRow(row.cells.get("split", "").strip(), tuple(column[name] for name in classes))
    if problems:
        count = f"{len(problems):,} row{'' if len(problems) == 1 else 's'} cannot be used"
        known = f" (classes: {listed(names)})" if any_unknown else ""
        raise CcdError(f"{path}: {count}: {listed(problems)}{known}; correct or delete them")
    return rows


def image_cells(row: Row) -> tuple[str, ...]:
    """Return the cells that name a row's image, as written: those of the columns `IMAGE` that are not blank."""
    return tuple(cell for name in IMAGE if (cell := row.cells.get(name, "")).strip())
