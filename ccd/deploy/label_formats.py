"""Convert labels to the formats of other tools."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import XMLGenerator, quoteattr
from xml.sax.xmlreader import AttributesImpl

from ccd.artifacts.files import csv_line
from ccd.deploy.rows import short
from ccd.errors import CcdError, listed

if TYPE_CHECKING:
    from ccd.deploy.labelled import Box, LabelledImage, LabelledSet  # with PyTorch

CONTROL = "labels"
"""Name of our control in Label Studio, whose choices are the classes; a project may have others beside it."""
IMAGE = "image"
BOXES = "boxes"
_NO_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")  # also \r, which XML parsers turn into \n
BOX_NOTE = (
    "Boxes are the local views of classifier-guided CLIP distillation: a peak of a class activation map, widened. "
    "They say where a class was seen, and are no tight object boxes."
)


def to_csv(labels: LabelledSet) -> dict[str, str]:
    """``labels.csv``: image_id, path, split, classes (separated by ``;``), and a column per class with its label."""
    columns = [f"label of {name}" for name in labels.classes]  # so that no class has the name of another column
    lines = [csv_line(["image_id", "path", "split", "classes", *columns])]
    for image in labels.images:
        cells = [image.image_id, image.path, image.split, ";".join(labels.names(image))]
        lines.append(csv_line([*cells, *_values(image)]))
    return {"labels.csv": "".join(lines)}


def to_hf(labels: LabelledSet) -> dict[str, str]:
    """``metadata.jsonl`` of Hugging Face's imagefolder; a box is x, y, width and height in pixels."""
    lines = []
    for image in labels.images:
        objects = {
            "bbox": [_xywh(box) for box in image.boxes],
            "category": [labels.classes[box.class_index] for box in image.boxes],
            "score": [short(box.score) for box in image.boxes],
        }
        row = {"file_name": image.path, "labels": labels.names(image), "label_values": _values(image)}
        lines.append(_json(row | {"split": image.split, "objects": objects}))
    return {"metadata.jsonl": "".join(line + "\n" for line in lines)}


def to_coco(labels: LabelledSet) -> dict[str, str]:
    """``annotations.json`` in COCO's detection layout; ids start at 1. As a label without a box has no annotation,
    every image also has its ``labels``."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, image in enumerate(labels.images, start=1):
        values = {labels.classes[index]: short(image.values[index]) for index in image.present}
        size = {"width": image.width_px, "height": image.height_px}
        images.append({"id": number, "file_name": image.path, **size, "labels": values})
        for box in image.boxes:
            x, y, width, height = _xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": box.class_index + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "score": short(box.score),
                    "label": short(image.values[box.class_index]),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(labels.classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return {"annotations.json": _json({"info": {"description": BOX_NOTE}, "licenses": [], **content}) + "\n"}


def to_fiftyone(labels: LabelledSet, folder: str) -> dict[str, str]:
    """``labels.json`` and ``data.json`` of a FiftyOneImageClassificationDataset with several labels per image.

    ``data.json`` holds the paths of the images in ``folder``. Its keys have an extension, since FiftyOne removes one.
    """
    targets = {
        image.image_id: [{"label": index, "confidence": short(image.values[index])} for index in image.present]
        for image in labels.images
    }
    paths = {image.image_id + PurePosixPath(image.path).suffix: f"{folder}/{image.path}" for image in labels.images}
    return {
        "labels.json": _json({"classes": list(labels.classes), "labels": targets}) + "\n",
        "data.json": _json(paths) + "\n",
    }


def _values(image: LabelledImage) -> list[float]:
    return [short(value) for value in image.values]


def _xywh(box: Box) -> list[float]:
    return [short(value) for value in (box.x0_px, box.y0_px, box.x1_px - box.x0_px, box.y1_px - box.y0_px)]


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def to_label_studio(labels: LabelledSet, url: str) -> dict[str, str]:
    """``tasks.json``: one task per image with our labels as predictions, and ``labelling_config.xml`` for the project.

    Args:
        url: text in front of an image's path, e.g. ``/data/local-files/?d=photos/`` for local storage.

    Raises:
        CcdError: a name has control characters.
    """
    _refuse_control_characters(labels)
    tasks = [_task(labels, image, url) for image in labels.images]
    content = json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return {"tasks.json": content, "labelling_config.xml": labelling_config(labels.classes)}


def _task(labels: LabelledSet, image: LabelledImage, url: str) -> dict[str, object]:
    data = {"image": url + quote(image.path), "image_id": image.image_id}
    return {"data": data, "predictions": [{"model_version": "ccd", **label_studio_prediction(labels.classes, image)}]}


def label_studio_prediction(classes: Sequence[str], image: LabelledImage) -> dict[str, Any]:
    """Return the labels and boxes of an image as a prediction of Label Studio: ``score`` and ``result``."""
    size = {"original_width": image.width_px, "original_height": image.height_px, "image_rotation": 0}
    common = {"to_name": IMAGE, **size}
    result: list[dict[str, object]] = []
    if image.present:
        choices = {"choices": [classes[index] for index in image.present]}
        result.append({"id": CONTROL, "from_name": CONTROL, "type": "choices", "value": choices, **common})
    for number, box in enumerate(image.boxes):
        value = _percent(box, image) | {"rotation": 0, "rectanglelabels": [classes[box.class_index]]}
        region = {"id": f"box{number}", "from_name": BOXES, "type": "rectanglelabels", "score": short(box.score)}
        result.append({**region, "value": value, **common})
    score = short(max((image.values[index] for index in image.present), default=0.0))
    return {"score": score, "result": result}


def _percent(box: Box, image: LabelledImage) -> dict[str, float]:
    """Convert a box to % of the image's sides, as Label Studio needs it."""
    x, width = (100 * value / image.width_px for value in (box.x0_px, box.x1_px - box.x0_px))
    y, height = (100 * value / image.height_px for value in (box.y0_px, box.y1_px - box.y0_px))
    return {"x": x, "y": y, "width": width, "height": height}


