"""Image files become upright 8-bit RGB, and RGB becomes arrays of a wanted size. Pillow and NumPy only."""

from __future__ import annotations

import os
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
from ccd.image_formats import FORMATS, how_to_install, is_available, optional_format
from ccd.machine import ran_out
from ccd.pixel_range import FULL_16_BIT, DarkRange, dark_range, has_16_bit_colour

MAX_PIXELS = 256 * 1024 * 1024
MAX_FILE_BYTES = 2 << 30

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
_PILLOW_GLOBALS = threading.Lock()


def decode(data: bytes, name: str, *, min_size: int | None = None) -> Image.Image:
    """Decode one file's bytes to an upright 8-bit RGB image.

    EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled, the first frame of an
    animation is taken. Colour profiles are ignored. The content decides the format, whatever the file is called.
    ``name`` appears in errors.

    Args:
        min_size: where JPEG allows it, decode at 1/2, 1/4 or 1/8 size with both sides still >= ``min_size`` pixels.

    Raises:
        CcdError: empty, not an image of `FORMATS`, AVIF or HEIF, damaged, truncated, or above `MAX_PIXELS`.
    """
    with _explained(name, data):
        return _upright_rgb(_drafted(_open(data, name), min_size))


def find_dark_range(data: bytes, name: str) -> DarkRange | None:
    """Decode one file's bytes to see whether they can be, and whether they will look nearly black.

    JPEGs are decoded at 1/8 size, which reads every byte for a fraction of the cost. Eight-bit images cost no more than
    `decode`.

    Raises:
        CcdError: see `decode`.
    """
    with _explained(name, data):
        image = _drafted(_open(data, name), 1)
        is_16_bit_colour = has_16_bit_colour(image)
        image.load()
        _to_rgb(image)
        return dark_range(image, is_16_bit_colour)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """An opened Pillow image as `decode` would give it: upright, transparency over white, 16-bit values scaled.

    Raises:
        CcdError: its pixels cannot be read or converted; ``name`` says which image.
    """
    with _explained(name, b""):
        return _upright_rgb(image)


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
        if stat.S_ISDIR(found.st_mode):
            os.scandir(path).close()  # the error of a folder that may not be opened says more
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise CcdError(f"{name}: {kind}, not a file; remove it from the data set")
    if found.st_size > MAX_FILE_BYTES:
        raise CcdError(f"{name}: {found.st_size} bytes, the limit is {MAX_FILE_BYTES}; make it smaller or remove it")
    return path.read_bytes()


def header(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) in pixels after EXIF orientation, from the header of one file's bytes; no pixel is decoded.

    Raises:
        CcdError: empty, not an image of `FORMATS`, AVIF or HEIF, or above `MAX_PIXELS`.
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
    """Parse the header under this module's own limit of pixels; one thread an image, as many are read in parallel."""
    if not data:
        raise CcdError(f"{name}: the file is empty; fetch it again or remove it from the data set")
    kind = optional_format(data)
    if kind and not is_available(kind):
        raise CcdError(f"{name}: an image in {kind} format; to read it: {how_to_install(kind)}")
    with _PILLOW_GLOBALS:
        image = _OPENERS[kind](data)
    if image.width * image.height > MAX_PIXELS:
        raise CcdError(
            f"{name}: {image.width} x {image.height} pixels, the limit is {MAX_PIXELS >> 20} megapixels; "
            "make it smaller or remove it from the data set"
        )
    return image


def _open_common(data: bytes) -> Image.Image:
    with _changed(Image, "MAX_IMAGE_PIXELS", None):
        return Image.open(BytesIO(data), formats=FORMATS)


def _open_avif(data: bytes) -> Image.Image:
    from PIL import AvifImagePlugin  # not in every Pillow

    with _changed(Image, "MAX_IMAGE_PIXELS", None), _changed(AvifImagePlugin, "DEFAULT_MAX_THREADS", 1):
        return Image.open(BytesIO(data), formats=("AVIF",))


def _open_heif(data: bytes) -> Image.Image:
    """The decoder itself turns the image upright."""
    import pillow_heif

    with _changed(pillow_heif.options, "DECODE_THREADS", 1):
        image: Image.Image = pillow_heif.HeifImageFile(BytesIO(data))
    return image


_OPENERS = {"": _open_common, "AVIF": _open_avif, "HEIF": _open_heif}


@contextmanager
def _changed(owner: object, name: str, value: object) -> Iterator[None]:
    """A global of a library, which others may rely on, changed for a moment."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _drafted(image: Image.Image, min_size: int | None) -> Image.Image:
    """Only JPEG has drafts of the same image; in HEIF it would be an embedded preview."""
    if min_size is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (min_size, min_size))
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)  # before the pixels are there: Pillow looks for more of it behind them
    image.load()
    rgb = _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


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
    if not np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= FULL_16_BIT:
        low, high = 0.0, float(FULL_16_BIT)
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite")
    return np.rint((wide - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


@contextmanager
def _explained(name: str, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on damaged bytes (nearly anything) becomes an error that names the file."""
    try:
        yield
    except (CcdError, MemoryError):  # memory that ran out says nothing about the file
        raise
    except Exception as error:
        text = data[:512].lstrip().lower()
        if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
            reason = "not an image but a web page or XML, probably a failed download"
        elif isinstance(error, UnidentifiedImageError) and (kind := optional_format(data)):
            reason = f"damaged or truncated (it begins like {kind})"
        elif isinstance(error, UnidentifiedImageError):
            reason = f"not an image of a known format ({', '.join(FORMATS)}, AVIF, HEIF)"
        else:
            said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))  # an address is another each time
            reason = f"damaged or truncated ({said or type(error).__name__})"
        raise CcdError(f"{name}: {reason}; fetch it again or remove it from the data set") from None
