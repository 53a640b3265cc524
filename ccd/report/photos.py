"""Photos and crops as inline JPEGs, within a budget of bytes that bounds the size of the report."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ccd.artifacts.image_index import ImageIndex
from ccd.images.decode import read_image
from ccd.images.remote import located
from ccd.report.run_data import Run

PHOTO_PX = 320
CROP_PX = 144
QUALITY = 76

Box = tuple[float, float, float, float]


class Photos:
    """Thumbnails of indexed images under ``root``; None once ``budget_bytes`` of text are spent."""

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self._root = root
        self._left_bytes = budget_bytes
        self._last: tuple[Path, Image.Image] | None = None

    def photo(self, index: ImageIndex, row: int) -> str | None:
        """Return the whole image as a ``data:`` URI, longer side <= 320 px.

        Raises CcdError if the file changed since index.
        """
        return self._uri(index, row, None, PHOTO_PX)

    def crop(self, index: ImageIndex, row: int, box_px: Box) -> str | None:
        """Return a box of the image, in pixels of the original file, as a ``data:`` URI, longer side <= 144 px."""
        return self._uri(index, row, box_px, CROP_PX)

    def _uri(self, index: ImageIndex, row: int, box_px: Box | None, longer_px: int) -> str | None:
        if self._left_bytes <= 0:
            return None
        image = self._image(index, row)
        height_px, width_px = (int(side) for side in index.sizes_px[row])
        x0, y0, x1, y1 = box_px or (0.0, 0.0, float(width_px), float(height_px))
        across = image.width / width_px
        down = image.height / height_px
        box = (x0 * across, y0 * down, min(x1 * across, image.width), min(y1 * down, image.height))
        scale = min(1.0, longer_px / max(box[2] - box[0], box[3] - box[1]))
        size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
        buffer = BytesIO()
        image.resize(size, Image.Resampling.LANCZOS, box=box).save(buffer, "JPEG", quality=QUALITY)
        text = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        self._left_bytes -= len(text)
        return text

    def _image(self, index: ImageIndex, row: int) -> Image.Image:
        """Decode an image, at a reduced size where JPEG allows; the last one is kept for its crops."""
        path = located(self._root, index.paths[row])
        if self._last is None or self._last[0] != path:
            self._last = path, read_image(path, expected_bytes=int(index.file_bytes[row]), min_size=PHOTO_PX)
        return self._last[1]


# A photo is drawn at most this large (style.css); a name takes about this much of it.
PHOTO_WIDTH_PX = 300
PHOTO_HEIGHT_PX = 240
LETTER_PX = 8.2
NAME_PADDING_PX = 10
NAME_HEIGHT_PX = 17
CORNERS = ("top left", "bottom left", "top right", "bottom right")

Area = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A box over a photo, in % of its width and height.

    ``tone``: number of its colour; ``corner``: the corner of its name, as two CSS classes (``top left``).
    """

    name: str
    left: float
    top: float
    width: float
    height: float
    tone: int
    corner: str


def frames(run: Run, row: int, boxes: Sequence[tuple[int, str]]) -> tuple[Frame, ...]:
    """Return the frames of the (box, name) pairs of training image ``row``, in the order to draw them.

    The first pair has tone 0 and is drawn last, on top of the others.
    """
    height_px, width_px = (int(side) for side in run.train.sizes_px[row])
    width_shown_px = min(PHOTO_WIDTH_PX, PHOTO_HEIGHT_PX * width_px / height_px)
    unit = (100 / width_shown_px, 100 / min(PHOTO_HEIGHT_PX, width_shown_px * height_px / width_px))
    taken: list[Area] = []
    drawn = []
    for tone, (box, name) in enumerate(boxes):
        x0, y0, x1, y1 = run.boxes.boxes_px[box] * np.tile([100 / width_px, 100 / height_px], 2)
        size = ((LETTER_PX * len(name) + NAME_PADDING_PX) * unit[0], NAME_HEIGHT_PX * unit[1])
        corner, area = _free_corner((float(x0), float(y0), float(x1), float(y1)), size, taken)
        taken.append(area)
        drawn.append(Frame(name, float(x0), float(y0), float(x1 - x0), float(y1 - y0), tone, corner))
    return tuple(drawn[::-1])


def _free_corner(box: Area, size: tuple[float, float], taken: Sequence[Area]) -> tuple[str, Area]:
    """Return the corner of ``box`` where a name of ``size`` covers other names least and stays inside the photo."""
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
