"""The picture that ``ccd inspect`` writes: an image with its local views, each with a label that covers no other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ccd.artifacts.files import replacing
from ccd.images.decode import read_image
from ccd.labels.thresholds import LABELLED
from ccd.report.inspect import ImageStory, View
from ccd.report.inspect_text import shortened, visible

WON = (240, 167, 47)
OTHER = (255, 255, 255)
GROUND = (16, 20, 26)
SMALLEST_PX = 320  # the longer side of what is drawn on: smaller images are enlarged, else no label could be read
PADDING_PX = 2
_NAME_LENGTHS = (1000, 24, 16, 10, 6)

Rect = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Label:
    """A label to draw: its text, and its area x0, y0, x1, y1 in pixels (x1 and y1 are outside)."""

    text: str
    area: Rect


def overlay(story: ImageStory, root: Path) -> Image.Image:
    """The image with its boxes, each with its number, the class that asked (of a tile: the class it speaks for most)
    and the local label it gives to that class; those that won a label of at least 0.5 stand out.

    The picture has the image's own size; an image whose longer side is below 320 px is enlarged by a whole number.
    Labels neither cover each other nor leave the picture: they are cut where room is short, and left out where there
    is none. Raises CcdError if the file changed since index.
    """
    image = read_image(root / story.path, expected_bytes=story.file_bytes)
    times = max(1, -(-SMALLEST_PX // max(image.size))) if max(image.size) < SMALLEST_PX else 1
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    line_px = max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 45)))
    winners = set(story.columns["box_id"][story.columns["label"] >= LABELLED].tolist()) if story.views else set()
    views = sorted(story.views, key=lambda view: view.box_id not in winners)
    boxes = [tuple(side * times for side in view.corners_px) for view in views]
    colours = [WON if view.box_id in winners else OTHER for view in views]
    for (x0, y0, x1, y1), colour in reversed(list(zip(boxes, colours, strict=True))):
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line_px)
    texts = [_texts(story, view) for view in views]
    corners = [
        (round(x0) + line_px, round(y0) + line_px, round(x1) - line_px, round(y1) - line_px) for x0, y0, x1, y1 in boxes
    ]
    for label, colour in zip(place_labels(texts, corners, image.size, font), colours, strict=True):
        if label is not None:
            _draw(draw, label, colour, font)
    return image


def write_overlay(story: ImageStory, root: Path, out: Path) -> None:
    """Write `overlay` as PNG, whatever the name's ending."""
    image = overlay(story, root)
    with replacing(out) as temporary:
        image.save(temporary, "PNG")


def place_labels(
    texts: Sequence[Sequence[str]], boxes: Sequence[Rect], size: tuple[int, int], font: Font
) -> list[Label | None]:
    """Where the label of each box stands; the first boxes choose first. None: there is no room left.

    A label stands at its own box while any of its texts fits there, and else wherever the last of them does.

    Args:
        texts: of each label, from the fullest to the shortest.
        boxes: the area in which each label would best stand.
        size: width and height of the picture in pixels.
    """
    taken: list[Rect] = []
    labels: list[Label | None] = []
    for wordings, box in zip(texts, boxes, strict=True):
        label = _placed(wordings, box, size, font, taken)
        labels.append(label)
        if label is not None:
            taken.append(label.area)
    return labels


def _placed(
    wordings: Sequence[str], box: Rect, size: tuple[int, int], font: Font, taken: Sequence[Rect]
) -> Label | None:
    for wording in wordings:
        shape = _shape(wording, font)
        area = _free(_near(box, shape), shape, size, taken)
        if area is not None:
            return Label(wording, area)
    shape = _shape(wordings[-1], font)
    area = _free(_anywhere(box, shape, size), shape, size, taken)
    return None if area is None else Label(wordings[-1], area)


def _free(
    places: Iterable[tuple[int, int]], shape: tuple[int, int], size: tuple[int, int], taken: Sequence[Rect]
) -> Rect | None:
    """The first of the places where ``shape`` lies inside the picture and on no other label."""
    for x, y in places:
        area = (x, y, x + shape[0], y + shape[1])
        inside = min(area) >= 0 and area[2] <= size[0] and area[3] <= size[1]
        if inside and not any(_meet(area, one) for one in taken):
            return area
    return None


def _near(box: Rect, shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Places at a box: down its inner left side, down its inner right side, then above and below it."""
    x0, y0, x1, y1 = box
    width, height = shape
    for x in (x0, x1 - width):
        yield from ((x, y) for y in range(y0, max(y0 + 1, y1 - height + 1), height))
        yield x, y1 - height
    for y in (y0 - height, y1):
        yield from ((x, y) for x in (x0, x1 - width))


def _anywhere(box: Rect, shape: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Places all over the picture, the nearest to the box's upper left corner first."""
    places = [(x, y) for y in range(0, size[1], shape[1]) for x in range(0, size[0], max(1, shape[0] // 2))]
    return sorted(places, key=lambda at: (at[0] - box[0]) ** 2 + (at[1] - box[1]) ** 2)


def _meet(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink(text: str, font: Font) -> tuple[float, float, float, float]:
    """What ``text`` covers when drawn at 0, 0: left, top, right, bottom; every label of Latin text is equally high."""
    left, top, right, bottom = font.getbbox(text)
    _, highest, _, lowest = font.getbbox("Ag")
    return left, min(top, highest), right, max(bottom, lowest)


def _shape(text: str, font: Font) -> tuple[int, int]:
    left, top, right, bottom = _ink(text, font)
    return math.ceil(right - left) + 2 * PADDING_PX, math.ceil(bottom - top) + 2 * PADDING_PX


def _draw(draw: ImageDraw.ImageDraw, label: Label, colour: tuple[int, int, int], font: Font) -> None:
    x0, y0, x1, y1 = label.area
    left, top, _, _ = _ink(label.text, font)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=GROUND)
    draw.text((x0 + PADDING_PX - left, y0 + PADDING_PX - top), label.text, font=font, fill=colour)


def _texts(story: ImageStory, view: View) -> list[str]:
    """The wordings of a view's label, from the fullest to its number alone."""
    place = story.classes.index(view.requested_by) if view.requested_by else view.first
    name = visible(story.classes[place])
    value = f"{view.labels[place]:.3f}"
    full = [f"{view.box_id} {shortened(name, length)} {value}" for length in _NAME_LENGTHS]
    return [*dict.fromkeys(full), f"{view.box_id} {value}", str(view.box_id)]
