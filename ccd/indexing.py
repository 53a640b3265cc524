"""From a data set's file list to the image index: every file is read once, in parallel, and judged once."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccd.artifacts.image_index import DarkImage, ImageIndex, SkippedImage
from ccd.dark_images import dark_remark
from ccd.datasets.record import Dataset, ImageEntry
from ccd.errors import CcdError, is_utf8, printable
from ccd.images import find_dark_range, header, read_file
from ccd.machine import ran_out
from ccd.pixel_range import DarkRange

Verify = Literal["decode", "header"]
OnBadImage = Literal["error", "skip"]

SHOWN = 20
QUEUED = 4096  # files a pool is given at a time: what it keeps for each weighs more than what we do
LARGE_PIXELS = 32 * 1024 * 1024
_ONE_LARGE_IMAGE = threading.Lock()  # in memory at a time: there may be dozens of threads


@dataclass(frozen=True)
class FileFacts:
    """What the index keeps of one file; ``problem`` says why it cannot be used, ``dark`` that it looks black."""

    width_px: int = 0
    height_px: int = 0
    size: int = 0
    digest: str = ""
    problem: str = ""
    dark: DarkRange | None = None


class FileReader:
    """Reads one file of a data set: size in pixels and bytes, BLAKE2b-128 of the content, and what is wrong with it.

    ``verify``: ``decode`` reads all pixels, so that no later stage meets a damaged file; JPEGs at 1/8 size, which
    reads every byte for a fraction of the cost. ``header`` trusts what comes after the header.
    ``follow_links``: accept files that, once links are resolved, lie outside ``root``.
    """

    def __init__(self, root: Path, verify: Verify, follow_links: bool) -> None:
        self._root, self._real_root = root, Path(os.path.realpath(root))
        self._verify, self._follow_links = verify, follow_links
        self._folders: dict[str, bool] = {}  # links are resolved once a folder, not once a file

    def __call__(self, path: str) -> FileFacts:
        """``path`` is relative to the root, with forward slashes."""
        try:
            return self._read(path)
        except OSError as error:
            if ran_out(error):  # says nothing about this file, and is nothing to skip it for
                raise
            return FileFacts(problem=f"cannot be read ({error.strerror or error}); mend or remove it")
        except CcdError as error:
            return FileFacts(problem=str(error).removeprefix(f"{path}: "))

    def _read(self, path: str) -> FileFacts:
        if not is_utf8(path):
            raise CcdError("the file's name is not valid UTF-8; rename the file")
        if not self._follow_links and self._leads_out(path):
            raise CcdError(
                "a link that leads out of the data set's folder; copy the file, or set index.follow_links: true "
                "if you trust the data set"
            )
        data = read_file(self._root / path, path)
        (width_px, height_px), dark = header(data, path), None
        if self._verify == "decode":
            with _ONE_LARGE_IMAGE if width_px * height_px > LARGE_PIXELS else nullcontext():
                dark = find_dark_range(data, path)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        return FileFacts(width_px, height_px, len(data), digest, dark=dark)

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
    progress: Callable[[Iterable[FileFacts]], Iterable[FileFacts]] = iter,
) -> ImageIndex:
    """Index the images of a data set; see `FileReader` for ``verify`` and ``follow_links``.

    Args:
        on_bad_image: ``error``, or ``skip``: leave bad files out and list them in ``ImageIndex.skipped``.

    Raises:
        CcdError: one or more files cannot be used and are not to be skipped, or no training image is left; all are
            counted, the first `SHOWN` named with reasons.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        reader = FileReader(root, verify, follow_links)
        pieces = (entries[start : start + QUEUED] for start in range(0, len(entries), QUEUED))
        read = (fact for piece in pieces for fact in pool.map(reader, (entry.path for entry in piece)))
        facts = list(progress(read))
    pairs = list(zip(entries, facts, strict=True))
    skipped = tuple(SkippedImage(printable(entry.path), fact.problem) for entry, fact in pairs if fact.problem)
    good = [(entry, fact) for entry, fact in pairs if not fact.problem]
    if skipped and on_bad_image == "error":
        advice = "mend or remove them, or set index.on_bad_image: skip to leave them out"
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


def known_labels(found: Dataset, index: ImageIndex) -> tuple[list[str], NDArray[np.int8], NDArray[np.bool_]]:
    """Ground truth of the indexed images alone: ids (L), labels and difficult flags (L, C)."""
    indexed = set(index.ids)
    rows = [row for row, image_id in enumerate(found.labelled) if image_id in indexed]
    return [found.labelled[row] for row in rows], found.labels[rows], found.difficult[rows]


def remarks(index: ImageIndex) -> list[str]:
    """What is worth saying of an index: files left out, dark images, and files with the same content."""
    said = []
    if index.skipped:
        said.append(_problems(index.skipped, len(index) + len(index.skipped)))
    if index.dark:
        said.append(dark_remark(index.dark))
    first: dict[str, bool] = {}
    repeats = across = 0
    for digest, is_train in zip(index.digests, index.is_train.tolist(), strict=True):
        repeats += digest in first
        across += first.setdefault(digest, is_train) != is_train
    if repeats:
        where = f", {across:,} of them across training and test: they flatter the evaluation" if across else ""
        said.append(f"{repeats:,} images repeat the content of another{where}")
    return said


def _problems(skipped: Sequence[SkippedImage], count: int) -> str:
    lines = [f"{each.path}: {each.reason}" for each in skipped[:SHOWN]]
    if len(skipped) > SHOWN:
        lines.append(f"and {len(skipped) - SHOWN:,} more")
    return "\n  ".join([f"{len(skipped):,} of {count:,} images cannot be used:", *lines])
