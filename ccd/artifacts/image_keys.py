"""Finds images by the names that people use: ids, paths, and the ends of paths."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from ccd.artifacts.csv_files import spellings


class ImageKeys:
    """Finds the images of a data set by their names.

    `find` takes an id, a path under the root, or a path to the file: with ``./``, with backslashes, absolute, relative
    to the working directory, or on another machine in a folder with the root's name. `find_all` also takes the end of a
    path.
    """

    def __init__(self, ids: Sequence[str], root: Path | None = None, paths: Sequence[str] | None = None) -> None:
        """``root``: folder of the images; None: unknown. ``paths``: paths under it, one per id; None: the ids."""
        self._by_path = dict(zip(ids if paths is None else paths, ids, strict=True))
        self._ids = self._by_path if paths is None else dict(zip(ids, ids, strict=True))
        self._root = root
        self._resolved: dict[str, str] = {}

    def find(self, text: str) -> str | None:
        """Return the id of the image that ``text`` names, or None."""
        names = spellings(text)
        for name in (*names, *map(_slashed, names)):
            if name in self._ids:
                return self._ids[name]
            if name in self._by_path:
                return self._by_path[name]
        return next((image_id for name in names if (image_id := self._under_root(_slashed(name))) is not None), None)

    def find_all(self, texts: Iterable[str]) -> dict[str, list[str]]:
        """Return for each of the ``texts`` the ids of the images that it may name: none, one, or several."""
        direct = {text: self.find(text) for text in texts}
        return {text: [image_id] if image_id is not None else self._ending(text) for text, image_id in direct.items()}

    def _under_root(self, path: str) -> str | None:
        if self._root is None:
            return None
        plain, real = self._roots
        folder, name = posixpath.split(os.path.abspath(path))  # noqa: PTH100 - links are resolved below
        for root, full in ((plain, f"{folder}/{name}"), (real, f"{self._real(folder)}/{name}")):
            if full.startswith(f"{root}/"):
                return self._by_path.get(full.removeprefix(f"{root}/"))
        parts = path.split("/")
        tails = ("/".join(parts[at + 1 :]) for at, part in enumerate(parts) if part == posixpath.basename(plain))
        return next((self._by_path[tail] for tail in tails if tail in self._by_path), None)

    @cached_property
    def _roots(self) -> tuple[str, str]:
        """The root as an absolute path, without and with links resolved."""
        root = str(self._root)
        return os.path.abspath(root).rstrip("/"), os.path.realpath(root).rstrip("/")  # noqa: PTH100

    def _real(self, folder: str) -> str:
        """Return a folder with links resolved; each folder is resolved once."""
        if folder not in self._resolved:
            try:
                self._resolved[folder] = os.path.realpath(folder)
            except ValueError:  # no name that a folder can have
                self._resolved[folder] = folder
        return self._resolved[folder]

    def _ending(self, text: str) -> list[str]:
        names = (self._endings.get(_slashed(name), []) for name in spellings(text))
        return next((ids for ids in names if ids), [])

    @cached_property
    def _endings(self) -> Mapping[str, list[str]]:
        """Every end of a path, with and without the extension -> the ids of the images with such paths."""
        endings: dict[str, list[str]] = defaultdict(list)
        for path, image_id in self._by_path.items():
            parts = path.split("/")
            tails = {"/".join(parts[at:]) for at in range(len(parts))}
            for name in tails | {PurePosixPath(tail).with_suffix("").as_posix() for tail in tails}:
                endings[name].append(image_id)
        return endings


def _slashed(text: str) -> str:
    """Return ``text`` as a path with forward slashes and without ``./``."""
    path = posixpath.normpath(text.strip().replace("\\", "/"))
    return re.sub(r"^//+", "/", path)
