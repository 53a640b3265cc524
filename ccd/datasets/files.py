"""How adapters read a data set's own text files and find out which images are not there."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ccd.errors import CcdError, listed

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_bytes(path: Path, hint: str) -> bytes:
    """The whole file. Raises CcdError, ending in ``hint`` (what to do), if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}; {hint}") from None
    except ValueError as error:  # a NUL in the path
        raise CcdError(f"{path}: {error}; {hint}") from None


def read_text(path: Path, hint: str) -> str:
    """The file as UTF-8 text, or UTF-16 with its byte order mark. Raises CcdError if it is missing or neither."""
    data = read_bytes(path, hint)
    try:
        return data.decode("utf-16" if data.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CcdError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def read_lines(path: Path, hint: str) -> list[str]:
    """The lines that are not blank, stripped."""
    return [line.strip() for line in read_text(path, hint).splitlines() if line.strip()]


def is_inside(path: str) -> bool:
    """Whether a path from a data set's own files stays below its root: relative, no ``..``, no NUL."""
    parts = PurePosixPath(path)
    return bool(parts.parts) and not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def require_present(root: Path, paths: Iterable[str], hint: str) -> None:
    """Check that all files exist, reading each folder once instead of asking for every file.

    Raises:
        CcdError: a path leads out of ``root``, which is found before anything is looked up; or files are missing: how
            many of how many, the first ten, and ``hint``.
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
    """The files below ``root``; each folder is read once, when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        """Whether ``path``, relative with forward slashes, is there. Raises CcdError if a folder cannot be read."""
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
