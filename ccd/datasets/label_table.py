"""A CSV of image labels: columns ``image_id`` or ``path``, ``classes`` or ``labels`` (``;`` parts several), ``split``.

An image is named by its path under the root, or by any tail of it that is unique: the file name, with or without its
extension. Empty ``classes`` means that none is present; an image without a row has unknown labels. Other columns are
passed over, so that a table of `ccd predict` can be corrected and read. How the file itself may be written:
`ccd.artifacts.csv_files`.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ccd.artifacts.csv_files import meant, records, slashed
from ccd.errors import CcdError, listed

IMAGE = ("image_id", "path", "image", "file", "filename", "file_name")
CLASSES = ("classes", "labels")


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
        root: folder of the images, below which absolute paths may lie.

    Raises:
        CcdError: missing, without the columns, or rows with unknown or ambiguous images, unknown classes, or twice
            the same image; all offenders are counted, and the first shown with their lines.
    """
    if not path.is_file():
        raise CcdError(f"{path}: No such file; set index.labels_file to a CSV of labels, or leave it empty")
    finder, column = ImageFinder(images, root), {name: index for index, name in enumerate(names)}
    rows: dict[str, LabelRow] = {}
    problems = []
    for line, record in records(path, (IMAGE, CLASSES), ("split",)):
        key = record["image_id"].strip()
        found = finder.find(key)
        classes, unknown = named_classes(record["classes"], column)
        if len(found) != 1:
            problems.append(f"line {line}: '{key}' names {len(found) or 'no'} images")
        elif unknown:
            problems.append(f"line {line}: unknown class {listed(unknown)} (classes: {listed(names)})")
        elif found[0] in rows:
            problems.append(f"line {line}: '{key}' has an earlier row")
        else:
            rows[found[0]] = LabelRow(record.get("split", "").strip(), tuple(column[name] for name in classes))
    if problems:
        raise CcdError(f"{path}: {len(problems)} rows cannot be used: {listed(problems)}; correct or delete them")
    return rows


def named_classes(cell: str, known: Collection[str]) -> tuple[list[str], list[str]]:
    """The classes that a cell names, and what in it is no class. ``;`` parts them, or ``,`` if all are classes then."""
    parts = [part.strip() for part in cell.split(";") if part.strip()]
    if len(parts) == 1 and meant(parts[0], known) is None:
        split = [part.strip() for part in parts[0].split(",") if part.strip()]
        parts = split if all(meant(part, known) is not None for part in split) else parts
    found = [(part, meant(part, known)) for part in parts]
    return [name for _, name in found if name is not None], [part for part, name in found if name is None]


class ImageFinder:
    """Tells which images a person means: by path under the root, absolute path, or a tail that is unique."""

    def __init__(self, images: Sequence[str], root: Path | None = None) -> None:
        self._by_tail = _tails(images)
        self._root = None if root is None else Path(os.path.abspath(root))  # noqa: PTH100 - links stay links

    def find(self, text: str) -> list[str]:
        """The images that ``text`` names: one, none, or several where it says too little."""
        for key in (text, text.removeprefix("'")):
            found = self._by_tail.get(key) or self._by_tail.get(slashed(key)) or self._below_root(slashed(key))
            if found:
                return found
        return []

    def _below_root(self, path: str) -> list[str]:
        """A path that leads to the root by way of folders above it, here or where the data set was before."""
        if self._root is None:
            return []
        parts = PurePosixPath(path).parts
        for place, part in enumerate(parts[:-1]):
            below = "/".join(parts[place + 1 :])
            if part == self._root.name and below in self._by_tail:
                return self._by_tail[below]
        return []


def _tails(images: Sequence[str]) -> Mapping[str, list[str]]:
    """What an image may be called -> the images called so; a full path always means that image."""
    tails: dict[str, list[str]] = defaultdict(list)
    for path in images:
        pure = PurePosixPath(path)
        for name in {pure.with_suffix("").as_posix(), pure.name, pure.stem}:
            tails[name].append(path)
    return {**tails, **{path: [path] for path in images}}
