"""Small pictures of indexed images, made once and kept in ``.ccd/thumbs``, which git and DVC ignore."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from ccd.artifacts.files import write_cached
from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError, url_of
from ccd.images.decode import NO_CACHE, decode, read_checked
from ccd.images.file_cache import FileCache
from ccd.images.remote import is_remote, is_table, located, name_of

FOLDER = Path(".ccd/thumbs")
THUMB_PX = 220
PHOTO_PX = 1400
QUALITY = 82


class Thumbnails:
    """JPEGs of images under ``root``, made at their first use and kept in ``folder`` by the content of the image.

    Images are read and decoded as everywhere, with the same limits, checked against the index: see `ccd.images.decode`
    and `ccd.images.remote`. Only what the index names is opened.
    """

    def __init__(
        self, root: Path, folder: Path = FOLDER, *, follow_links: bool = False, cache: FileCache = NO_CACHE
    ) -> None:
        """Serve images under ``root``, a folder, a URL or a manifest.

        Args:
            follow_links: ``index.follow_links``, whether links to files outside a local ``root`` are images too.
            cache: of images behind URLs or inside Parquet.
        """
        self._root = root
        self._folder = folder
        self._follow_links = follow_links
        self._cache = cache

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
        write_cached(path, data)
        return data

    def photo(self, index: ImageIndex, row: int) -> bytes:
        """Return an image with a longer side of at most `PHOTO_PX` as JPEG; see `thumbnail` for errors."""
        return self._jpeg(index, row, PHOTO_PX)

    def _jpeg(self, index: ImageIndex, row: int, longer_px: int) -> bytes:
        path = self._image(index.paths[row])
        data = read_checked(path, int(index.file_bytes[row]), index.digests[row], self._cache)
        image = decode(data, name_of(path), min_size=longer_px)
        image.thumbnail((longer_px, longer_px), Image.Resampling.LANCZOS)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def _image(self, name: str) -> Path:
        """Return where an image lies. Raises CcdError if it is not under the root, whatever the index says."""
        if url_of(name) is not None:
            is_inside = is_table(self._root)  # only manifests name images by URLs
        else:
            parts = PurePosixPath(name)
            is_inside = not parts.is_absolute() and ".." not in parts.parts
            if is_inside and url_of(self._root) is None and not self._follow_links:
                is_inside = self._is_inside(located(self._root, name))
        if not is_inside:
            raise CcdError(f"{name}: leads out of the folder of the images, so it is not shown")
        return located(self._root, name)

    def _is_inside(self, path: Path) -> bool:
        file = path.with_name(path.name.rpartition("#")[0]) if is_remote(path) else path  # a row of Parquet
        return file.resolve().is_relative_to(located(self._root, "").resolve())

    def _path(self, index: ImageIndex, row: int) -> Path:
        facts = f"{index.digests[row]} {index.paths[row]} {index.file_bytes[row]}"
        key = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
        return self._folder / str(THUMB_PX) / key[:2] / f"{key}.jpg"
