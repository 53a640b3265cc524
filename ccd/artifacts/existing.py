"""What commands do about a file that is there already: a person may have made it, so it is never replaced unasked.

The rule for every command that writes where people work: `refuse_existing` before any work begins, ``--force`` to
replace. A command whose purpose is to replace a file that people edit (``params.yaml``) keeps the old text beside it
with `keep_old`. Artifacts in ``data/`` are not meant: DVC keeps them, and people do not edit them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from ccd.errors import CcdError, listed


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse to write where something lies already, unless ``force``.

    Raises:
        CcdError: some of ``paths`` exist; they are named, and so is ``--force``.
    """
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if there and not force:
        raise CcdError(
            f"already there: {listed(there)}; choose another name, or replace {'it' if len(there) == 1 else 'them'} "
            "with --force"
        )


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
