"""Decodes image files to upright 8-bit RGB, and resizes RGB to arrays. Pillow and NumPy only."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from ccd.errors import CcdError, ran_out
from ccd.images import remote
from ccd.images.file_cache import FileCache

FULL_16_BIT = 65535
# Decoders are attack surface: those of camera raw, Photoshop, JPEG 2000, EPS and others stay disabled.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM")
HEAD_BYTES = 256

_BRANDS = {
    "AVIF": {b"avif", b"avis"},  # first: AVIF files name HEIF's brands too
    "HEIF": {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"},
}
INSTALL = {"AVIF": "pip install --upgrade Pillow", "HEIF": "pip install pillow-heif"}
MAX_PIXELS = 256 * 1024 * 1024
MAX_FILE_BYTES = 2 << 30
NO_CACHE = FileCache()

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
    animation is taken. Colour profiles are ignored. The content decides the format, not the file's name.

    Args:
        name: names the image in errors.
        min_size: where JPEG allows it, decode at 1/2, 1/4 or 1/8 size with both sides still >= ``min_size`` pixels.

    Raises:
        CcdError: the data is empty, not an image of `FORMATS`, AVIF or HEIF, damaged, truncated, or above
            `MAX_PIXELS`.
    """
    with opening(data, name, min_size=min_size) as image:
        return _upright_rgb(image)


@contextmanager
def opening(data: bytes, name: str, *, min_size: int | None) -> Iterator[Image.Image]:
    """Yield the image in one file's bytes, its pixels not yet loaded; arguments and errors as in `decode`."""
    with _explained(name, data):
        yield _drafted(_open(data, name), min_size)


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert an opened Pillow image as `decode` does: upright, transparency over white, 16-bit values scaled.

    Raises:
        CcdError: its pixels cannot be read or converted; the message has ``name``.
    """
    with _explained(name, b""):
        return _upright_rgb(image)


def read_image(path: Path, *, expected_bytes: int | None = None, min_size: int | None = None) -> Image.Image:
    """Read and `decode` a file; see `read_checked`, whose errors it raises too."""
    return decode(read_checked(path, expected_bytes), remote.name_of(path), min_size=min_size)


def read_checked(path: Path, expected_bytes: int | None, digest: str = "", cache: FileCache = NO_CACHE) -> bytes:
    """Read a file, after checking that its size is still the one in the index.

    Args:
        digest: of a remote file's content or version, checked too; ""; not checked.
        cache: of remote files.

    Raises:
        CcdError: the file is unreadable, or not the one in the index.
        OSError: the machine ran out of a resource, see `ccd.errors`.
    """
    if remote.is_remote(path):
        return remote.read(path, cache, expected_bytes, digest)
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
    return data


def read_file(path: Path, name: str) -> bytes:
    """Read a regular file, called ``name`` in errors; a pipe or device, which may never end, is not opened.

    Raises:
        OSError: the file cannot be opened or read.
        CcdError: it is no regular file, or above `MAX_FILE_BYTES`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # for a folder without permission, its error is clearer
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise CcdError(f"{name}: {kind}, not a file; remove it from the data set")
    if status.st_size > MAX_FILE_BYTES:
        raise CcdError(f"{name}: {status.st_size} bytes, the limit is {MAX_FILE_BYTES}; make it smaller or remove it")
    return path.read_bytes()


def header(data: bytes, name: str) -> tuple[int, int]:
    """Read (width, height) in pixels after EXIF orientation from a file's header; no pixel is decoded.

    Raises:
        CcdError: the data is empty, not an image of `FORMATS`, AVIF or HEIF, or above `MAX_PIXELS`.
    """
    with _explained(name, data):
        image = _open(data, name)
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def squash(image: Image.Image, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Resize an RGB image (antialiased bicubic, aspect ignored). Returns (3, ``height_px``, ``width_px``) uint8."""
    return channels_first(image.resize((width_px, height_px), Image.Resampling.BICUBIC))


def channels_first(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image as (3, height, width) uint8."""
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def _open(data: bytes, name: str) -> Image.Image:
    """Parse the header under this module's own limit of pixels, with one decoder thread, as images run in parallel."""
    if not data:
        raise CcdError(f"{name}: the file is empty; fetch it again or remove it from the data set")
    kind = optional_format(data)
    if kind and not is_available(kind):
        raise CcdError(f"{name}: an image in {kind} format; to read it: {INSTALL[kind]}")
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
    """Open a HEIF image, which the decoder itself turns upright."""
    import pillow_heif

    with _changed(pillow_heif.options, "DECODE_THREADS", 1):
        image: Image.Image = pillow_heif.HeifImageFile(BytesIO(data))
    return image


_OPENERS = {"": _open_common, "AVIF": _open_avif, "HEIF": _open_heif}


@contextmanager
def _changed(owner: object, name: str, value: object) -> Iterator[None]:
    """Change a library's global for the block; others may rely on its value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _drafted(image: Image.Image, min_size: int | None) -> Image.Image:
    """Let a JPEG decode at reduced size; other formats are left, as a draft in HEIF is an embedded preview."""
    if min_size is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (min_size, min_size))
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)  # before loading: afterwards Pillow searches for EXIF behind the pixels
    image.load()
    rgb = to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation to apply, 1 for none. Pillow turns TIFF by itself."""
    if image.format == "TIFF":
        return 1
    try:
        # PNG's own getexif() decodes all pixels to find EXIF behind them.
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF with good pixels: Pillow raises nearly any error; upright is the best guess
        return 1
    return value if value in _UPRIGHT else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to 8-bit RGB: transparency over white, 16-bit values scaled."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale 16-bit values by their full range, and wider ones, which have no natural range, by the image's range."""
    wide = values.astype(np.float64)
    low = float(wide.min())
    high = float(wide.max())
    if not np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= FULL_16_BIT:
        low = 0.0
        high = float(FULL_16_BIT)
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite")
    return np.rint((wide - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


@contextmanager
def _explained(name: str, data: bytes) -> Iterator[None]:
    """Turn any exception of a decoder on damaged bytes into an error that names the file."""
    try:
        yield
    except (CcdError, MemoryError):  # out of memory: no fault of the file
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
            message = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))  # addresses vary
            reason = f"damaged or truncated ({message or type(error).__name__})"
        raise CcdError(f"{name}: {reason}; fetch it again or remove it from the data set") from None


def optional_format(head: bytes) -> str:
    """Tell AVIF or HEIF, whose decoders are optional, by the first `HEAD_BYTES` of a file; "" for other content."""
    if head[4:8] != b"ftyp":
        return ""
    size = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, size, 4))}
    return next((kind for kind, known in _BRANDS.items() if brands & known), "")


@cache
def is_available(kind: str) -> bool:
    """Tell whether the decoder of AVIF or HEIF is installed."""
    if kind == "AVIF":
        return "avif" in features.modules and features.check_module("avif") is True
    return find_spec("pillow_heif") is not None
