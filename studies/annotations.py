"""Reads true boxes of the training images from the data set's annotations; only studies use them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ccd.artifacts.image_index import ImageIndex
from ccd.datasets import coco, voc
from ccd.datasets.coco import read_instances
from ccd.datasets.voc import annotated_objects
from ccd.demo.scenes import render_scene, scene_rng
from ccd.errors import CcdError
from ccd.params.sections import IndexParams

ADAPTERS = ("voc", "coco", "demo")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class TrueBox:
    """An object: its class and x0, y0, x1, y1 in pixels of the image, right and bottom exclusive."""

    name: str
    corners_px: Corners


def require_boxes(adapter: str) -> None:
    """Raise CcdError unless the adapter's data sets have boxes."""
    if adapter not in ADAPTERS:
        raise CcdError(
            f"index.adapter = {adapter}: such data sets have no boxes; a study that looks at true boxes needs one of:"
            f" {', '.join(ADAPTERS)}"
        )


def true_boxes(params: IndexParams, root: Path, index: ImageIndex) -> list[tuple[TrueBox, ...]]:
    """Return all annotated objects, also difficult ones and crowds, of each training image of ``index``.

    Raises:
        CcdError: the adapter has no boxes, or an annotation is missing or malformed.
    """
    require_boxes(params.adapter)
    if params.adapter == "voc":
        return [voc_boxes(_voc_annotation(root, path)) for path in index.paths]
    if params.adapter == "coco":
        return coco_boxes(root / "annotations" / f"instances_{params.train_split}.json", index.paths)
    return [demo_boxes(path, params.demo_seed) for path in index.paths]


def _voc_annotation(root: Path, image: str) -> Path:
    path = PurePosixPath(image)
    return root / path.parent.parent / "Annotations" / f"{path.stem}.xml"


def voc_boxes(path: Path) -> tuple[TrueBox, ...]:
    """Return the objects of a VOC annotation, whose corners count pixels from 1 and include the last."""
    try:
        return tuple(_voc_object(item) for item in annotated_objects(path))
    except ValueError as error:
        raise CcdError(f"{path}: not a VOC annotation ({error}); {voc.HINT}") from None


def _voc_object(item: ET.Element) -> TrueBox:
    x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{name}") or "nan") for name in ("xmin", "ymin", "xmax", "ymax"))
    if not (x0 <= x1 and y0 <= y1):
        raise ValueError(f"a box of x {x0:g}..{x1:g}, y {y0:g}..{y1:g}")
    return TrueBox((item.findtext("name") or "").strip(), (x0 - 1, y0 - 1, x1, y1))


def coco_boxes(path: Path, images: Sequence[str]) -> list[tuple[TrueBox, ...]]:
    """Return the objects of the ``images`` ({split}/{file name}) in a file of COCO's instances."""
    content = read_instances(path)
    try:
        names = {item["id"]: str(item["name"]) for item in content["categories"]}
        files = {item["id"]: str(item["file_name"]) for item in content["images"]}
        boxes: dict[str, list[TrueBox]] = {file: [] for file in files.values()}
        for item in content["annotations"]:
            x, y, width, height = (float(value) for value in item["bbox"])
            boxes[files[item["image_id"]]].append(TrueBox(names[item["category_id"]], (x, y, x + width, y + height)))
        return [tuple(boxes[image.partition("/")[2]]) for image in images]
    except (KeyError, TypeError, ValueError) as error:
        raise CcdError(f"{path}: not COCO's instances ({type(error).__name__}: {error}); {coco.HINT}") from None


def demo_boxes(image: str, seed: int) -> tuple[TrueBox, ...]:
    """Return the objects of a training scene, which is rendered again."""
    number = int(PurePosixPath(image).stem.removeprefix("train_"))
    scene = render_scene(scene_rng(seed, "train", number))
    return tuple(TrueBox(item.name, _corners(item.box_px)) for item in scene.objects)


def _corners(box_px: tuple[int, int, int, int]) -> Corners:
    x0, y0, x1, y1 = box_px
    return float(x0), float(y0), float(x1), float(y1)
