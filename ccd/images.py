"""Image files become upright 8-bit RGB, and RGB becomes arrays of a wanted size. Pillow and NumPy only."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ccd.errors import CcdError
from ccd.machine import ran_out

MAX_PIXELS = 256 * 1024 * 1024
MAX_FILE_BYTES = 2 << 30
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")

_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW_LIMIT = threading.Lock()


def decode(data: bytes, name: str, *, min_size: int | None = None) -> Image.Image:
    """Decode one file's bytes to an upright 8-bit RGB image.

    EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled, the first frame of an
    animation is taken. Colour profiles are ignored. ``name`` appears in errors.

    Args:
        min_size: where JPEG allows it, decode at 1/2, 1/4 or 1/8 size with both sides still >= ``min_size`` pixels.

    Raises:
        CcdError: empty, not an image of `FORMATS`, damaged, truncated, or above `MAX_PIXELS`.
    """
    with _explained(name, data):
        image = _open(data, name)
        orientation = _orientation(image)
        if min_size is not None:
            image.draft(None, (min_size, min_size))
        image.load()
        rgb = _to_rgb(image)
        return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def read_image(path: Path, *, expected_bytes: int | None = None, min_size: int | None = None) -> Image.Image:
    """Read and `decode` a file, after checking that its size is still the one in the index.

    Raises:
        CcdError: unreadable, of another size than ``expected_bytes``, or not decodable.
        OSError: the machine ran out of something, see `ccd.machine`.
    """
    try:
        data = read_file(path, str(path))
    except OSError as error:
        if ran_out(error):
            raise
        raise CcdError(
            f"{path}: cannot be read ({error.strerror or error}); if the data set moved, correct dataset.root, "
            "if it changed, run `dvc repro -f -s index`"
        ) from None
    if expected_bytes is not None and len(data) != expected_bytes:
        raise CcdError(
            f"{path}: {len(data)} bytes, but {expected_bytes} when indexed: the file changed since index; "
            "run `dvc repro -f -s index` and then `dvc repro`"
        )
    return decode(data, str(path), min_size=min_size)


def read_file(path: Path, name: str) -> bytes:
    """The content of a regular file, called ``name`` in errors; a pipe or device, which may never end, is not opened.

    Raises:
        OSError: the file cannot be opened or read.
        CcdError: no regular file, or above `MAX_FILE_BYTES`.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise CcdError(f"{name}: {kind}, not a file; remove it from the data set")
    if found.st_size > MAX_FILE_BYTES:
        raise CcdError(f"{name}: {found.st_size} bytes, the limit is {MAX_FILE_BYTES}; make it smaller or remove it")
    return path.read_bytes()


def header(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) in pixels after EXIF orientation, from the header of one file's bytes; no pixel is decoded.

    Raises:
        CcdError: empty, not an image of `FORMATS`, or above `MAX_PIXELS`.
    """
    with _explained(name, data):
        image = _open(data, name)
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def squash(image: Image.Image, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Antialiased bicubic resize of an RGB image, aspect ignored. Returns (3, ``height_px``, ``width_px``) uint8."""
    return _channels_first(image.resize((width_px, height_px), Image.Resampling.BICUBIC))


def crop_resized(
    image: Image.Image, box_px: tuple[float, float, float, float], height_px: int, width_px: int
) -> NDArray[np.uint8]:
    """Cut a box out of an RGB image and resize it in one step, with sub-pixel accuracy.

    Near the box's edge the filter also reads pixels just outside it.

    Args:
        box_px: (x0, y0, x1, y1) in pixels of ``image``; what lies outside is clipped.

    Returns:
        (3, ``height_px``, ``width_px``) uint8, antialiased bicubic.

    Raises:
        CcdError: nothing of the box lies inside the image, or a coordinate is not finite.
    """
    x0_px, y0_px, x1_px, y1_px = box_px
    box = (max(0.0, x0_px), max(0.0, y0_px), min(float(image.width), x1_px), min(float(image.height), y1_px))
    if not np.isfinite(box_px).all() or box[0] >= box[2] or box[1] >= box[3]:
        raise CcdError(f"box {box_px} has no area inside the image of {image.width} x {image.height} pixels")
    return _channels_first(image.resize((width_px, height_px), Image.Resampling.BICUBIC, box=box))


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _open(data: bytes, name: str) -> Image.Image:
    """Parse the header under this module's own pixel limit; Pillow's is a global that others may rely on."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > MAX_PIXELS:
        raise CcdError(
            f"{name}: {image.width} x {image.height} pixels, the limit is {MAX_PIXELS >> 20} megapixels; "
            "make it smaller or remove it from the data set"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation still to be applied, 1 where there is none. Pillow turns TIFF by itself."""
    if image.format == "TIFF":
        return 1
    try:
        # PNG's own getexif() decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF around good pixels: Pillow raises nearly anything, and upright is the best guess
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit values by their full range; wider ones, which have no natural range, by the image's own."""
    wide = values.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite")
    return np.rint((wide - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


@contextmanager
def _explained(name: str, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on damaged bytes (nearly anything) becomes an error that names the file."""
    if not data:
        raise CcdError(f"{name}: the file is empty; fetch it again or remove it from the data set")
    try:
        yield
    except (CcdError, MemoryError):  # memory that ran out says nothing about the file
        raise
    except Exception as error:
        text = data[:512].lstrip().lower()
        if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
            reason = "not an image but a web page or XML, probably a failed download"
        elif isinstance(error, UnidentifiedImageError):
            reason = f"not an image of a known format ({', '.join(FORMATS)})"
        else:
            said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))  # an address is another each time
            reason = f"damaged or truncated ({said or type(error).__name__})"
        raise CcdError(f"{name}: {reason}; fetch it again or remove it from the data set") from None
