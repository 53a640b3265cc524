"""From files, folders, patterns and lists to scored batches."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccd.datasets.image_search import FOLDER, by_frequency, left_out_line, search
from ccd.deploy.classifier import Classifier
from ccd.errors import CcdError, listed, ran_out
from ccd.images.batches import load_in_order
from ccd.images.decode import decode, header, read_file, squash

STDIN = "-"


@dataclass(frozen=True)
class Inputs:
    """``paths`` of files in the order named, each once; ``left_out``: other files in the folders named, by ending."""

    paths: list[Path]
    left_out: dict[str, int]


def expand(words: Sequence[str], lines: Iterable[str]) -> Inputs:
    """Find the files.

    Args:
        words: files, folders (all images in them and below, sorted), patterns (``**`` goes into folders), or ``-``.
        lines: file names, one per line, that stand for ``-``; these need not exist, so that a stale list is worked
            through and its missing files are reported like damaged ones.

    Raises:
        CcdError: a word that is neither a file nor a folder and matches nothing, or no image at all.
    """
    found: dict[Path, None] = {}
    left_out: Counter[str] = Counter()
    missing = []
    for word in dict.fromkeys(words):
        named = Inputs([Path(name) for name in _stripped(lines)], {}) if word == STDIN else _named(word)
        if named is None:
            missing.append(word)
            continue
        found.update(dict.fromkeys(named.paths))
        left_out.update(named.left_out)
    if missing:
        raise CcdError(f"no such file, folder or match: {listed(missing)}; correct it, or quote a pattern")
    if not found:
        there = left_out_line(left_out)
        raise CcdError(f"no images in {listed(words)}" + (f"; {there}" if there else ""))
    return Inputs(list(found), by_frequency(left_out))


def _named(word: str) -> Inputs | None:
    path = Path(word)
    if path.is_dir():
        seen = search(path)
        return Inputs([path / name for name in seen.paths], seen.left_out)
    if path.exists():
        return Inputs([path], {})
    matches = _matches(word)
    unreadable = _unreadable(word)
    if not matches and not unreadable:
        return None
    folders = {match for match in matches if match.is_dir()}
    # What is in the folders matches a pattern with ** itself.
    passed_over = {FOLDER: len(folders)} if folders and "**" not in word else {}
    return Inputs([*(match for match in matches if match not in folders), *unreadable], passed_over)


def _matches(pattern: str) -> list[Path]:
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute patterns too


def _unreadable(pattern: str) -> list[Path]:
    """Folders that a pattern goes into and may not open: glob passes over them without a word."""
    looked_into = pattern if pattern.endswith("**") else os.path.dirname(pattern)  # noqa: PTH120 - "" ends it
    folders: dict[Path, None] = {}
    while looked_into.strip(os.sep):
        folders.update(dict.fromkeys(match for match in _matches(looked_into) if match.is_dir()))
        looked_into = os.path.dirname(looked_into.rstrip(os.sep))  # noqa: PTH120
        if not glob.has_magic(looked_into):
            break
    return [folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)]


def _stripped(lines: Iterable[str]) -> list[str]:
    return [name for line in lines if (name := line.rstrip("\r\n"))]


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why (the reason names the file)."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Scored:
    """The b readable images of a batch: ``paths``, ``probs`` (b, C) float32, ``cams`` (b, C, h, w) float32 and
    ``sizes_px`` (b, 2) int64 as (height, width) of the upright original; and the files that could not be read."""

    paths: list[Path]
    probs: np.ndarray
    cams: Tensor
    sizes_px: Tensor
    problems: list[Problem]


def scored(classifier: Classifier, paths: Sequence[Path], batch_size: int, workers: int) -> Iterator[Scored]:
    """Score ``paths`` in order; memory does not grow with their number.

    Raises:
        CcdError: a worker process died.
    """
    spec = classifier.description.spec
    load = _TolerantBatch(paths, spec.image_size_px, batch_size)
    for batch in load_in_order(load, -(-len(paths) // batch_size), workers, files_of=load.files):
        if batch.paths:
            probs, cams = classifier(batch.pixels)
        else:
            probs = torch.empty(0, len(spec.classes))
            cams = torch.empty(0, len(spec.classes), 1, 1)
        yield Scored(batch.paths, probs.numpy(), cams, batch.sizes_px, batch.problems)


@dataclass(frozen=True)
class _Loaded:
    paths: list[Path]
    pixels: Tensor
    sizes_px: Tensor
    problems: list[Problem]


@dataclass(frozen=True)
class _TolerantBatch:
    """Picklable, so that it can work in other processes."""

    paths: Sequence[Path]
    size_px: int
    batch_size: int

    def __call__(self, index: int) -> _Loaded:
        good = []
        pixels = []
        sizes_px = []
        problems = []
        for path in self.files(index):
            try:
                image, size_px = _read(path, self.size_px)
            except CcdError as error:
                problems.append(Problem(path, str(error)))
                continue
            good.append(path)
            pixels.append(torch.from_numpy(image))
            sizes_px.append(size_px)
        stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
        return _Loaded(good, stacked, torch.tensor(sizes_px, dtype=torch.int64).reshape(-1, 2), problems)

    def files(self, index: int) -> Sequence[Path]:
        """The files of a batch."""
        return self.paths[index * self.batch_size : (index + 1) * self.batch_size]


def _read(path: Path, size_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels (3, S, S) uint8, and height and width of the original."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CcdError(f"{str(path)!r}: the name is not valid UTF-8; rename the file") from None
    try:
        data = read_file(path, str(path))
    except OSError as error:
        if ran_out(error):
            raise
        raise CcdError(f"{path}: cannot be read ({error.strerror or error})") from None
    image = decode(data, str(path), min_size=size_px)
    width_px, height_px = header(data, str(path))
    return squash(image, size_px, size_px), (height_px, width_px)
