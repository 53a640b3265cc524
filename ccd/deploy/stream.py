"""Find images by files, folders, patterns and lists, and score them in batches."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccd.datasets.image_search import FOLDER, by_frequency, left_out_line
from ccd.datasets.manifest import find, is_one_file
from ccd.deploy.classifier import Classifier, TorchClassifier
from ccd.errors import CcdError, listed, ran_out, url_of
from ccd.images import remote
from ccd.images.batches import load_in_order
from ccd.images.decode import decode, header, read_file, squash
from ccd.images.file_cache import FileCache
from ccd.images.remote import is_table, located
from ccd.runtime.hardware import one_ahead

STDIN = "-"


@dataclass(frozen=True)
class Inputs:
    """``paths`` of files in the order given, each once; ``left_out``: number of other files by extension."""

    paths: list[Path]
    left_out: dict[str, int]


def expand(arguments: Sequence[str], lines: Iterable[str]) -> Inputs:
    """Find the files to label.

    Args:
        arguments: files, folders (all images in them and their subfolders, sorted), patterns (``**`` also matches
            subfolders), URLs of files and of what lies below them, manifests and Parquet of images (see
            `ccd.datasets.manifest`), or ``-``.
        lines: file names, one per line, for the argument ``-``. They need not exist: missing files of an outdated list
            are reported like damaged ones.

    Raises:
        CcdError: an argument is neither a file nor a folder and matches nothing, or there is no image at all.
    """
    paths: dict[Path, None] = {}
    left_out: Counter[str] = Counter()
    missing = []
    for argument in dict.fromkeys(arguments):
        inputs = Inputs([_path(name) for name in _stripped(lines)], {}) if argument == STDIN else _find(argument)
        if inputs is None:
            missing.append(argument)
            continue
        paths.update(dict.fromkeys(inputs.paths))
        left_out.update(inputs.left_out)
    if missing:
        raise CcdError(f"no such file, folder or match: {listed(missing)}; correct it, or quote a pattern")
    if not paths:
        others = left_out_line(left_out)
        raise CcdError(f"no images in {listed(arguments)}" + (f"; {others}" if others else ""))
    return Inputs(list(paths), by_frequency(left_out))


def _find(argument: str) -> Inputs | None:
    """Find the files of one argument; None if there are none."""
    path = _path(argument)
    is_url = url_of(path) is not None
    if path.is_dir() or (is_table(path) and (is_url or path.exists())) or (is_url and not is_one_file(path)):
        images = find(path)
        paths = [located(path, name) for name in images.paths]
        return None if is_url and not paths else Inputs(paths, dict(images.left_out))
    if is_url or path.exists():
        return Inputs([path], {})
    matches = _matches(argument)
    unreadable = _unreadable(argument)
    if not matches and not unreadable:
        return None
    folders = {match for match in matches if match.is_dir()}
    # A pattern with ** also matches the files in these folders, so that nothing is left out.
    left_out = {FOLDER: len(folders)} if folders and "**" not in argument else {}
    return Inputs([*(match for match in matches if match not in folders), *unreadable], left_out)


def _path(name: str) -> Path:
    """Return a path; a URL loses its password and signature, which only memory keeps."""
    url = url_of(name)
    return Path(name if url is None else remote.public(url))


def _matches(pattern: str) -> list[Path]:
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute patterns too


def _unreadable(pattern: str) -> list[Path]:
    """Return the folders on a pattern's way that cannot be opened, which glob skips silently."""
    parent = pattern if pattern.endswith("**") else os.path.dirname(pattern)  # noqa: PTH120 - "" ends the loop
    folders: dict[Path, None] = {}
    while parent.strip(os.sep):
        folders.update(dict.fromkeys(match for match in _matches(parent) if match.is_dir()))
        parent = os.path.dirname(parent.rstrip(os.sep))  # noqa: PTH120
        if not glob.has_magic(parent):
            break
    return [folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)]


def _stripped(lines: Iterable[str]) -> list[str]:
    return [name for line in lines if (name := line.rstrip("\r\n"))]


