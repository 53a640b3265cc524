"""COCO's layout: {split}/ holds the images, annotations/instances_{split}.json the objects.

A class is present where it has at least one annotation, crowds included. Images without any annotation stay, with all
classes absent: 82,783 train2014 and 40,504 val2014, of which 82,081 and 40,137 have an object (the paper's counts).
Classes are the file's own categories in the order of their ids, and CLIP reads their names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ccd.datasets.record import (
    ClassInfo,
    Dataset,
    ImageEntry,
    Listing,
    Split,
    Truth,
    assemble,
    distinct_ids,
    is_inside,
    read_bytes,
    require_present,
)
from ccd.errors import CcdError, listed

HINT = (
    "unpack train2014.zip, val2014.zip and annotations_trainval2014.zip from images.cocodataset.org into one folder, "
    "so that train2014, val2014 and annotations lie side by side"
)


def load_coco(root: Path, train_split: str, test_split: str | None) -> Dataset:
    """Read the named splits of a COCO folder.

    Raises:
        CcdError: an archive is missing or incomplete, the JSON is malformed, or the splits' categories differ.
    """
    splits: list[tuple[str, Split]] = [(train_split, "train")]
    if test_split is not None:
        splits.append((test_split, "test"))
    entries: list[list[ImageEntry]] = []
    truths: list[Truth | None] = []
    categories = []
    for name, split in splits:
        path = root / "annotations" / f"instances_{name}.json"
        split_categories, names, truth = _parse(path)
        paths = find_paths(root, name, names)
        require_present(root, paths, HINT)
        entries.append([ImageEntry(PurePosixPath(image_path).stem, image_path, split) for image_path in paths])
        truths.append(truth)
        categories.append(split_categories)
    if categories[0] != categories[-1]:
        raise CcdError(
            f"{root / 'annotations'}: {train_split} and {test_split} do not have the same categories; {HINT}"
        )
    classes = (ClassInfo(name, (name.replace("_", " "),)) for name in categories[0].values())
    return assemble(root, classes, zip(distinct_ids(entries), truths, strict=True))


def find_paths(root: Path, split: str, names: Sequence[str]) -> list[str]:
    """Return the paths under ``root`` of the images that an annotation file calls ``names``.

    The names may be relative to another folder, and have backslashes, ``./`` or an absolute path below ``root``. Of the
    layouts that are tried, the one that finds most files is taken for all names; COCO's own, ``{split}/{name}``, comes
    first.
    """
    listing = Listing(root)
    plain = [_plain(root, name) for name in names]
    layouts: tuple[Callable[[str], str], ...] = (
        lambda name: f"{split}/{name}",
        lambda name: name,
        lambda name: f"images/{split}/{name}",
        lambda name: f"images/{name}",
        lambda name: f"{split}/images/{name}",
        lambda name: f"{split}/{PurePosixPath(name).name}",
        lambda name: f"images/{PurePosixPath(name).name}",
        lambda name: PurePosixPath(name).name,
    )
    best = [f"{split}/{name}" for name in plain]
    most = -1
    leads_out = any(".." in PurePosixPath(name).parts for name in plain)  # for `require_present` to refuse
    for layout in () if leads_out else layouts:
        paths = [layout(name) for name in plain]
        count = sum(is_inside(path) and listing.has(path) for path in paths)
        if count > most and (most < 0 or len(set(paths)) == len(paths)):
            best = paths
            most = count
        if most == len(plain):
            break
    return best


def _plain(root: Path, name: str) -> str:
    path = name.replace("\\", "/")
    for base in {root.as_posix(), Path(os.path.abspath(root)).as_posix()}:  # noqa: PTH100 - links stay links
        if path.startswith("/") and path.startswith(f"{base}/"):
            path = path.removeprefix(f"{base}/")
    while path.startswith("./"):
        path = path[2:]
    return path


def _parse(path: Path) -> tuple[dict[int, str], list[str], Truth | None]:
    """Return categories by ascending id, names of images by ascending id, and their labels if the file has any."""
    if not path.is_file():
        splits = sorted(item.stem.removeprefix("instances_") for item in path.parent.glob("instances_*.json"))
        raise CcdError(f"{path} does not exist; splits there: {listed(splits) or 'none'}; {HINT}")
    content = read_instances(path)
    try:
        categories = {int(item["id"]): str(item["name"]) for item in content["categories"]}
        files = {int(item["id"]): str(item["file_name"]) for item in content["images"]}
        pairs = [(int(item["image_id"]), int(item["category_id"])) for item in content.get("annotations", [])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CcdError(f"{path}: not COCO's instances format ({type(error).__name__}: {error}); {HINT}") from None
    if (len(files), len(categories)) != (len(content["images"]), len(content["categories"])):
        raise CcdError(f"{path}: an id stands for several images or categories; {HINT}")
    categories = dict(sorted(categories.items()))
    columns = {category: column for column, category in enumerate(categories)}
    rows = {image: row for row, image in enumerate(sorted(files))}
    unknown = {f"image {image}, category {kind}" for image, kind in pairs if image not in rows or kind not in columns}
    if unknown:
        raise CcdError(f"{path}: annotations of unknown images or categories: {listed(sorted(unknown))}; {HINT}")
    names = [files[image] for image in rows]
    if "annotations" not in content:  # as in the lists of test images
        return categories, names, None
    labels = np.zeros((len(rows), len(columns)), np.int8)
    labels[[rows[image] for image, _ in pairs], [columns[kind] for _, kind in pairs]] = 1
    return categories, names, Truth(labels, np.zeros(labels.shape, np.bool_))


def read_instances(path: Path) -> dict[str, Any]:
    """Read an annotation file without the outlines of its objects. Raises CcdError: missing, or no JSON object."""
    data = read_bytes(path, HINT)
    try:
        content = json.loads(data, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not valid JSON ({error}); {HINT}") from None
    if not isinstance(content, dict):
        raise CcdError(f"{path}: not COCO's instances format; {HINT}")
    return content


def _without_outline(item: dict[str, Any]) -> dict[str, Any]:
    """Drop the outlines, nine tenths of the file, before they need memory; nothing reads them."""
    item.pop("segmentation", None)
    return item
