"""Photos and crops as inline JPEGs, within a budget of bytes, so that the report's size does not grow with the data."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

from PIL import Image

from ccd.artifacts.image_index import ImageIndex
from ccd.images import read_image

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
        """The whole image as a ``data:`` URI, longer side <= 320 px. Raises CcdError if it changed since index."""
        return self._uri(index, row, None, PHOTO_PX)

    def crop(self, index: ImageIndex, row: int, box_px: Box) -> str | None:
        """A box of the image, given in pixels of the original file, longer side <= 144 px."""
        return self._uri(index, row, box_px, CROP_PX)

    def _uri(self, index: ImageIndex, row: int, box_px: Box | None, longer_px: int) -> str | None:
        if self._left_bytes <= 0:
            return None
        image = self._image(index, row)
        height_px, width_px = (int(side) for side in index.sizes_px[row])
        x0, y0, x1, y1 = box_px or (0.0, 0.0, float(width_px), float(height_px))
        across, down = image.width / width_px, image.height / height_px
        box = (x0 * across, y0 * down, min(x1 * across, image.width), min(y1 * down, image.height))
        scale = min(1.0, longer_px / max(box[2] - box[0], box[3] - box[1]))
        size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
        buffer = BytesIO()
        image.resize(size, Image.Resampling.LANCZOS, box=box).save(buffer, "JPEG", quality=QUALITY)
        text = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        self._left_bytes -= len(text)
        return text

    def _image(self, index: ImageIndex, row: int) -> Image.Image:
        """Decoded at a reduced size where JPEG allows; the last one is kept for its crops."""
        path = self._root / index.paths[row]
        if self._last is None or self._last[0] != path:
            self._last = path, read_image(path, expected_bytes=int(index.file_bytes[row]), min_size=PHOTO_PX)
        return self._last[1]
