"""Bad, odd and hostile image files, met by stage index."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.case import ACCEPTED, Case, picture

GROUP = "images"
FETCH = "fetch it again or remove it from the data set"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return encoded(picture(), "JPEG", exif=tags)


def png_claiming(width: int, height: int) -> bytes:
    """A few hundred bytes that ask a decoder for ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    return encoded(picture(1), kind, save_all=True, append_images=[picture(2)])


BIG = picture(3, 200, 150)
BAD_BYTES: list[tuple[str, str, bytes, str]] = [
    ("zero-byte file", "bad.jpg", b"", f"bad.jpg: the file is empty; {FETCH}"),
    ("truncated JPEG", "bad.jpg", encoded(BIG, "JPEG")[:-200], "bad.jpg: damaged or truncated (image file is trunc"),
    ("truncated progressive JPEG", "bad.jpg", encoded(BIG, "JPEG", progressive=True)[:5000], "damaged or truncated"),
    ("truncated PNG", "bad.png", encoded(BIG, "PNG")[:-2000], "bad.png: damaged or truncated"),
    ("truncated WebP", "bad.webp", encoded(BIG, "WEBP")[:-900], "bad.webp: "),
    ("web page saved as .jpg", "bad.jpg", b"<!DOCTYPE html><html>404</html>", "not an image but a web page or XML"),
    ("text saved as .png", "bad.png", b"no image", "not an image of a known format (JPEG, PNG, "),
    ("decompression bomb", "bad.png", png_claiming(60000, 60000), "60000 x 60000 pixels, the limit is 256 megapixels"),
    ("header without pixels", "bad.png", png_claiming(900, 900), "bad.png: damaged or truncated"),
]
GOOD_BYTES: list[tuple[str, str, bytes]] = [
    ("PNG named .jpg", "odd.jpg", encoded(picture(), "PNG")),
    ("CMYK", "odd.jpg", encoded(picture().convert("CMYK"), "JPEG")),
    ("16 bits a channel", "odd.png", encoded(Image.fromarray(np.full((30, 40), 9999, np.uint16)), "PNG")),
    ("palette", "odd.gif", encoded(picture().convert("P"), "GIF")),
    ("alpha", "odd.webp", encoded(picture().convert("RGBA"), "WEBP")),
    ("animated GIF (first frame)", "odd.gif", animated("GIF")),
    ("animated WebP (first frame)", "odd.webp", animated("WEBP")),
    ("progressive JPEG", "odd.jpg", encoded(picture(), "JPEG", progressive=True)),
    *[(f"EXIF orientation {number}", "odd.jpg", exif(number)) for number in range(1, 9)],
    ("1 x 1", "odd.png", encoded(picture(1, 1, 1), "PNG")),
    ("1 x 20,000", "odd.png", encoded(picture(1, 1, 20_000), "PNG")),
    ("20,000 x 1", "odd.png", encoded(picture(1, 20_000, 1), "PNG")),
    ("duplicate content", "odd.png", encoded(picture(0), "PNG")),
    ("name with spaces and quotes", 'it\'s "odd" .png', encoded(picture(), "PNG")),
    ("name with a newline", "odd\nname.png", encoded(picture(), "PNG")),
    ("name with a terminal's escape", "odd\x1b[31m.png", encoded(picture(), "PNG")),
    ("name of 255 bytes", "x" * 251 + ".png", encoded(picture(), "PNG")),
    ("names that differ in case", "A.PNG", encoded(picture(), "PNG")),
]


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "pictures" / name).write_bytes(data)


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "pictures" / name).symlink_to(target)


def outside(folder: Path) -> None:
    """A link to a file, and a link to a folder, beside the root."""
    (folder / "elsewhere").mkdir()
    picture().save(folder / "elsewhere" / "private.png")
    (folder / "pictures" / "bad.png").symlink_to("../elsewhere/private.png")
    (folder / "pictures" / "linked").symlink_to("../elsewhere")


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(bytes(folder) + b"/pictures/bad\xff.png")).write_bytes(encoded(picture(), "PNG"))


def locked(folder: Path) -> None:
    put("bad.png", encoded(picture(), "PNG"))(folder)
    (folder / "pictures" / "bad.png").chmod(0)


def _files(name: str, spoil: Callable[[Path], object], *says: str, **options: Callable[[], bool]) -> Case:
    return Case(GROUP, name, "index", spoil, says, **options)


CASES = [
    *[_files(name, put(file, data), says) for name, file, data, says in BAD_BYTES],
    _files("no permission to read", locked, "bad.png: cannot be read (Permission denied)", possible=os.geteuid),
    _files("broken link", link("bad.png", "nowhere.png"), "bad.png: cannot be read (No such file or directory)"),
    _files("link in a circle", link("bad.png", "bad.png"), "bad.png: cannot be read (Too many levels of symbolic"),
    _files("links out of the root", outside, "bad.png: a link that leads out", "linked/private.png: a link that leads"),
    _files(
        "named pipe", lambda folder: os.mkfifo(folder / "pictures/bad.png"), "bad.png: a pipe or device, not a file"
    ),
    _files("name that is not UTF-8", not_utf8, "bad\\udcff.png: the file's name is not valid UTF-8; rename the file"),
    *[_files(name, put(file, data), ACCEPTED) for name, file, data in GOOD_BYTES],
    _files("link within the root", link("odd.png", "a.png"), ACCEPTED),
    _files("folder named like an image", lambda folder: (folder / "pictures/odd.jpg").mkdir(), ACCEPTED),
]
