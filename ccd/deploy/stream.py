"""Image files through a classifier, a batch at a time: decoded in parallel, and a bad file stops nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccd.deploy.classifier import Classifier
from ccd.errors import CcdError
from ccd.images import decode, header, read_file, squash
from ccd.loading import load_in_order
from ccd.machine import ran_out


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
            probs, cams = torch.empty(0, len(spec.classes)), torch.empty(0, len(spec.classes), 1, 1)
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
        good, pixels, sizes_px, problems = [], [], [], []
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
