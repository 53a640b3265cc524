"""Checks that keep existing files from being replaced without ``--force``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from ccd.artifacts.files import is_stream
from ccd.errors import CcdError, listed


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse to write where a file exists, unless ``force``; streams pass, since they hold nothing.

    Raises:
        CcdError: some of ``paths`` exist; they are named, and so is ``--force``.
    """
    existing = [path for path in paths if (path.exists() or path.is_symlink()) and not is_stream(path)]
    if existing and not force:
        pronoun = "it" if len(existing) == 1 else "them"
        raise CcdError(f"already there: {listed(existing)}; choose another name, or replace {pronoun} with --force")


def refuse_folders(paths: Iterable[Path]) -> None:
    """Refuse to write a file where a folder is. Raises CcdError, which names the folders."""
    folders = [path for path in paths if path.is_dir()]
    if folders:
        raise CcdError(f"{listed(folders)}: a folder, where a file is to be written; choose another name")


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input of the same command, under whatever name; ``--force`` does not help.

    Raises:
        CcdError: an output is one of ``inputs``; it is named.
    """
    written = {identity: path for path in outputs if (identity := _identity(path)) is not None}
    if not written:  # saves a look at many inputs
        return
    clash = [written[identity] for path in inputs if (identity := _identity(path)) in written]
    if clash:
        raise CcdError(f"{listed(clash)}: the command reads this and would overwrite it; choose another name")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of ``path``; None if nothing exists there, or a stream."""
    if is_stream(path):
        return None
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def keep_old(path: Path) -> Path | None:
    """Copy a file that is about to be replaced to ``NAME.bak``, ``NAME.2.bak``, ... beside it.

    Returns:
        The copy, which may be an earlier one with the same content; None if there is no file to keep.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    for number in count(1):
        copy = path.with_name(f"{path.name}.bak" if number == 1 else f"{path.name}.{number}.bak")
        if not copy.exists():
            shutil.copy2(path, copy)
            return copy
        if copy.is_file() and copy.read_bytes() == content:
            return copy
    raise AssertionError("count() does not end")
