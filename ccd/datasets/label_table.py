"""A CSV of image labels: columns ``image_id`` or ``path``, ``classes`` (with ``;`` between them), optionally ``split``.

An image is named by its path under the root, or by any tail of it that is unique: the file name, with or without its
extension. Empty ``classes`` means that none is present; an image without a row has unknown labels.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ccd.datasets.files import read_text
from ccd.errors import CcdError, listed

KEYS = ("image_id", "path")
COLUMNS = {*KEYS, "split", "classes"}


@dataclass(frozen=True)
class LabelRow:
    """``split`` as written ("" where it is not), ``columns`` of the classes that are present."""

    split: str
    columns: tuple[int, ...]


def read_label_table(path: Path, images: Sequence[str], names: Sequence[str]) -> dict[str, LabelRow]:
    """Rows by image path.

    Args:
        images: paths of all images, relative to the root, with forward slashes.
        names: the class names, in the order of the columns.

    Raises:
        CcdError: missing, without the columns, or rows with unknown or ambiguous images, unknown classes, or twice
            the same image; all offenders are counted.
    """
    by_tail, column = _tails(images), {name: index for index, name in enumerate(names)}
    rows: dict[str, LabelRow] = {}
    problems = []
    for line, record in enumerate(_records(path), start=2):
        key = (record.get("image_id") or record.get("path") or "").strip()
        found = by_tail.get(key, [])
        classes = [name.strip() for name in (record["classes"] or "").split(";") if name.strip()]
        unknown = [name for name in classes if name not in column]
        if len(found) != 1:
            problems.append(f"line {line}: '{key}' names {len(found) or 'no'} images")
        elif unknown:
            problems.append(f"line {line}: unknown class {listed(unknown)} (classes: {listed(names)})")
        elif found[0] in rows:
            problems.append(f"line {line}: '{key}' has an earlier row")
        else:
            rows[found[0]] = LabelRow((record.get("split") or "").strip(), tuple(column[name] for name in classes))
    if problems:
        raise CcdError(f"{path}: {len(problems)} rows cannot be used: {listed(problems)}; correct or remove them")
    return rows


def _records(path: Path) -> list[dict[str, str | None]]:
    text = read_text(path, "set index.labels_file to a CSV of labels, or leave it empty")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = reader.fieldnames or []
        if "classes" not in header or not set(KEYS) & set(header) or not set(header) <= COLUMNS:
            raise CcdError(
                f"{path}: columns are {listed(header) or 'none'}; needed: image_id or path, classes; optional: split"
            )
        records: list[dict[str, str | None]] = list(reader)
    except csv.Error as error:
        raise CcdError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend or remove it") from None
    ragged = [str(line) for line, record in enumerate(records, start=2) if None in record or None in record.values()]
    if ragged:
        raise CcdError(
            f"{path}: rows with too many or too few columns (several classes go into one, with ';'): {listed(ragged)}; "
            "correct or remove them"
        )
    return records


def _tails(images: Sequence[str]) -> Mapping[str, list[str]]:
    """What an image may be called -> the images called so; a full path always means that image."""
    tails: dict[str, list[str]] = defaultdict(list)
    for path in images:
        pure = PurePosixPath(path)
        for name in {pure.with_suffix("").as_posix(), pure.name, pure.stem}:
            tails[name].append(path)
    return tails | {path: [path] for path in images}
