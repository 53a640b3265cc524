"""Image files of every mode and format that people have, for tests that compare two ways to read them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, features

MODES = (
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B", "F",
)  # fmt: skip
FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "GIF", "BMP", "DIB", "PPM", *(["AVIF"] if features.check("avif") else []))


def colour_png(top: int, side_px: int = 4) -> bytes:
    """RGB of 16 bits from 0 to ``top``, which Pillow cannot write."""
    rows = np.linspace(0, top, side_px * side_px * 3).reshape(side_px, side_px * 3).astype(">u2")
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", side_px, side_px, 16, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + _chunk(b"IEND", b"")


def exif_behind_the_pixels() -> bytes:
    """A PNG whose orientation stands behind its pixels, where a reader that looks at the header does not see it."""
    exif = _exif(6).tobytes().removeprefix(b"Exif\0\0")
    whole = colour_png(65535)
    return whole[:-12] + _chunk(b"eXIf", exif) + whole[-12:]


def write_all(folder: Path) -> list[Path]:
    """One file for every pair of mode and format that Pillow can write, and the kinds that no mode describes."""
    files = {f"{mode.replace(';', '_')}.{kind.lower()}": _of_mode(mode, kind) for mode in MODES for kind in FORMATS}
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])):
        for orientation in range(1, 10):
            files[f"turned{orientation}.{kind.lower()}"] = _encoded(noise(), kind, exif=_exif(orientation))
    frames = [noise(seed) for seed in (1, 2)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO", *(["AVIF"] if features.check("avif") else [])):
        files[f"frames.{kind.lower()}"] = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    palette = noise().quantize(8)
    files["clear_entry.png"] = _encoded(palette, "PNG", transparency=3)
    files["clear_entries.png"] = _encoded(palette, "PNG", transparency=bytes(range(0, 256, 32)))
    files["clear_colour.png"] = _encoded(noise(), "PNG", transparency=noise().getpixel((0, 0)))
    files["clear_grey.png"] = _encoded(noise().convert("L"), "PNG", transparency=noise().convert("L").getpixel((0, 0)))
    files["colour_16.png"] = colour_png(65535)
    files["behind.png"] = exif_behind_the_pixels()
    files["negative.tif"] = _encoded(Image.fromarray(np.arange(-600, 600, dtype=np.int32).reshape(30, 40)), "TIFF")
    files["not_finite.tif"] = _encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF")
    files["12_bit.pgm"] = b"P5 2 2 4095\n" + np.array([0, 1, 100, 4095], ">u2").tobytes()
    files["large.jpg"] = _encoded(noise(3, 400, 300).resize((1600, 1200)), "JPEG", exif=_exif(6))
    files["broken_exif.jpg"] = _encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    files["no_image.png"] = b"no image"
    for name, data in files.items():
        if data:
            (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def noise(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Coloured noise, RGB."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def _of_mode(mode: str, kind: str) -> bytes:
    """b"" where the format cannot hold the mode, or Pillow cannot write it."""
    try:
        return _encoded(_in_mode(mode), kind)
    except (OSError, ValueError, KeyError, SystemError):
        return b""


def _in_mode(mode: str) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 65536, (30, 40))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (40, 30), values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(values.astype(np.int32) if mode == "I" else values.astype(np.float32) / 999)
    if mode == "LAB":
        return Image.frombytes("LAB", (40, 30), noise().tobytes())
    if mode in ("LA", "PA", "RGBA"):
        image = noise().convert(mode)
        image.putalpha(Image.fromarray((values >> 8).astype(np.uint8)))
        return image
    return noise().convert(mode)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
