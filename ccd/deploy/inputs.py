"""What the user names on the command line becomes a list of image files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from ccd.datasets.folder import find_images
from ccd.errors import CcdError, listed

STDIN = "-"


def expand(words: Sequence[str], lines: Iterable[str]) -> list[Path]:
    """Files in the order named, each once.

    Args:
        words: files, folders (all images in them and below, sorted), patterns (``**`` goes into folders), or ``-``.
        lines: file names, one per line, that stand for ``-``; these need not exist, so that a stale list is worked
            through and its missing files are reported like damaged ones.

    Raises:
        CcdError: a word that is neither a file nor a folder and matches nothing, or no image at all.
    """
    found: dict[Path, None] = {}
    missing = []
    for word in words:
        paths = [Path(name) for name in _stripped(lines)] if word == STDIN else _named(word)
        if paths is None:
            missing.append(word)
        found.update(dict.fromkeys(paths or []))
    if missing:
        raise CcdError(f"no such file, folder or match: {listed(missing)}; correct it, or quote a pattern")
    if not found:
        raise CcdError(f"no images in {listed(words)}")
    return list(found)


def _named(word: str) -> list[Path] | None:
    path = Path(word)
    if path.is_dir():
        return [path / name for name in find_images(path)]
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207 - absolute patterns too
    return [match for match in matches if match.is_file()] or None


def _stripped(lines: Iterable[str]) -> list[str]:
    return [name for line in lines if (name := line.rstrip("\r\n"))]
