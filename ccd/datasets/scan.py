"""Builds the image index from a data set's file list: every file is read and checked once, in parallel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccd.artifacts.image_index import DarkImage, ImageIndex, SkippedImage, Version
from ccd.artifacts.sealed import short_digest
from ccd.datasets import load_dataset
from ccd.datasets.image_search import dark_remark
from ccd.datasets.manifest import LISTING_THREADS, content
from ccd.datasets.record import Dataset, ImageEntry
from ccd.errors import CcdError, is_utf8, printable, ran_out, url_of
from ccd.images.decode import FULL_16_BIT, NO_CACHE, header, opening, read_file, to_rgb
from ccd.images.file_cache import FileCache
from ccd.images.remote import UnreachableError, is_remote, located
from ccd.params.sections import IndexParams

NO_VERSIONS: Mapping[str, Version] = {}
DARK_16_BIT = FULL_16_BIT // 4  # 14 bits of data and less


@dataclass(frozen=True)
class DarkRange:
    """An image whose 16-bit values use only the lowest quarter of their range: ``highest`` is the largest of them."""

    highest: int
    is_colour: bool


def has_16_bit_colour(image: Image.Image) -> bool:
    """Tell whether Pillow will keep only the upper byte of each value; call it before the pixels are loaded."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    return any(";16" in str(tile[3]) or _is_deep_ppm(tile) for tile in getattr(image, "tile", ()))


def _is_deep_ppm(tile: Sequence[object]) -> bool:
    return tile[0] == "ppm" and isinstance(tile[3], tuple) and FULL_16_BIT in tile[3]


def dark_range(image: Image.Image, is_16_bit_colour: bool) -> DarkRange | None:
    """Return the range of a loaded image if it is dark; None for any other, and at once for 8-bit images."""
    if is_16_bit_colour:
        bands = [image.getchannel(band).getextrema() for band in image.getbands() if band != "A"]
        highest = max(int(str(high)) for _, high in bands) * 256 + 255
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        highest = int(values.max()) if values.min() >= 0 else FULL_16_BIT
    else:
        return None
    return DarkRange(highest, is_16_bit_colour) if 0 < highest <= DARK_16_BIT else None


def find_dark_range(data: bytes, name: str) -> DarkRange | None:
    """Decode one file's bytes to check that it is possible, and return the range if the image looks nearly black.

    JPEGs are decoded at 1/8 size, which reads every byte for a fraction of the cost. Eight-bit images cost no more than
    `decode`.

    Raises:
        CcdError: see `decode`.
    """
    with opening(data, name, min_size=1) as image:
        is_16_bit_colour = has_16_bit_colour(image)
        image.load()
        to_rgb(image)
        return dark_range(image, is_16_bit_colour)


Verify = Literal["decode", "header"]
OnBadImage = Literal["error", "skip"]

SHOWN = 20
QUEUED = 4096  # files in a thread pool at a time, since its record of a file is larger than ours
LARGE_PIXELS = 32 * 1024 * 1024
_ONE_LARGE_IMAGE = threading.Lock()  # dozens of threads must not hold a large image each


@dataclass(frozen=True)
class FileFacts:
    """Facts about one file; ``problem``: why it cannot be used, or ""; ``dark``: its range if it looks black."""

    width_px: int = 0
    height_px: int = 0
    size: int = 0
    digest: str = ""
    problem: str = ""
    dark: DarkRange | None = None


class FileReader:
    """Reads one file of a data set: size in pixels and bytes, BLAKE2b-128 of the content, and problems.

    ``verify``: ``decode`` decodes the image, so that no later stage meets a damaged file; JPEGs at 1/8 size, which
    reads every byte for a fraction of the cost. ``header`` reads only the header.
    ``follow_links``: accept files that, once links are resolved, lie outside ``root``. ``versions``, ``cache``: of
    remote files, see `ccd.datasets.manifest.content`.
    """

    def __init__(
        self,
        root: Path,
        verify: Verify,
        follow_links: bool,
        versions: Mapping[str, Version] = NO_VERSIONS,
        cache: FileCache = NO_CACHE,
    ) -> None:
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._verify = verify
        self._follow_links = follow_links
        self._versions = versions
        self._cache = cache
        self._folders: dict[str, bool] = {}  # links are resolved once a folder, not once a file

    def __call__(self, path: str) -> FileFacts:
        """Read the file at ``path``, relative to the root, with forward slashes."""
        try:
            return self._read(path)
        except OSError as error:
            if ran_out(error):  # no fault of this file
                raise
            return FileFacts(problem=f"cannot be read ({error.strerror or error}); fix or delete it")
        except UnreachableError:
            raise
        except CcdError as error:
            return FileFacts(problem=str(error).removeprefix(f"{path}: "))

    def _read(self, path: str) -> FileFacts:
        if not is_utf8(path):
            raise CcdError("the file's name is not valid UTF-8; rename the file")
        file = located(self._root, path)
        if is_remote(file):
            data, size, digest = content(file, self._versions.get(path), self._verify, self._cache)
            return self._facts(path, data, size, digest)
        if not self._follow_links and self._leads_out(path):
            raise CcdError(
                "a link that leads out of the data set's folder; copy the file, or set index.follow_links: true "
                "if you trust the data set"
            )
        data = read_file(file, path)
        return self._facts(path, data, len(data), short_digest(data))

    def _facts(self, path: str, data: bytes, size: int, digest: str) -> FileFacts:
        (width_px, height_px) = header(data, path)
        dark = None
        if self._verify == "decode":
            with _ONE_LARGE_IMAGE if width_px * height_px > LARGE_PIXELS else nullcontext():
                dark = find_dark_range(data, path)
        return FileFacts(width_px, height_px, size, digest, dark=dark)

    def _leads_out(self, path: str) -> bool:
        folder = str(PurePosixPath(path).parent)
        if folder not in self._folders:
            self._folders[folder] = not self._is_inside(self._root / folder)
        file = self._root / path
        return not self._is_inside(file) if file.is_symlink() else self._folders[folder]

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self._real_root)


