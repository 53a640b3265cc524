"""COCO's layout: {split}/ holds the images, annotations/instances_{split}.json the objects.

A class is present where it has at least one annotation, crowds included. Images without any annotation stay, with all
classes absent: 82,783 train2014 and 40,504 val2014, of which 82,081 and 40,137 have an object (the paper's counts).
Classes are the file's own categories in the order of their ids, and CLIP reads their names.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ccd.datasets.files import read_bytes, require_present
from ccd.datasets.record import ClassInfo, Dataset, ImageEntry, Split, Truth, assemble
from ccd.errors import CcdError, listed

HINT = (
    "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip from images.cocodataset.org into one folder, "
    "so that train2014, val2014 and annotations lie side by side"
)


def load_coco(root: Path, train_split: str, test_split: str | None) -> Dataset:
    """Read the named splits of a COCO folder.

    Raises:
        CcdError: an archive is missing or incomplete, the JSON is malformed, or the splits have other categories.
    """
    splits: list[tuple[str, Split]] = [(train_split, "train")]
    if test_split is not None:
        splits.append((test_split, "test"))
    parts, categories = [], []
    for name, split in splits:
        path = root / "annotations" / f"instances_{name}.json"
        found, entries, truth = _parse(path, name, split)
        require_present(root, (entry.path for entry in entries), HINT)
        parts.append((entries, truth))
        categories.append(found)
    if categories[0] != categories[-1]:
        raise CcdError(
            f"{root / 'annotations'}: {train_split} and {test_split} do not have the same categories; {HINT}"
        )
    return assemble(root, (ClassInfo(name, (name.replace("_", " "),)) for name in categories[0].values()), parts)


def _parse(path: Path, name: str, split: Split) -> tuple[dict[int, str], list[ImageEntry], Truth]:
    """Categories by ascending id, images by ascending id, and their labels."""
    if not path.is_file():
        there = sorted(item.stem.removeprefix("instances_") for item in path.parent.glob("instances_*.json"))
        raise CcdError(f"{path} does not exist; splits there: {listed(there) or 'none'}; {HINT}")
    content = read_instances(path)
    try:
        categories = {int(item["id"]): str(item["name"]) for item in content["categories"]}
        files = {int(item["id"]): str(item["file_name"]) for item in content["images"]}
        pairs = [(int(item["image_id"]), int(item["category_id"])) for item in content["annotations"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CcdError(f"{path}: not COCO's instances format ({type(error).__name__}: {error}); {HINT}") from None
    if (len(files), len(categories)) != (len(content["images"]), len(content["categories"])):
        raise CcdError(f"{path}: an id stands for several images or categories; {HINT}")
    categories = dict(sorted(categories.items()))
    columns = {category: column for column, category in enumerate(categories)}
    rows = {image: row for row, image in enumerate(sorted(files))}
    strays = {f"image {image}, category {kind}" for image, kind in pairs if image not in rows or kind not in columns}
    if strays:
        raise CcdError(f"{path}: annotations of unknown images or categories: {listed(sorted(strays))}; {HINT}")
    labels = np.zeros((len(rows), len(columns)), np.int8)
    labels[[rows[image] for image, _ in pairs], [columns[kind] for _, kind in pairs]] = 1
    entries = [ImageEntry(PurePosixPath(files[image]).stem, f"{name}/{files[image]}", split) for image in rows]
    return categories, entries, Truth(labels, np.zeros(labels.shape, np.bool_))


def read_instances(path: Path) -> dict[str, Any]:
    """An annotation file without the outlines of its objects. Raises CcdError: missing, or not a JSON object."""
    data = read_bytes(path, HINT)
    try:
        content = json.loads(data, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not valid JSON ({error}); {HINT}") from None
    if not isinstance(content, dict):
        raise CcdError(f"{path}: not COCO's instances format; {HINT}")
    return content


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    """Outlines are nine tenths of the file and nothing here reads them; dropped early they need no memory."""
    item.pop("segmentation", None)
    return item
