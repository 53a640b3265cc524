"""Adapters read a data set's folder: image records, class names and, where known, labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ccd.datasets.coco import load_coco
from ccd.datasets.demo_set import DemoScenes, load_demo
from ccd.datasets.folder import load_folder
from ccd.datasets.nuswide import load_nuswide
from ccd.datasets.record import ClassInfo, Dataset, ImageEntry
from ccd.datasets.voc import load_voc
from ccd.errors import CcdError, url_of
from ccd.images.remote import is_table

__all__ = ["ADAPTERS", "ClassInfo", "Dataset", "ImageEntry", "load_dataset"]

ADAPTERS = ("demo", "voc", "coco", "nuswide", "folder")


def load_dataset(
    adapter: str,
    root: Path,
    *,
    train_split: str,
    test_split: str | None,
    classes_file: Path | str | None = None,
    labels_file: Path | str | None = None,
    demo_train: int = 1000,
    demo_test: int = 500,
    demo_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read a data set with one of `ADAPTERS`; arguments that the adapter does not use are ignored.

    Args:
        root: folder of the data set, relative to the working directory like the two files.
        progress: called with (done, total) while the demo renders.

    Raises:
        CcdError: the adapter is unknown, ``root`` is missing (except for the demo), or the adapter finds an error.
    """
    if train_split == test_split:
        raise CcdError(f"index.train_split and index.test_split are both '{train_split}'; they must differ")
    if adapter == "demo":
        return load_demo(root, train_split, test_split, DemoScenes(demo_train, demo_test, demo_seed), progress)
    if url_of(root) is not None and adapter != "folder":
        raise CcdError(f"{root}: index.adapter: {adapter} reads local folders alone; images behind URLs need folder")
    if not root.is_dir() and not (
        adapter == "folder" and (url_of(root) is not None or (is_table(root) and root.is_file()))
    ):
        raise CcdError(f"{root} is not a folder; set dataset.root to the folder of the data set")
    if adapter == "voc":
        return load_voc(root, train_split, test_split)
    if adapter == "coco":
        return load_coco(root, train_split, test_split)
    if adapter == "nuswide":
        return load_nuswide(root, train_split, test_split)
    if adapter == "folder":
        classes, labels = (Path(file) if file else None for file in (classes_file, labels_file))
        return load_folder(root, train_split, test_split, classes, labels)
    raise CcdError(f"unknown adapter '{adapter}'; the adapters are: {', '.join(ADAPTERS)}")
