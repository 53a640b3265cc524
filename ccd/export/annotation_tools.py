"""``ccd export labels`` for tools in which people check labels: Label Studio and CVAT."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from urllib.parse import quote
from xml.sax.saxutils import XMLGenerator, quoteattr
from xml.sax.xmlreader import AttributesImpl

from ccd.deploy.rows import short
from ccd.errors import CcdError, listed
from ccd.export.labelled import Box, LabelledImage, LabelledSet

_NO_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")  # XML may hold \r, but gives back \n


CONTROL = "labels"
"""The control of Label Studio whose choices are our classes; others may stand beside it."""


def to_label_studio(labels: LabelledSet, url: str) -> dict[str, str]:
    """``tasks.json``: one task per image with our labels as predictions, and ``labelling_config.xml`` for the project.

    Args:
        url: what stands before an image's path, e.g. ``/data/local-files/?d=photos/`` for local storage.
    """
    _refuse_control_characters(labels)
    tasks = [_task(labels, image, url) for image in labels.images]
    content = json.dumps(tasks, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return {"tasks.json": content, "labelling_config.xml": labelling_config(labels.classes)}


def _task(labels: LabelledSet, image: LabelledImage, url: str) -> dict[str, object]:
    size = {"original_width": image.width_px, "original_height": image.height_px, "image_rotation": 0}
    common = {"to_name": "image", **size}
    result: list[dict[str, object]] = []
    if image.present:
        choices = {"choices": labels.names(image)}
        result.append({"id": CONTROL, "from_name": CONTROL, "type": "choices", "value": choices, **common})
    for number, box in enumerate(image.boxes):
        value = _percent(box, image) | {"rotation": 0, "rectanglelabels": [labels.classes[box.place]]}
        about = {"id": f"box{number}", "from_name": "boxes", "type": "rectanglelabels", "score": short(box.score)}
        result.append({**about, "value": value, **common})
    score = short(max((image.values[place] for place in image.present), default=0.0))
    data = {"image": url + quote(image.path), "image_id": image.image_id}
    return {"data": data, "predictions": [{"model_version": "ccd", "score": score, "result": result}]}


def _percent(box: Box, image: LabelledImage) -> dict[str, float]:
    """Label Studio counts in % of the image's sides."""
    x, width = (100 * value / image.width_px for value in (box.x0_px, box.x1_px - box.x0_px))
    y, height = (100 * value / image.height_px for value in (box.y0_px, box.y1_px - box.y0_px))
    return {"x": x, "y": y, "width": width, "height": height}


def labelling_config(classes: tuple[str, ...]) -> str:
    """The labelling interface: the image, a choice of several classes, and boxes."""
    values = [quoteattr(name, {'"': "&quot;"}) for name in classes]  # Label Studio searches the text for name="..."
    choices = [f"    <Choice value={value}/>" for value in values]
    boxes = [f"    <Label value={value}/>" for value in values]
    lines = [
        "<View>",
        '  <Image name="image" value="$image"/>',
        f'  <Choices name="{CONTROL}" toName="image" choice="multiple" showInLine="true">',
        *choices,
        "  </Choices>",
        '  <RectangleLabels name="boxes" toName="image">',
        *boxes,
        "  </RectangleLabels>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def to_cvat(labels: LabelledSet) -> dict[str, str]:
    """``annotations.xml``, CVAT for images 1.1: a tag for every label, a box for every view."""
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
        for place in image.present:
            xml.leaf("tag", {"label": labels.classes[place], "source": "auto"})
        for box in image.boxes:
            sides = {"xtl": box.x0_px, "ytl": box.y0_px, "xbr": box.x1_px, "ybr": box.y1_px}
            corners = {name: f"{value:.2f}" for name, value in sides.items()}
            fixed = {"label": labels.classes[box.place], "source": "auto", "occluded": "0"}
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
    """Elements on lines of their own; memory does not hold a tree."""

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
        raise CcdError(f"names with control characters cannot be written as XML; rename: {listed(bad)}")
