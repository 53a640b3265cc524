"""What the user names on the command line becomes a list of image files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccd.datasets.image_search import FOLDER, by_frequency, left_out_line, search
from ccd.errors import CcdError, listed

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
    matches, unreadable = _matches(word), _unreadable(word)
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
