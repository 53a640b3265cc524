"""From a data set's file list to the image index: headers and content hashes, read in parallel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.datasets.record import ImageEntry
from ccd.errors import CcdError
from ccd.images import header


@dataclass(frozen=True)
class FileFacts:
    """What the index keeps of one file; ``problem`` says why it cannot be used."""

    width_px: int = 0
    height_px: int = 0
    size: int = 0
    digest: str = ""
    problem: str = ""


def file_facts(path: Path) -> FileFacts:
    """Header and BLAKE2b-128 of one image file."""
    try:
        content = path.read_bytes()
        width_px, height_px = header(path)
    except (OSError, CcdError) as error:
        return FileFacts(problem=f"{path}: {error}" if isinstance(error, OSError) else str(error))
    return FileFacts(width_px, height_px, len(content), hashlib.blake2b(content, digest_size=16).hexdigest())


def scan(
    root: Path,
    entries: Sequence[ImageEntry],
    workers: int,
    progress: Callable[[Iterable[FileFacts]], Iterable[FileFacts]] = iter,
) -> ImageIndex:
    """Index the images of a data set.

    Raises:
        CcdError: one or more files are missing or are no images; all are counted, the first ten named with reasons.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        facts = list(progress(pool.map(file_facts, (root / entry.path for entry in entries), chunksize=64)))
    problems = [fact.problem for fact in facts if fact.problem]
    if problems:
        raise CcdError("\n  ".join([f"{len(problems)} of {len(facts)} images cannot be used:", *problems[:20]]))
    return ImageIndex(
        [entry.image_id for entry in entries],
        [entry.path for entry in entries],
        np.asarray([entry.split == "train" for entry in entries]),
        np.asarray([(fact.height_px, fact.width_px) for fact in facts], np.int32).reshape(-1, 2),
        np.asarray([fact.size for fact in facts], np.int64),
        [fact.digest for fact in facts],
    )
