"""Draws boxes on photos, with labels that neither cover each other nor leave the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WHITE = (255, 255, 255)
GROUND = (16, 20, 26)
PADDING_PX = 2

Rgb = tuple[int, int, int]
Rect = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw: ``corners_px`` x0, y0, x1, y1 and the wordings of its label, from the fullest to the shortest."""

    corners_px: tuple[float, float, float, float]
    texts: Sequence[str]
    colour: Rgb = WHITE


@dataclass(frozen=True)
class Label:
    """A label to draw: its text, and its area x0, y0, x1, y1 in pixels (x1 and y1 are outside)."""

    text: str
    area: Rect


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox]) -> None:
    """Draw frames and labels onto an RGB image; line and font grow with it.

    The first box lies on top, and its label has the first choice of a position. Labels are shortened where room is
    short, and left out where there is none.
    """
    draw = ImageDraw.Draw(image)
    line_px = max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 45)))
    for box in reversed(boxes):
        x0, y0, x1, y1 = box.corners_px
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=box.colour, width=line_px)
    insides = [_inside(box, line_px) for box in boxes]
    labels = place_labels([box.texts for box in boxes], insides, image.size, font)
    for label, box in zip(labels, boxes, strict=True):
        if label is not None:
            draw_label(draw, label, box.colour, font)


def _inside(box: LabelledBox, line_px: int) -> Rect:
    x0, y0, x1, y1 = box.corners_px
    return round(x0) + line_px, round(y0) + line_px, round(x1) - line_px, round(y1) - line_px


def place_labels(
    texts: Sequence[Sequence[str]], boxes: Sequence[Rect], size: tuple[int, int], font: Font
) -> list[Label | None]:
    """Choose a position for the label of each box, the first boxes first. None: there is no room left.

    A label stands at its own box while any of its texts fits there, and otherwise wherever its last text fits.

    Args:
        texts: of each label, from the fullest to the shortest.
        boxes: the preferred area of each label.
        size: width and height of the picture in pixels.
    """
    taken: list[Rect] = []
    labels: list[Label | None] = []
    for wordings, box in zip(texts, boxes, strict=True):
        label = _place_label(wordings, box, size, font, taken)
        labels.append(label)
        if label is not None:
            taken.append(label.area)
    return labels


def _place_label(
    wordings: Sequence[str], box: Rect, size: tuple[int, int], font: Font, taken: Sequence[Rect]
) -> Label | None:
    for wording in wordings:
        shape = _label_size(wording, font)
        area = _free_area(_corners_near(box, shape), shape, size, taken)
        if area is not None:
            return Label(wording, area)
    shape = _label_size(wordings[-1], font)
    area = _free_area(_corners_anywhere(box, shape, size), shape, size, taken)
    return None if area is None else Label(wordings[-1], area)


def _free_area(
    corners: Iterable[tuple[int, int]], shape: tuple[int, int], size: tuple[int, int], taken: Sequence[Rect]
) -> Rect | None:
    """Return the first area of ``shape`` at one of the upper left ``corners`` that is inside and overlaps no label."""
    for x, y in corners:
        area = (x, y, x + shape[0], y + shape[1])
        inside = min(area) >= 0 and area[2] <= size[0] and area[3] <= size[1]
        if inside and not any(_overlap(area, other) for other in taken):
            return area
    return None


def _corners_near(box: Rect, shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield positions at a box: down its inner left side, down its inner right side, then above and below it."""
    x0, y0, x1, y1 = box
    width, height = shape
    for x in (x0, x1 - width):
        yield from ((x, y) for y in range(y0, max(y0 + 1, y1 - height + 1), height))
        yield x, y1 - height
    for y in (y0 - height, y1):
        yield from ((x, y) for x in (x0, x1 - width))


def _corners_anywhere(box: Rect, shape: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return positions all over the picture, the nearest to the box's upper left corner first."""
    corners = [(x, y) for y in range(0, size[1], shape[1]) for x in range(0, size[0], max(1, shape[0] // 2))]
    return sorted(corners, key=lambda corner: (corner[0] - box[0]) ** 2 + (corner[1] - box[1]) ** 2)


def _overlap(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink(text: str, font: Font) -> tuple[float, float, float, float]:
    """Return the area that ``text`` covers when drawn at 0, 0: left, top, right, bottom.

    It is as high as "Ag" at least, so that labels of Latin text have equal heights.
    """
    left, top, right, bottom = font.getbbox(text)
    _, highest, _, lowest = font.getbbox("Ag")
    return left, min(top, highest), right, max(bottom, lowest)


def _label_size(text: str, font: Font) -> tuple[int, int]:
    left, top, right, bottom = _ink(text, font)
    return math.ceil(right - left) + 2 * PADDING_PX, math.ceil(bottom - top) + 2 * PADDING_PX


def draw_label(draw: ImageDraw.ImageDraw, label: Label, colour: Rgb, font: Font) -> None:
    """Draw a label on its own dark ground."""
    x0, y0, x1, y1 = label.area
    left, top, _, _ = _ink(label.text, font)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=GROUND)
    draw.text((x0 + PADDING_PX - left, y0 + PADDING_PX - top), label.text, font=font, fill=colour)
