"""Image files become batches of pixels here, and nowhere else. No randomness: the order is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError
from ccd.images import read_image, squash

Item = TypeVar("Item")


@dataclass(frozen=True)
class ImageFiles:
    """N image files: ``paths``, and the file sizes in bytes that the index recorded (``None``: not checked)."""

    paths: Sequence[Path]
    bytes_: Sequence[int] | np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int, min_size: int | None = None) -> Image.Image:
        """Decode image ``row`` to RGB; ``min_size`` (px) allows a cheaper decode, see :func:`ccd.images.decode`.

        Raises:
            CcdError: the file is missing, damaged, or not of the recorded size.
        """
        expected_bytes = None if self.bytes_ is None else int(self.bytes_[row])
        return read_image(self.paths[row], expected_bytes=expected_bytes, min_size=min_size)


def indexed_files(root: str, index: ImageIndex) -> ImageFiles:
    """The files of an image index under the data set's folder ``root``."""
    return ImageFiles(_UnderRoot(root, index.paths), index.file_bytes)


@dataclass(frozen=True)
class _UnderRoot(Sequence[Path]):
    """Paths that are made when asked for: a million of them ready would cost a few hundred MB."""

    root: str
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> _UnderRoot: ...
    def __getitem__(self, row: int | slice) -> Path | _UnderRoot:
        if isinstance(row, slice):
            return _UnderRoot(self.root, self.names[row])
        return Path(self.root, self.names[row])


def image_batches(
    files: ImageFiles,
    order: Sequence[int] | np.ndarray | Tensor,
    size_px: int,
    batch_size: int,
    workers: int,
    *,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (rows (b,) int64, pixels (b, 3, size_px, size_px) uint8), squash-resized, in the given ``order``.

    The batches are the same for every number of ``workers`` (0 decodes in this process).

    Raises:
        CcdError: an image cannot be read (the error names the file), or a worker process died.
    """
    rows = torch.as_tensor(order, dtype=torch.int64)
    count = len(rows) // batch_size if drop_last else -(-len(rows) // batch_size)
    return load_in_order(_SquashedBatch(files, rows, size_px, batch_size), count, workers, pin_memory=pin_memory)


@dataclass(frozen=True)
class _SquashedBatch:
    """A class and not a closure, since it has to travel to processes that are not forked."""

    files: ImageFiles
    order: Tensor
    size_px: int
    batch_size: int

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size].clone()
        side_px = self.size_px
        pixels = torch.empty((len(rows), 3, side_px, side_px), dtype=torch.uint8)
        for slot, row in zip(pixels, rows.tolist(), strict=True):
            image = self.files.read(row, min_size=side_px)
            slot.copy_(torch.from_numpy(squash(image, side_px, side_px)))
        return rows, pixels


def load_in_order(load: Callable[[int], Item], count: int, workers: int, *, pin_memory: bool = False) -> Iterator[Item]:
    """Yield ``load(0)`` .. ``load(count - 1)`` in order, computed ahead by ``workers`` processes (0: here, on demand).

    ``load`` must be picklable; each worker computes with one thread (torch's DataLoader sees to that).

    Raises:
        CcdError: what ``load`` raised, as it was raised, or a worker process died.
    """
    tasks = _Tasks(load, count)
    loader: DataLoader[Any] = DataLoader(
        tasks, batch_size=None, shuffle=False, num_workers=workers, pin_memory=pin_memory
    )
    try:
        for result in loader:
            if isinstance(result, _Failure):
                raise CcdError(result.message)
            yield result
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise CcdError(
            f"a process that decodes images died ({error}); most often memory or /dev/shm ran out: "
            "lower runtime.workers, or the batch size"
        ) from None


@dataclass(frozen=True)
class _Failure:
    """A CcdError on its way out of a worker: raised there, it would arrive as a traceback."""

    message: str


class _Tasks(Dataset[Any]):
    def __init__(self, load: Callable[[int], Any], count: int) -> None:
        self._load = load
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        try:
            return self._load(index)
        except CcdError as error:
            return _Failure(str(error))
