"""Reads any folder of images with a list of class names and, optionally, a CSV of labels for evaluation.

Images are found in all subfolders (hidden ones left out), sorted by path; other files are counted by ending. An image
under ``{test_split}/`` is a test image, any other a training image, unless the CSV's ``split`` column says otherwise.
Only evaluation reads the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccd.datasets.class_names import CLASSES_FILE, read_classes
from ccd.datasets.image_search import left_out_line, search
from ccd.datasets.label_table import LabelRow, read_label_table
from ccd.datasets.record import ClassInfo, Dataset, ImageEntry, Split, check
from ccd.errors import CcdError, listed

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
    classes = read_classes(classes_file or root / CLASSES_FILE)
    table = labels_file or (root / LABELS_FILE if (root / LABELS_FILE).is_file() else None)
    lists = [classes_file] if classes_file else []
    return from_tables(root, train_split, test_split, classes, table, lists)


def from_tables(
    root: Path,
    train_split: str,
    test_split: str | None,
    classes: tuple[ClassInfo, ...],
    table: Path | None,
    lists: Sequence[Path] = (),
) -> Dataset:
    """Read the images under ``root`` with the labels of ``table``, see `load_folder`.

    ``lists``: further files of the data set, which do not count as left-out files.
    """
    found_images = search(root, [*lists, table] if table else lists)
    paths = found_images.paths
    if not paths:
        others = left_out_line(found_images.left_out) or "it holds no other files either"
        raise CcdError(f"{root} holds no images ({others}); set dataset.root to their folder")
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
    dataset = Dataset(
        classes, tuple(entries), tuple(labelled), labels, np.zeros(labels.shape, np.bool_), found_images.left_out
    )
    check(dataset, root)
    return dataset


def _split_of(path: str, row: LabelRow | None, train_split: str, test_split: str) -> str:
    if row is not None and row.split:
        return row.split
    return test_split if path.startswith(f"{test_split}/") else train_split