def labelling_config(classes: tuple[str, ...]) -> str:
    """Return the labelling interface of Label Studio: the image, a choice of several classes, and boxes."""
    values = [quoteattr(name, {'"': "&quot;"}) for name in classes]  # Label Studio searches the XML for name="..."
    choices = [f"    <Choice value={value}/>" for value in values]
    boxes = [f"    <Label value={value}/>" for value in values]
    lines = [
        "<View>",
        f'  <Image name="{IMAGE}" value="$image"/>',
        f'  <Choices name="{CONTROL}" toName="{IMAGE}" choice="multiple" showInLine="true">',
        *choices,
        "  </Choices>",
        f'  <RectangleLabels name="{BOXES}" toName="{IMAGE}">',
        *boxes,
        "  </RectangleLabels>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def to_cvat(labels: LabelledSet) -> dict[str, str]:
    """``annotations.xml``, CVAT for images 1.1: a tag for every label, a box for every view.

    Raises:
        CcdError: a name has control characters.
    """
    _refuse_control_characters(labels)
    buffer = io.StringIO()
    xml = _Xml(buffer)
    xml.startDocument()
    xml.open("annotations")
    xml.text("version", "1.1")
    _cvat_meta(xml, labels)
    for number, image in enumerate(labels.images):
        size = {"width": str(image.width_px), "height": str(image.height_px)}
        xml.open("image", {"id": str(number), "name": image.path, **size})
        for index in image.present:
            xml.leaf("tag", {"label": labels.classes[index], "source": "auto"})
        for box in image.boxes:
            sides = {"xtl": box.x0_px, "ytl": box.y0_px, "xbr": box.x1_px, "ybr": box.y1_px}
            corners = {name: f"{value:.2f}" for name, value in sides.items()}
            fixed = {"label": labels.classes[box.class_index], "source": "auto", "occluded": "0"}
            xml.leaf("box", fixed | corners | {"z_order": "0"})
        xml.close("image")
    xml.close("annotations")
    xml.endDocument()
    return {"annotations.xml": buffer.getvalue()}


def _cvat_meta(xml: _Xml, labels: LabelledSet) -> None:
    xml.open("meta")
    xml.open("task")
    xml.text("name", "ccd")
    xml.text("size", str(len(labels.images)))
    xml.text("mode", "annotation")
    xml.open("labels")
    for name in labels.classes:
        xml.open("label")
        xml.text("name", name)
        xml.text("type", "any")
        xml.leaf("attributes", {})
        xml.close("label")
    for tag in ("labels", "task", "meta"):
        xml.close(tag)


class _Xml(XMLGenerator):
    """Write XML with each element on its own line, without a tree in memory."""

    def __init__(self, file: io.StringIO) -> None:
        super().__init__(file, "utf-8", short_empty_elements=True)

    def open(self, tag: str, attributes: Mapping[str, str] | None = None) -> None:
        self.startElement(tag, AttributesImpl(attributes or {}))
        self.characters("\n")

    def close(self, tag: str) -> None:
        self.endElement(tag)
        self.characters("\n")

    def leaf(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.startElement(tag, AttributesImpl(attributes))
        self.close(tag)

    def text(self, tag: str, content: str) -> None:
        self.startElement(tag, AttributesImpl({}))
        self.characters(content)
        self.close(tag)


def _refuse_control_characters(labels: LabelledSet) -> None:
    bad = [repr(text) for text in (*labels.classes, *(image.path for image in labels.images)) if _NO_XML.search(text)]
    if bad:
        raise CcdError(f"names with control characters cannot be written as XML; rename {listed(bad)}")