@dataclass(frozen=True)
class Problem:
    """A file that cannot be read, and the reason, which names the file."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Scored:
    """The b readable images of a batch, and the ``problems`` of its other files.

    ``probs`` (b, C) float32; ``cams`` (b, C, h, w) float32, class activation maps; ``sizes_px`` (b, 2) int64, height
    and width of the upright originals.
    """

    paths: list[Path]
    probs: np.ndarray
    cams: Tensor
    sizes_px: Tensor
    problems: list[Problem]


def scored(classifier: Classifier, paths: Sequence[Path], batch_size: int, workers: int) -> Iterator[Scored]:
    """Score ``paths`` in order, in memory that does not grow with their number.

    On a GPU a batch is handed on when the next one has been started.

    Raises:
        CcdError: a worker process died.
    """
    spec = classifier.description.spec
    load = _TolerantBatch(paths, spec.image_size_px, batch_size)
    batches = load_in_order(load, -(-len(paths) // batch_size), workers, files_of=load.files)
    started = ((batch, _started(classifier, batch.pixels)) for batch in batches)
    device = classifier.device if isinstance(classifier, TorchClassifier) else torch.device("cpu")
    for batch, wait in one_ahead(started, device):
        probs, cams = wait()
        yield Scored(batch.paths, probs.numpy(), cams, batch.sizes_px, batch.problems)


def _started(classifier: Classifier, pixels: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Start predicting for pixels (b, 3, S, S) uint8, b >= 0; call the result for the probabilities and maps."""
    if not len(pixels):
        classes = len(classifier.description.spec.classes)
        return lambda: (torch.empty(0, classes), torch.empty(0, classes, 1, 1))
    if isinstance(classifier, TorchClassifier):
        return classifier.start(pixels)
    return partial(classifier, pixels)


@dataclass(frozen=True)
class _Loaded:
    paths: list[Path]
    pixels: Tensor
    sizes_px: Tensor
    problems: list[Problem]


@dataclass(frozen=True)
class _TolerantBatch:
    """Load a batch and collect the problems of its files; picklable for other processes."""

    paths: Sequence[Path]
    size_px: int
    batch_size: int
    signed: Mapping[str, str] = field(default_factory=remote.signed)

    def __call__(self, index: int) -> _Loaded:
        remote.remember(self.signed)
        with ThreadPoolExecutor(remote.THREADS) as pool:
            files = self.files(index)
            are_remote = any(map(remote.is_remote, files))
            return self._loaded(zip(files, (pool.map if are_remote else map)(_content, files), strict=True))

    def _loaded(self, contents: Iterable[tuple[Path, bytes | CcdError]]) -> _Loaded:
        readable = []
        pixels = []
        sizes_px = []
        problems = []
        for path, content in contents:
            try:
                image, size_px = _decoded(path, content, self.size_px)
            except CcdError as error:
                problems.append(Problem(path, str(error)))
                continue
            readable.append(path)
            pixels.append(torch.from_numpy(image))
            sizes_px.append(size_px)
        stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, self.size_px, self.size_px, dtype=torch.uint8)
        return _Loaded(readable, stacked, torch.tensor(sizes_px, dtype=torch.int64).reshape(-1, 2), problems)

    def files(self, index: int) -> Sequence[Path]:
        """Return the files of a batch."""
        return self.paths[index * self.batch_size : (index + 1) * self.batch_size]


def _content(path: Path) -> bytes | CcdError:
    """Return a file's bytes, or what is wrong with it. Raises CcdError if the next file would fail in the same way."""
    try:
        return remote.read(path, FileCache()) if remote.is_remote(path) else _local(path)
    except remote.UnreachableError:
        raise
    except CcdError as error:
        return error


def _local(path: Path) -> bytes:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CcdError(f"{str(path)!r}: the name is not valid UTF-8; rename the file") from None
    try:
        return read_file(path, str(path))
    except OSError as error:
        if ran_out(error):
            raise
        raise CcdError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decoded(path: Path, data: bytes | CcdError, size_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return pixels (3, S, S) uint8, and height and width of the original."""
    if isinstance(data, CcdError):
        raise data
    name = remote.name_of(path)
    image = decode(data, name, min_size=size_px)
    width_px, height_px = header(data, name)
    return squash(image, size_px, size_px), (height_px, width_px)
