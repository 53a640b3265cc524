"""Images of more than 8 bits whose values use only the lowest part of their range: they look nearly black."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

FULL_16_BIT = 65535
DARK_16_BIT = FULL_16_BIT // 4  # 14 bits of data and less


@dataclass(frozen=True)
class DarkRange:
    """An image whose 16-bit values use only the lowest quarter of their range: ``highest`` is the largest of them."""

    highest: int
    is_colour: bool


def has_16_bit_colour(image: Image.Image) -> bool:
    """Whether Pillow will keep only the upper byte of each value; to be asked before the pixels are loaded."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    return any(";16" in str(tile[3]) or _is_deep_ppm(tile) for tile in getattr(image, "tile", ()))


def _is_deep_ppm(tile: Sequence[object]) -> bool:
    return tile[0] == "ppm" and isinstance(tile[3], tuple) and FULL_16_BIT in tile[3]


def dark_range(image: Image.Image, is_16_bit_colour: bool) -> DarkRange | None:
    """The range of a loaded image if it is dark; None for any other, and for one of 8 bits, at no cost."""
    if is_16_bit_colour:
        bands = [image.getchannel(band).getextrema() for band in image.getbands() if band != "A"]
        highest = max(int(str(high)) for _, high in bands) * 256 + 255
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        highest = int(values.max()) if values.min() >= 0 else FULL_16_BIT
    else:
        return None
    return DarkRange(highest, is_16_bit_colour) if 0 < highest <= DARK_16_BIT else None
