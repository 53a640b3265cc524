"""Shared by the adapters: data set records and their checks, reading of text files, a check for missing images."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ccd.artifacts.files import split_byte_order_mark
from ccd.artifacts.image_index import Version
from ccd.errors import CcdError, is_utf8, listed


def read_bytes(path: Path, hint: str) -> bytes:
    """Read a file. Raises CcdError, ending in the advice ``hint``, if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}; {hint}") from None
    except ValueError as error:  # a NUL in the path
        raise CcdError(f"{path}: {error}; {hint}") from None


def read_text(path: Path, hint: str) -> str:
    """Read a file as UTF-8 text, or in the encoding of its byte order mark.

    Raises:
        CcdError: it is missing, or not in that encoding.
    """
    data = read_bytes(path, hint)
    encoding, body = split_byte_order_mark(data)
    try:
        return body.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        position = len(data) - len(body) + error.start
        raise CcdError(f"{path}: not UTF-8 text ({error.reason} at byte {position}); save it as UTF-8") from None


def read_lines(path: Path, hint: str) -> list[str]:
    """Read the lines that are not blank, stripped; see `read_text` for errors."""
    return [line.strip() for line in read_text(path, hint).splitlines() if line.strip()]


def is_inside(path: str) -> bool:
    """Tell whether a path from a data set's own files stays below its root: relative, no ``..``, no NUL."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def require_present(root: Path, paths: Iterable[str], hint: str) -> None:
    """Check that all files exist, reading each folder once instead of asking for every file.

    Raises:
        CcdError: a path leads out of ``root`` (checked before any folder is read), or files are missing; the message
            counts them and ends in ``hint``.
    """
    wanted = list(paths)
    outside = [path for path in wanted if not is_inside(path)]
    if outside:
        raise CcdError(f"{root}: {len(outside)} image paths lead out of the data set's root: {listed(outside)}; {hint}")
    listing = Listing(root)
    missing = [path for path in wanted if not listing.has(path)]
    if missing:
        raise CcdError(f"{len(missing)} of {len(wanted)} images are missing in {root}: {listed(missing)}; {hint}")


class Listing:
    """The files below ``root``; each folder is read once, on first use."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Tell whether ``path``, relative with forward slashes, exists. Raises CcdError if a folder cannot be read."""
        pure = PurePosixPath(path)
        folder = str(pure.parent)
        if folder not in self._names:
            self._names[folder] = _names(self._root / folder)
        return pure.name in self._names[folder]


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names alone: a Path object for each of 80,000 costs a second
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise CcdError(f"{folder}: {error.strerror or error}") from None


Split = Literal["train", "test"]


@dataclass(frozen=True)
class ClassInfo:
    """A class: ``name`` in the data set, and ``texts``, the phrases CLIP reads (several are averaged)."""

    name: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class ImageEntry:
    """One image; ``path`` is relative to the data set's root, with forward slashes."""

    image_id: str
    path: str
    split: Split


@dataclass(frozen=True)
class Dataset:
    """C classes, N images, and the ground truth of the L labelled ones.

    ``labelled`` (L) are image ids. ``labels`` (L, C) int8: 1 present, 0 absent. ``difficult`` (L, C) bool: all
    objects of the class in that image are marked difficult (their label is 1). ``left_out``: counts by ending of the
    other files among the images. ``versions``: of remote images, by path, as far as a listing stated them.
    """

    classes: tuple[ClassInfo, ...]
    images: tuple[ImageEntry, ...]
    labelled: tuple[str, ...]
    labels: NDArray[np.int8]
    difficult: NDArray[np.bool_]
    left_out: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """Ground truth of one split, rows aligned with its list of images; see `Dataset` for the arrays."""

    labels: NDArray[np.int8]
    difficult: NDArray[np.bool_]


def assemble(
    root: Path, classes: Iterable[ClassInfo], parts: Iterable[tuple[list[ImageEntry], Truth | None]]
) -> Dataset:
    """Join splits, each with its ground truth or None, and `check` the result."""
    infos = tuple(classes)
    images: list[ImageEntry] = []
    labelled: list[str] = []
    labels = [np.zeros((0, len(infos)), np.int8)]
    difficult = [np.zeros((0, len(infos)), np.bool_)]
    for entries, truth in parts:
        images += entries
        if truth is not None:
            labelled += [entry.image_id for entry in entries]
            labels.append(truth.labels)
            difficult.append(truth.difficult)
    joined = Dataset(infos, tuple(images), tuple(labelled), np.concatenate(labels), np.concatenate(difficult))
    check(joined, root)
    return joined


