"""Reads any folder of images with a list of class names and, optionally, a CSV of labels for evaluation.

Images are found in all subfolders (hidden ones left out), sorted by path; other files are counted by ending. An image
under ``{test_split}/`` is a test image, any other a training image, unless the CSV's ``split`` column says otherwise.
Only evaluation reads the labels. The folder may lie behind a URL, or be a manifest or Parquet, see
`ccd.datasets.manifest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ccd.datasets.class_names import CLASSES_FILE, read_classes
from ccd.datasets.image_search import left_out_line
from ccd.datasets.label_table import LabelRow, read_label_table
from ccd.datasets.manifest import Found, exists, find, local_copy
from ccd.datasets.record import ClassInfo, Dataset, ImageEntry, Split, check
from ccd.errors import CcdError, listed
from ccd.images.remote import is_table

LABELS_FILE = "labels.csv"


def load_folder(
    root: Path, train_split: str, test_split: str | None, classes_file: Path | None, labels_file: Path | None
) -> Dataset:
    """Read a folder of images.

    Args:
        train_split, test_split: values of the CSV's ``split`` column; without a test split, test images are left out.
        classes_file: class names, see `read_classes`; None: classes.txt in ``root``.
        labels_file: see `ccd.datasets.label_table`; None: labels.csv in ``root`` if there is one, else no labels.

    Raises:
        CcdError: a file is missing or malformed, or the folder holds no images.
    """
    home = root.parent if is_table(root) else root  # of the lists
    table = labels_file or (home / LABELS_FILE if exists(home / LABELS_FILE) else None)
    found = find(root, [each for each in (classes_file, table) if each])
    if classes_file is None and found.class_names and not exists(home / CLASSES_FILE):
        classes = tuple(ClassInfo(name, (name.replace("_", " "),)) for name in found.class_names)
    else:
        with local_copy(classes_file or home / CLASSES_FILE) as file:
            classes = read_classes(file)
    _check_not_empty(root, found)
    if table is None:
        return _assembled(root, train_split, test_split, classes, found, found.rows(root, _names(classes)), root)
    with local_copy(table) as file:
        rows = read_label_table(file, found.paths, _names(classes), root)
    return _assembled(root, train_split, test_split, classes, found, rows, table)


def _names(classes: Sequence[ClassInfo]) -> list[str]:
    return [info.name for info in classes]


def from_tables(
    root: Path, train_split: str, test_split: str | None, classes: tuple[ClassInfo, ...], table: Path
) -> Dataset:
    """Read the images in the folder ``root`` with the labels of ``table``, see `load_folder`."""
    found = find(root, [table])
    _check_not_empty(root, found)
    rows = read_label_table(table, found.paths, _names(classes), root)
    return _assembled(root, train_split, test_split, classes, found, rows, table)


def _check_not_empty(root: Path, found: Found) -> None:
    if not found.paths:
        others = left_out_line(found.left_out) or "it holds no other files either"
        raise CcdError(f"{root} holds no images ({others}); set dataset.root to their folder")


def _assembled(
    root: Path,
    train_split: str,
    test_split: str | None,
    classes: tuple[ClassInfo, ...],
    found: Found,
    rows: Mapping[str, LabelRow],
    stated_in: Path,
) -> Dataset:
    splits: dict[str, Split | None] = {train_split: "train", test_split or "test": "test" if test_split else None}
    stated = {**found.splits, **{path: row.split for path, row in rows.items() if row.split}}
    unknown = set(stated.values()) - set(splits)
    if unknown:
        raise CcdError(
            f"{stated_in}: splits {listed(sorted(unknown))} are neither index.train_split ({train_split}) nor "
            f"index.test_split ({test_split or 'test'}); rename them or remove their rows and images"
        )
    entries: list[ImageEntry] = []
    for path in found.paths:
        split = splits[stated.get(path) or _split_of(path, train_split, test_split or "test")]
        if split is not None:
            entries.append(ImageEntry(path, path, split))
    labelled = [entry.path for entry in entries if entry.path in rows]
    labels = np.zeros((len(labelled), len(classes)), np.int8)
    for index, path in enumerate(labelled):
        labels[index, list(rows[path].columns)] = 1
    unsure = np.zeros(labels.shape, np.bool_)
    dataset = Dataset(classes, tuple(entries), tuple(labelled), labels, unsure, found.left_out, found.versions)
    check(dataset, root)
    return dataset


def _split_of(path: str, train_split: str, test_split: str) -> str:
    return test_split if path.startswith(f"{test_split}/") else train_split
