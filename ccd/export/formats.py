"""The formats of ``ccd export labels`` that are one file of rows or one JSON document.

Each takes a `LabelledSet` and returns the text of each of its files by name.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from ccd.artifacts.csv_files import csv_line
from ccd.deploy.rows import short
from ccd.export.labelled import Box, LabelledImage, LabelledSet

BOX_NOTE = (
    "Boxes are the local views of classifier-guided CLIP distillation: a peak of a class activation map, widened. "
    "They say where a class was seen, and are no tight object boxes."
)


def to_csv(labels: LabelledSet) -> dict[str, str]:
    """``labels.csv``: image_id, path, split, classes (with ``;`` between them), and each class's label in a column."""
    columns = [f"label of {name}" for name in labels.classes]  # no class can be called like a fixed column
    lines = [csv_line(["image_id", "path", "split", "classes", *columns])]
    for image in labels.images:
        about = [image.image_id, image.path, image.split, ";".join(labels.names(image))]
        lines.append(csv_line([*about, *_values(image)]))
    return {"labels.csv": "".join(lines)}


def to_hf(labels: LabelledSet) -> dict[str, str]:
    """``metadata.jsonl`` of Hugging Face's imagefolder; a box is x, y, width and height in pixels."""
    lines = []
    for image in labels.images:
        objects = {
            "bbox": [_xywh(box) for box in image.boxes],
            "category": [labels.classes[box.place] for box in image.boxes],
            "score": [short(box.score) for box in image.boxes],
        }
        row = {"file_name": image.path, "labels": labels.names(image), "label_values": _values(image)}
        lines.append(_json(row | {"split": image.split, "objects": objects}))
    return {"metadata.jsonl": "".join(line + "\n" for line in lines)}


def to_coco(labels: LabelledSet) -> dict[str, str]:
    """``annotations.json`` in COCO's detection layout; ids count from 1. A label without a box has no annotation, so
    every image also carries its ``labels``."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, image in enumerate(labels.images, start=1):
        values = {labels.classes[place]: short(image.values[place]) for place in image.present}
        size = {"width": image.width_px, "height": image.height_px}
        images.append({"id": number, "file_name": image.path, **size, "labels": values})
        for box in image.boxes:
            x, y, width, height = _xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": box.place + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": short(box.score),
                    "label": short(image.values[box.place]),
                }
            )
    categories = [{"id": place, "name": name} for place, name in enumerate(labels.classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"annotations.json": _json({"info": {"description": BOX_NOTE}, "licenses": [], **content}) + "\n"}


def to_fiftyone(labels: LabelledSet, folder: str) -> dict[str, str]:
    """``labels.json`` and ``data.json`` of a FiftyOneImageClassificationDataset with several labels per image; the
    second says where in ``folder`` the images are. FiftyOne cuts an ending off the second's names, hence theirs."""
    targets = {
        image.image_id: [{"label": place, "confidence": short(image.values[place])} for place in image.present]
        for image in labels.images
    }
    places = {image.image_id + PurePosixPath(image.path).suffix: f"{folder}/{image.path}" for image in labels.images}
    return {
        "labels.json": _json({"classes": list(labels.classes), "labels": targets}) + "\n",
        "data.json": _json(places) + "\n",
    }


def _values(image: LabelledImage) -> list[float]:
    return [short(value) for value in image.values]


def _xywh(box: Box) -> list[float]:
    return [short(value) for value in (box.x0_px, box.y0_px, box.x1_px - box.x0_px, box.y1_px - box.y0_px)]


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)