def scan(
    root: Path,
    entries: Sequence[ImageEntry],
    workers: int,
    *,
    verify: Verify = "decode",
    on_bad_image: OnBadImage = "error",
    follow_links: bool = False,
    versions: Mapping[str, Version] = NO_VERSIONS,
    cache: FileCache = NO_CACHE,
    progress: Callable[[Iterable[FileFacts]], Iterable[FileFacts]] = iter,
) -> ImageIndex:
    """Index the images of a data set; see `FileReader` for ``verify``, ``follow_links``, ``versions`` and ``cache``.

    Args:
        workers: number of threads; remote files get `LISTING_THREADS`.
        on_bad_image: ``error``, or ``skip``: leave bad files out and list them in ``ImageIndex.skipped``.
        progress: wraps the results to show progress.

    Raises:
        CcdError: files cannot be used and ``on_bad_image`` is ``error``, or no training image is left; the message
            counts them and names the first `SHOWN` with reasons.
    """
    waits = url_of(root) is not None or any(":/" in entry.path or ".parquet#" in entry.path for entry in entries)
    with ThreadPoolExecutor(max(1, workers, LISTING_THREADS * waits)) as pool:
        reader = FileReader(root, verify, follow_links, versions, cache)
        pieces = (entries[start : start + QUEUED] for start in range(0, len(entries), QUEUED))
        read = (fact for piece in pieces for fact in pool.map(reader, (entry.path for entry in piece)))
        facts = list(progress(read))
    pairs = list(zip(entries, facts, strict=True))
    skipped = tuple(SkippedImage(printable(entry.path), fact.problem) for entry, fact in pairs if fact.problem)
    good = [(entry, fact) for entry, fact in pairs if not fact.problem]
    if skipped and on_bad_image == "error":
        advice = "fix or delete them, or set index.on_bad_image: skip to leave them out"
        raise CcdError(f"{root}: {_problems(skipped, len(facts))}\n  {advice}")
    if not any(entry.split == "train" for entry, _ in good):
        raise CcdError(f"{root}: no training image can be used: {_problems(skipped, len(facts))}")
    return ImageIndex(
        [entry.image_id for entry, _ in good],
        [entry.path for entry, _ in good],
        np.asarray([entry.split == "train" for entry, _ in good]),
        np.asarray([(fact.height_px, fact.width_px) for _, fact in good], np.int32).reshape(-1, 2),
        np.asarray([fact.size for _, fact in good], np.int64),
        [fact.digest for _, fact in good],
        skipped,
        tuple(DarkImage(entry.path, *astuple(fact.dark)) for entry, fact in good if fact.dark),
    )


def known_labels(dataset: Dataset, index: ImageIndex) -> tuple[list[str], NDArray[np.int8], NDArray[np.bool_]]:
    """Return the ground truth of the indexed images: ids (L), labels int8 and difficult flags bool (L, C)."""
    indexed = set(index.ids)
    rows = [row for row, image_id in enumerate(dataset.labelled) if image_id in indexed]
    return [dataset.labelled[row] for row in rows], dataset.labels[rows], dataset.difficult[rows]


def remarks(index: ImageIndex) -> list[str]:
    """Return remarks on an index: skipped files, dark images, and files with the same content."""
    lines = []
    if index.skipped:
        lines.append(_problems(index.skipped, len(index) + len(index.skipped)))
    if index.dark:
        lines.append(dark_remark(index.dark))
    first: dict[str, bool] = {}
    repeats = across = 0
    for digest, is_train in zip(index.digests, index.is_train.tolist(), strict=True):
        repeats += digest in first
        across += first.setdefault(digest, is_train) != is_train
    if repeats:
        where = f", {across:,} of them across training and test: they flatter the evaluation" if across else ""
        lines.append(f"{repeats:,} images repeat the content of another{where}")
    return lines


def _problems(skipped: Sequence[SkippedImage], count: int) -> str:
    lines = [f"{each.path}: {each.reason}" for each in skipped[:SHOWN]]
    if len(skipped) > SHOWN:
        lines.append(f"and {len(skipped) - SHOWN:,} more")
    return "\n  ".join([f"{len(skipped):,} of {count:,} images cannot be used:", *lines])


def scan_dataset(
    params: IndexParams,
    root: Path,
    workers: int,
    *,
    cache_gb: float = 0.0,
    scene_progress: Callable[[int, int], None] | None = None,
    image_progress: Callable[[Iterable[FileFacts], int], Iterable[FileFacts]] = lambda facts, count: facts,
) -> tuple[Dataset, ImageIndex]:
    """Load the data set in ``root`` with its adapter, then read and check every image.

    Args:
        params: section ``index`` of params.yaml.
        workers: threads that read files.
        scene_progress: called with (done, total) while the demo renders.
        image_progress: passes the facts on while it shows progress; gets the number of images too.

    Raises:
        CcdError: see `load_dataset` and `scan`.
    """
    scan_options = params.model_dump(include={"on_bad_image", "verify", "follow_links"})
    dataset_options = params.model_dump(exclude=set(scan_options))
    dataset = load_dataset(**dataset_options, root=root, progress=scene_progress)
    index = scan(
        root,
        dataset.images,
        workers,
        **scan_options,
        versions=dataset.versions,
        cache=FileCache(round(cache_gb * 1e9)),
        progress=lambda facts: image_progress(facts, len(dataset.images)),
    )
    return dataset, index
