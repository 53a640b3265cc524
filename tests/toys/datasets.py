"""Tiny trees in the layouts of COCO, NUS-WIDE and VOC; their images are empty of pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ccd.datasets.class_names import NUS_WIDE
from ccd.datasets.voc import CLASSES as VOC_CLASSES

COCO_CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def coco_content(
    split: str, images: dict[int, list[int]], categories: list[dict[str, Any]] = COCO_CATEGORIES
) -> dict[str, Any]:
    """``images``: id -> category id of each annotation."""
    return {
        "categories": categories,
        "images": [{"id": i, "file_name": f"COCO_{split}_{i:012d}.jpg"} for i in images],
        "annotations": [
            {"image_id": i, "category_id": c, "iscrowd": int(n == 2), "segmentation": [[1.0, 2.0]]}
            for i, kinds in images.items()
            for n, c in enumerate(kinds)
        ],
    }


def coco_tree(root: Path, split: str, images: dict[int, list[int]], **options: Any) -> Path:
    """Annotations of one split, and its images."""
    for folder in (root / split, root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    written = coco_content(split, images, **options)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(written))
    for item in written["images"]:
        (root / split / item["file_name"]).write_bytes(b"not read here")
    return root


NUSWIDE_LISTS = {
    "Train": {"actor\\0001_11.jpg": {"person"}, "actor\\0002_12.jpg": {"sky", "clouds"}, "zoo\\0003_13.jpg": set()},
    "Test": {"zoo\\0004_14.jpg": {"zebra"}, "actor\\0005_15.jpg": {"airport"}},
}


def nuswide_tree(root: Path, photos: str = "Flickr", newline: str = "\r\n") -> Path:
    """Lists, labels and images of both splits."""
    (root / "ImageList").mkdir()
    truth = root / "Groundtruth" / "TrainTestLabels"
    truth.mkdir(parents=True)
    for part, images in NUSWIDE_LISTS.items():
        (root / "ImageList" / f"{part}Imagelist.txt").write_text(
            "".join(f"{name}{newline}" for name in images), newline=""
        )
        for name in images:
            file = root / photos / name.replace("\\", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"not read here")
        for concept in NUS_WIDE:
            rows = "".join(f"{int(concept in present)}{newline}" for present in images.values())
            (truth / f"Labels_{concept}_{part}.txt").write_text(rows, newline="")
    return root


VOC_TRAIN = {"000001": {"cat": 1}, "000002": {"cat": 0, "person": 1}, "000003": {"train": 1}}


def voc_kit(home: Path, splits: dict[str, dict[str, dict[str, int]]], *, lists: bool = True, xml: bool = True) -> Path:
    """Objects are class -> 1 (plain) or 0 (difficult only)."""
    main = home / "ImageSets" / "Main"
    photos = home / "JPEGImages"
    notes = home / "Annotations"
    for folder in (main, photos, notes):
        folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        (main / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, objects in images.items():
            (photos / f"{name}.jpg").write_bytes(b"not read here")
            if xml:
                (notes / f"{name}.xml").write_text(voc_annotation(objects))
        for kind in VOC_CLASSES if lists else ():
            rows = "".join(f"{name} {objects.get(kind, -1):2d}\n" for name, objects in images.items())
            (main / f"{kind}_{split}.txt").write_text(rows)
    return home


def voc_annotation(objects: dict[str, int]) -> str:
    """XML that names objects, see `voc_kit`."""
    items = "".join(f"<object><name>{n}</name><difficult>{1 - v}</difficult></object>" for n, v in objects.items())
    return f"<annotation><folder>VOC</folder>{items}</annotation>"
