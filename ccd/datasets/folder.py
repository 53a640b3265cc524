"""Any folder of images with a list of class names; optionally a CSV of labels for evaluation.

Images are found in all subfolders (hidden ones left out), sorted by path. An image under ``{test_split}/`` is a test
image, any other a training image, unless the CSV's ``split`` column says otherwise. Only evaluation reads the labels.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from ccd.datasets.files import read_lines
from ccd.datasets.label_table import LabelRow, read_label_table
from ccd.datasets.record import ClassInfo, Dataset, ImageEntry, Split, check, check_classes
from ccd.errors import CcdError, listed

EXTENSIONS = frozenset(f".{name}" for name in ("jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff", "ppm"))
CLASSES_FILE, LABELS_FILE = "classes.txt", "labels.csv"


def load_folder(
    root: Path, train_split: str, test_split: str | None, classes_file: Path | None, labels_file: Path | None
) -> Dataset:
    """Read a folder of images.

    Args:
        train_split, test_split: values of the CSV's ``split`` column; without a test split, test images are left out.
        classes_file: class names, see `read_classes`; None: classes.txt in ``root``.
        labels_file: see `ccd.datasets.label_table`; None: labels.csv in ``root`` if there is one, else no labels.

    Raises:
        CcdError: a file is missing or malformed, or there are no images.
    """
    classes = read_classes(classes_file or root / CLASSES_FILE)
    table = labels_file or (root / LABELS_FILE if (root / LABELS_FILE).is_file() else None)
    return from_tables(root, train_split, test_split, classes, table)


def from_tables(
    root: Path, train_split: str, test_split: str | None, classes: tuple[ClassInfo, ...], table: Path | None
) -> Dataset:
    """The images under ``root`` with the labels of ``table``, see `load_folder`."""
    paths = find_images(root)
    if not paths:
        raise CcdError(f"{root} holds no images ({', '.join(sorted(EXTENSIONS))}); set dataset.root to their folder")
    names = [info.name for info in classes]
    rows = read_label_table(table, paths, names, root) if table else {}
    splits: dict[str, Split | None] = {train_split: "train", test_split or "test": "test" if test_split else None}
    unknown = {row.split for row in rows.values() if row.split} - set(splits)
    if unknown:
        raise CcdError(
            f"{table}: splits {listed(sorted(unknown))} are neither index.train_split ({train_split}) nor "
            f"index.test_split ({test_split or 'test'}); rename them or remove their rows and images"
        )
    entries: list[ImageEntry] = []
    for path in paths:
        split = splits[_split_of(path, rows.get(path), train_split, test_split or "test")]
        if split is not None:
            entries.append(ImageEntry(path, path, split))
    labelled = [entry.path for entry in entries if entry.path in rows]
    labels = np.zeros((len(labelled), len(classes)), np.int8)
    for index, path in enumerate(labelled):
        labels[index, list(rows[path].columns)] = 1
    dataset = Dataset(classes, tuple(entries), tuple(labelled), labels, np.zeros(labels.shape, np.bool_))
    check(dataset, root)
    return dataset


def _split_of(path: str, row: LabelRow | None, train_split: str, test_split: str) -> str:
    if row is not None and row.split:
        return row.split
    return test_split if path.startswith(f"{test_split}/") else train_split


def find_images(root: Path) -> list[str]:
    """Relative paths, with forward slashes, of all images under ``root``; hidden files and folders are left out.

    Links to folders are followed, each folder once; `ccd.indexing.FileReader` judges what lies outside ``root``.

    Raises:
        CcdError: ``root`` or one of its folders cannot be read.
    """
    found: list[str] = []
    seen = {os.path.realpath(root)}
    try:
        for folder, subfolders, files in os.walk(root, onerror=_raise, followlinks=True):
            subfolders[:] = [name for name in sorted(subfolders) if _is_new(folder, name, seen)]
            prefix = "" if (relative := Path(folder).relative_to(root).as_posix()) == "." else relative + "/"
            found += [prefix + name for name in files if _is_image(name)]
    except OSError as error:
        raise CcdError(
            f"{error.filename or root}: {error.strerror or error}; set dataset.root to a folder of images"
        ) from None
    return sorted(found)


def _is_new(folder: str, name: str, seen: set[str]) -> bool:
    """Not hidden, and not seen before under another name: links can go in circles."""
    real = os.path.realpath(os.path.join(folder, name))  # noqa: PTH118
    if name.startswith(".") or real in seen:
        return False
    seen.add(real)
    return True


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in EXTENSIONS


def _raise(error: OSError) -> None:
    raise error


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Class names, one per line: ``name``, or ``name: phrase, phrase`` where CLIP shall read other words (averaged).

    Without phrases CLIP reads the name, underscores as blanks. Lines that start with ``#`` are comments.

    Raises:
        CcdError: missing, no names, a name with ``;`` (it separates classes in a table of labels), or names or phrases
            that are empty, repeated or not UTF-8.
    """
    hint = "write the class names there, one per line, or set index.classes_file to the list"
    lines = [line for line in read_lines(path, hint) if not line.startswith("#")]
    if not lines:
        raise CcdError(f"{path} holds no class names; {hint}")
    classes = tuple(_read_class(line) for line in lines)
    wrong = [info.name for info in classes if ";" in info.name]
    if wrong:
        raise CcdError(f"{path}: class names must not contain ';': {listed(wrong)}; rename them")
    check_classes(classes, path)
    return classes


def _read_class(line: str) -> ClassInfo:
    name, colon, phrases = (part.strip() for part in line.partition(":"))
    texts = tuple(phrase.strip() for phrase in phrases.split(",")) if colon else (name.replace("_", " "),)
    return ClassInfo(name, texts)