def distinct_ids(parts: Sequence[Sequence[ImageEntry]]) -> list[list[ImageEntry]]:
    """Make ids unique that are file names: images with the same id get their path as id, the others keep theirs."""
    counts = Counter(entry.image_id for entries in parts for entry in entries)
    return [
        [replace(entry, image_id=entry.path) if counts[entry.image_id] > 1 else entry for entry in entries]
        for entries in parts
    ]


def check(dataset: Dataset, root: Path) -> None:
    """Refuse a data set that no stage could use; ``root`` names it in messages.

    Raises:
        CcdError: no class or no training image; a class name or text that is empty, repeated or not UTF-8; a repeated
            image id; a path that leaves the root; labels that do not fit the images and classes.
    """
    check_classes(dataset.classes, root)
    ids = [entry.image_id for entry in dataset.images]
    paths = [entry.path for entry in dataset.images]
    advice = "give each image to one split, once"
    _refuse(root, "image ids are not unique (do the splits share images?)", _repeated(ids), advice)
    outside = [path for path in paths if not is_inside(path)]
    _refuse(root, "image paths lead out of the data set's root", outside, "correct the list of images")
    if not any(entry.split == "train" for entry in dataset.images):
        raise CcdError(f"{root}: the training split has no images; add some, or correct index.train_split")
    advice = "correct the labels"
    _refuse(root, "labelled images are not in the data set", set(dataset.labelled).difference(ids), advice)
    _refuse(root, "images are labelled twice", _repeated(dataset.labelled), advice)
    _check_labels(dataset, root)
    check_choice(dataset.classes, root)


def check_choice(classes: Sequence[ClassInfo], root: Path) -> None:
    """Refuse a single class, since a softmax over it is 1 for every image."""
    if len(classes) == 1:
        raise CcdError(
            f"{root}: there is one class alone, {classes[0].name!r}. CLIP chooses between classes, so every label "
            "would be exactly 1; add at least one more, such as what the other images show (dog, street, empty room)"
        )


def check_classes(classes: Sequence[ClassInfo], root: Path) -> None:
    """Refuse classes that no stage could use; see `check`."""
    names = [info.name for info in classes]
    advice = "correct the list of classes"
    if not names:
        raise CcdError(f"{root}: the data set has no classes; {advice}")
    _refuse(root, "class names are empty", [repr(name) for name in names if not name.strip()], advice)
    _refuse(root, "class names are not unique", _repeated(names), advice)
    spelt = [text for info in classes for text in (info.name, *info.texts)]
    wrong = [repr(text) for text in spelt if not is_utf8(text)]
    _refuse(root, "class names or texts are not valid UTF-8", wrong, advice)
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_folded(name), []).append(name)
    pairs = [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]
    _refuse(root, "groups of class names are the same but for case, blanks or hyphens", pairs, "keep one of each")
    same: dict[tuple[str, ...], list[str]] = {}
    for info in classes:
        same.setdefault(tuple(sorted(_folded(text) for text in info.texts)), []).append(info.name)
    pairs = [" and ".join(map(repr, group)) for group in same.values() if len(group) > 1]
    _refuse(root, "groups of classes have the same words for CLIP, which cannot tell them apart", pairs, advice)
    wordless = [info.name for info in classes if not info.texts or not all(text.strip() for text in info.texts)]
    _refuse(root, "classes have no text, or an empty one, for CLIP to read", wordless, advice)


def _check_labels(dataset: Dataset, root: Path) -> None:
    shape = (len(dataset.labelled), len(dataset.classes))
    if dataset.labels.shape != shape or dataset.difficult.shape != shape:
        shapes = f"{dataset.labels.shape} and {dataset.difficult.shape}"
        raise CcdError(f"{root}: labels and flags must be (labelled images, classes) = {shape}, found {shapes}")
    if not np.isin(dataset.labels, (0, 1)).all():
        raise CcdError(f"{root}: labels must be 0 or 1, found {listed(np.unique(dataset.labels))}; correct the labels")


def _refuse(root: Path, problem: str, offenders: Iterable[str], advice: str) -> None:
    names = sorted(offenders)
    if names:
        raise CcdError(f"{root}: {len(names)} {problem}: {listed(names)}; {advice}")


def _folded(text: str) -> str:
    """Return a form in which two spellings of one name are equal."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _repeated(items: Iterable[str]) -> list[str]:
    return [item for item, count in Counter(items).items() if count > 1]
