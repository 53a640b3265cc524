"""Small pictures of indexed images, made once and kept in ``.ccd/thumbs``, which git and DVC ignore."""

from __future__ import annotations

import hashlib
import secrets
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError
from ccd.images.decode import read_image

FOLDER = Path(".ccd/thumbs")
THUMB_PX = 220
PHOTO_PX = 1400
QUALITY = 82


class Thumbnails:
    """JPEGs of images under ``root``, made at their first use and kept in ``folder`` by the content of the image.

    Images are decoded as everywhere, with its limits: see `ccd.images.decode`. Only paths in the index are opened.
    """

    def __init__(self, root: Path, folder: Path = FOLDER, *, follow_links: bool = False) -> None:
        """``follow_links``: ``index.follow_links``, whether links to files outside ``root`` are images too."""
        self._root = root
        self._folder = folder
        self._follow_links = follow_links

    def thumbnail(self, index: ImageIndex, row: int) -> bytes:
        """Return an image with a longer side of at most `THUMB_PX` as JPEG.

        Raises:
            CcdError: the image is missing, damaged, too large, or not the one that was indexed.
        """
        path = self._path(index, row)
        try:
            return path.read_bytes()
        except OSError:
            data = self._jpeg(index, row, THUMB_PX)
        self._keep(path, data)
        return data

    def photo(self, index: ImageIndex, row: int) -> bytes:
        """Return an image with a longer side of at most `PHOTO_PX` as JPEG; see `thumbnail` for errors."""
        return self._jpeg(index, row, PHOTO_PX)

    def _jpeg(self, index: ImageIndex, row: int, longer_px: int) -> bytes:
        path = self._image(index.paths[row])
        image = read_image(path, expected_bytes=int(index.file_bytes[row]), min_size=longer_px)
        image.thumbnail((longer_px, longer_px), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def _image(self, name: str) -> Path:
        """Return the file of an image. Raises CcdError if it is not under the root, whatever the index says."""
        path = self._root / name
        is_inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if is_inside and not self._follow_links:
            is_inside = path.resolve().is_relative_to(self._root.resolve())
        if not is_inside:
            raise CcdError(f"{name}: leads out of the folder of the images, so it is not shown")
        return path

    def _path(self, index: ImageIndex, row: int) -> Path:
        facts = f"{index.digests[row]} {index.paths[row]} {index.file_bytes[row]}"
        key = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
        return self._folder / str(THUMB_PX) / key[:2] / f"{key}.jpg"

    @staticmethod
    def _keep(path: Path, data: bytes) -> None:
        """Write a thumbnail whole or not at all; a full disk is no error: it can be made again."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
