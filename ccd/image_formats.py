"""Which formats are decoded: those of every Pillow, and two whose decoders may be missing."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from PIL import features

# Decoders are attack surface: camera raw, Photoshop, JPEG 2000, EPS and the rest stay closed.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM")
HEAD_BYTES = 256

_BRANDS = {
    "AVIF": {b"avif", b"avis"},  # first: these files name the brands of HEIF's container as well
    "HEIF": {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"},
}
_COMMANDS = {"AVIF": "pip install --upgrade Pillow", "HEIF": "pip install pillow-heif"}


def optional_format(head: bytes) -> str:
    """AVIF or HEIF, whose decoders are optional, by the first `HEAD_BYTES` of a file; "" for any other content."""
    if head[4:8] != b"ftyp":
        return ""
    size = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, size, 4))}
    return next((kind for kind, own in _BRANDS.items() if brands & own), "")


@cache
def is_available(kind: str) -> bool:
    """Whether the decoder of AVIF or HEIF is installed."""
    if kind == "AVIF":
        return "avif" in features.modules and features.check_module("avif") is True
    return find_spec("pillow_heif") is not None


def how_to_install(kind: str) -> str:
    """The command that installs the decoder of AVIF or HEIF."""
    return _COMMANDS[kind]
