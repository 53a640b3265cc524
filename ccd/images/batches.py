"""Reads image files into batches of pixels, in the order that the caller gives, in worker processes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import multiprocessing.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError, explained, listed
from ccd.images import remote
from ccd.images.decode import decode, read_checked, squash
from ccd.images.file_cache import FileCache

Item = TypeVar("Item")
_SOCKET_PATH_BYTES = 107  # longest path of a UNIX socket
_SOCKET_NAME_BYTES = 24  # multiprocessing's names: /listener- and random letters


@dataclass(frozen=True)
class ImageFiles:
    """N image files: ``paths``, and from the index their sizes in bytes and, checked for remote files alone, their
    digests (None: not checked). ``cache_bytes``: limit of the cache of remote files."""

    paths: Sequence[Path]
    bytes_: Sequence[int] | np.ndarray | None = None
    digests: Sequence[str] | None = None
    cache_bytes: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int, min_size: int | None = None) -> Image.Image:
        """Decode image ``row`` to RGB; ``min_size`` (px) allows a cheaper decode, see :func:`ccd.images.decode.decode`.

        Raises:
            CcdError: the file is missing, damaged, or not the one in the index.
        """
        return decode(self._content(row), remote.name_of(self.paths[row]), min_size=min_size)

    def read_all(self, rows: Sequence[int], min_size: int) -> Iterator[Image.Image]:
        """Yield `read` of each row; remote files are fetched ahead, several at a time."""
        with ThreadPoolExecutor(remote.THREADS) as pool:
            is_remote = any(remote.is_remote(self.paths[row]) for row in rows)
            for row, content in zip(rows, (pool.map if is_remote else map)(self._content, rows), strict=True):
                yield decode(content, remote.name_of(self.paths[row]), min_size=min_size)

    def _content(self, row: int) -> bytes:
        size = None if self.bytes_ is None else int(self.bytes_[row])
        digest = "" if self.digests is None else self.digests[row]
        return read_checked(self.paths[row], size, digest, FileCache(self.cache_bytes))


def indexed_files(root: str, index: ImageIndex, cache_gb: float = 0.0) -> ImageFiles:
    """Return the files of an image index under ``root``, a folder or URL. ``cache_gb``: see `FileCache`."""
    return ImageFiles(remote.Located(root, index.paths), index.file_bytes, index.digests, round(cache_gb * 1e9))


def image_batches(
    files: ImageFiles,
    order: Sequence[int] | np.ndarray | Tensor,
    size_px: int,
    batch_size: int,
    workers: int,
    *,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `batches_of_rows` of ``order`` (n,), ``batch_size`` images at a time; the last batch may be smaller."""
    rows = torch.as_tensor(order, dtype=torch.int64)
    count = -(-len(rows) // batch_size)
    return batches_of_rows(files, _Slices(rows, batch_size), count, size_px, workers, pin_memory=pin_memory)


def batches_of_rows(
    files: ImageFiles,
    rows_of: Callable[[int], Tensor],
    count: int,
    size_px: int,
    workers: int,
    *,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``count`` batches: rows (b,) int64, pixels (b, 3, size_px, size_px) uint8, squash-resized.

    The batches do not depend on the number of ``workers``, the processes that decode (0: this process).

    Args:
        rows_of: returns the rows (b,) of batch ``index``, b >= 0; picklable, since the workers call it.
        pin_memory: the pixels lie in pinned memory, which CUDA copies in the background.

    Raises:
        CcdError: an image cannot be read (the error names the file), or a worker process died.
    """
    batches = _SquashedBatch(files, rows_of, size_px)
    return load_in_order(batches, count, workers, pin_memory=pin_memory, files_of=batches.paths)


@dataclass(frozen=True)
class _Slices:
    """Rows of a batch; a class like the next one, not a closure, since spawned processes must unpickle it."""

    order: Tensor
    batch_size: int

    def __call__(self, index: int) -> Tensor:
        return self.order[index * self.batch_size : (index + 1) * self.batch_size].clone()


@dataclass(frozen=True)
class _SquashedBatch:
    files: ImageFiles
    rows_of: Callable[[int], Tensor]
    size_px: int

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        rows = self.rows_of(index)
        side_px = self.size_px
        pixels = torch.empty((len(rows), 3, side_px, side_px), dtype=torch.uint8)
        for slot, image in zip(pixels, self.files.read_all(rows.tolist(), side_px), strict=True):
            slot.copy_(torch.from_numpy(squash(image, side_px, side_px)))
        return rows, pixels

    def paths(self, index: int) -> list[Path]:
        """Return the files of a batch."""
        return [self.files.paths[row] for row in self.rows_of(index).tolist()]


def load_in_order(
    load: Callable[[int], Item],
    count: int,
    workers: int,
    *,
    pin_memory: bool = False,
    files_of: Callable[[int], Sequence[Path]] = lambda index: (),
) -> Iterator[Item]:
    """Yield ``load(0)`` .. ``load(count - 1)`` in order, computed ahead by ``workers`` processes (0: in this process).

    ``load`` must be picklable; each worker computes with one thread (torch's DataLoader sets that).

    Args:
        files_of: returns the files that ``load(index)`` reads, to name them if a worker dies.

    Raises:
        CcdError: ``load`` raised it, a worker process died, or the machine ran out of a resource in a worker.
    """
    tasks = _Tasks(load, count, workers)
    if workers:
        _keep_socket_paths_short()
    loader: DataLoader[Any] = DataLoader(
        tasks,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_report_lost_results,
    )
    try:
        for result in _started(loader):
            if isinstance(result, _Failure):
                raise CcdError(result.message)
            yield result
    except (RuntimeError, OSError, EOFError) as error:  # a worker died, or its result could not be fetched
        dead = tasks.of_dead_workers() if workers else []
        if not dead and not str(error).startswith("DataLoader worker (pid"):
            raise
        files = listed(path for item in dead for path in files_of(item)) or "no file yet"
        raise CcdError(
            f"a process that decodes images died; it was reading: {files}. Most often memory or /dev/shm ran out: "
            "lower runtime.workers, or the batch size; if it happens with the same files again, one of them crashes "
            "the decoder: leave it out"
        ) from None


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the loader's processes and return its iterator.

    PyTorch's signal handler raises for a dead worker at any point of this process, in a training step or while a file
    is written. Without the handler the loader itself notices within 5 s, and the files being read can be named.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _keep_socket_paths_short() -> None:
    """Choose a folder for UNIX sockets, over which tensors travel, if the path of ``TMPDIR`` is too long for them.

    Batch systems set such paths. Workers inherit the folder from this process.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # where multiprocessing keeps it
    if len(os.fsencode(multiprocessing.util.get_temp_dir())) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_BYTES:
        return
    for parent in ("/tmp", "/var/tmp", "/dev/shm", "."):
        try:
            folder = tempfile.mkdtemp(prefix="ccd-", dir=parent)
        except OSError:
            continue
        multiprocessing.util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-100)
        config["tempdir"] = folder
        return


def _report_lost_results(worker: int) -> None:
    """Send errors of this worker's result queue to the main process, as the result of the task.

    A thread of the queue pickles results. On an error it prints a traceback and drops the result by default, and the
    loader waits for ever. `_on_queue_feeder_error` is multiprocessing's hook for it.
    """

    def report(queue: Any, error: Exception, item: tuple[int, Any]) -> None:
        message = explained(error) or f"a process that decodes images cannot hand over what it read ({error!r})"
        queue.put((item[0], _Failure(f"{message}; runtime.workers: 0 does without such processes")))

    multiprocessing.queues.Queue._on_queue_feeder_error = report  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Failure:
    """A CcdError sent by a worker; raised in the worker, it would arrive as a traceback."""

    message: str


class _Tasks(Dataset[Any]):
    def __init__(self, load: Callable[[int], Any], count: int, workers: int) -> None:
        self._load = load
        self._count = count
        self._current = torch.full((workers, 2), -1)  # of each worker: its process id and its last task
        if workers:
            self._current.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        worker = get_worker_info()
        if worker is not None:
            self._current[worker.id] = torch.tensor([os.getpid(), index])
        try:
            result = self._load(index)
            if worker is not None:
                _share(result)
            return result
        except CcdError as error:
            return _Failure(str(error))
        except OSError as error:  # pickling would lose its errno
            if worker is None or (message := explained(error)) is None:
                raise
            return _Failure(message)

    def of_dead_workers(self) -> list[int]:
        """Return the last tasks of workers that died."""
        for _ in range(10):  # a dying process closes its connections before it is gone
            alive = {child.pid for child in multiprocessing.active_children()}
            tasks = [item for process, item in self._current.tolist() if process not in {-1, *alive}]
            if tasks:
                break
            time.sleep(0.1)
        return tasks


def _share(result: object) -> None:
    """Move tensors to shared memory in this thread, where an error is reported.

    Otherwise a thread of the worker's queue does it, which drops the result on an error; the loader waits for ever.
    """
    if isinstance(result, Tensor):
        result.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(result, tuple):
        for part in result:
            _share(part)
    elif is_dataclass(result):
        for field in fields(result):
            _share(getattr(result, field.name))
