"""A CSV of image labels: columns ``image_id`` or ``path``, ``classes`` (with ``;`` between them), optionally ``split``.

What `ccd predict` and `ccd export labels` write is one. How the file may be written: `ccd.artifacts.csv_files`; what an
image may be called: `ccd.artifacts.image_index`. Empty ``classes`` means that none is present; an image without a row
has unknown labels.
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
    """``split`` as written ("" where it is not), ``columns`` of the classes that are present."""

    split: str
    columns: tuple[int, ...]


def read_label_table(
    path: Path, images: Sequence[str], names: Sequence[str], root: Path | None = None
) -> dict[str, LabelRow]:
    """Rows by image path.

    Args:
        images: paths of all images, relative to the root, with forward slashes.
        names: the class names, in the order of the columns.
        root: folder of the images; None: paths that lead there from elsewhere are not recognised.

    Raises:
        CcdError: missing, no text, without the columns, or rows that are malformed, or with unknown or ambiguous
            images, unknown classes, or twice the same image; all offenders are counted.
    """
    sheet = read_sheet(path, [LAYOUT], "set index.labels_file to a CSV of labels, or leave it empty")
    named = ImageKeys(images, root).find_all(cell for row in sheet.rows for cell in image_cells(row))
    column = {name: index for index, name in enumerate(names)}
    rows: dict[str, LabelRow] = {}
    problems = []
    for row in sheet.rows:
        keys = image_cells(row)
        found = next((named[key] for key in keys if named[key]), [])
        classes, unknown = classes_in(row.cells.get("classes", ""), column)
        hint = " (several classes go into one cell, with ';')" if row.cells else ""
        problem = row.problem and row.problem + hint
        if not problem and len(found) != 1:
            problem = f"'{(keys or ('',))[0]}' names {len(found) or 'no'} images"
        if not problem and unknown:
            problem = f"unknown class {listed(unknown)} (classes: {listed(names)})"
        if not problem and found[0] in rows:
            problem = f"'{keys[0]}' has an earlier row"
        if problem:
            problems.append(f"line {row.line}: {problem}")
        else:
            rows[found[0]] = LabelRow(row.cells.get("split", "").strip(), tuple(column[name] for name in classes))
    if problems:
        count = f"{len(problems):,} row{'' if len(problems) == 1 else 's'} cannot be used"
        raise CcdError(f"{path}: {count}: {listed(problems)}; correct or delete them")
    return rows


def image_cells(row: Row) -> tuple[str, ...]:
    """Return the cells that name a row's image, as written: those of the columns `IMAGE` that are not blank."""
    return tuple(cell for name in IMAGE if (cell := row.cells.get(name, "")).strip())
