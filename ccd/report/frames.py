"""Boxes over a photo as the template draws them, with their names where they cover each other least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccd.report.run import Run

# A photo is drawn at most this large (style.css); a name takes about this much of it.
PHOTO_WIDTH_PX, PHOTO_HEIGHT_PX = 300, 240
LETTER_PX, NAME_PADDING_PX, NAME_HEIGHT_PX = 8.2, 10, 17
CORNERS = ("top left", "bottom left", "top right", "bottom right")

Area = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A box over a photo, in % of its width and height. ``tone`` picks a colour; ``corner`` is where its name stands,
    CSS classes out of top, bottom, left and right."""

    name: str
    left: float
    top: float
    width: float
    height: float
    tone: int
    corner: str


def frames(run: Run, row: int, boxes: Sequence[tuple[int, str]]) -> tuple[Frame, ...]:
    """The (box, name) pairs of training image ``row``, the first in tone 0, in the order to draw them: it comes last,
    so that it lies on top."""
    height_px, width_px = (int(side) for side in run.train.sizes_px[row])
    shown_px = min(PHOTO_WIDTH_PX, PHOTO_HEIGHT_PX * width_px / height_px)
    unit = (100 / shown_px, 100 / min(PHOTO_HEIGHT_PX, shown_px * height_px / width_px))
    taken: list[Area] = []
    found = []
    for tone, (box, name) in enumerate(boxes):
        x0, y0, x1, y1 = run.boxes.boxes_px[box] * np.tile([100 / width_px, 100 / height_px], 2)
        size = ((LETTER_PX * len(name) + NAME_PADDING_PX) * unit[0], NAME_HEIGHT_PX * unit[1])
        corner, area = _free_corner((float(x0), float(y0), float(x1), float(y1)), size, taken)
        taken.append(area)
        found.append(Frame(name, float(x0), float(y0), float(x1 - x0), float(y1 - y0), tone, corner))
    return tuple(found[::-1])


def _free_corner(box: Area, size: tuple[float, float], taken: Sequence[Area]) -> tuple[str, Area]:
    """The corner of ``box`` where a name of ``size`` (width, height) covers least: other names, what lies outside."""
    costs = []
    for corner in CORNERS:
        x = box[0] if "left" in corner else box[2] - size[0]
        y = box[1] if "top" in corner else box[3] - size[1]
        area = (x, y, x + size[0], y + size[1])
        outside = max(0.0, -x) + max(0.0, area[2] - 100) + max(0.0, -y) + max(0.0, area[3] - 100)
        costs.append((sum(_shared(area, other) for other in taken) + 10 * outside, corner, area))
    _, corner, area = min(costs, key=lambda cost: cost[0])
    return corner, area


def _shared(one: Area, other: Area) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)
