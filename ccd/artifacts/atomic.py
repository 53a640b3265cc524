"""Whole files or none: an artifact is written beside its place, flushed to disk, and renamed into it.

What a killed process left beside it (``.NAME.PID.tmp``) the next run removes.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ccd.errors import CcdError

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/(self|thread-self|\d+)/fd/\d+")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` if the block succeeds and vanishes if not.

    Into a stream (see `is_stream`), which must not be replaced, the content is written instead.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    if is_stream(path):
        with _written_into(path) as temporary:
            yield temporary
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == temporary:
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # a read-only file system refuses to delete even what is not there
            temporary.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether ``path`` takes bytes without keeping them: a device, a pipe, a socket, or a descriptor such as
    ``/dev/stdout``. There is nothing in it to lose, and renaming a file to its name would destroy it."""
    if _DESCRIPTOR.fullmatch(os.path.abspath(path)):  # noqa: PTH100 - resolving would follow it to a file
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _written_into(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        yield temporary
        with temporary.open("rb") as source, path.open("ab") as target:  # to append leaves a redirected stdout whole
            shutil.copyfileobj(source, target)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left in ``folder`` of a file called ``name`` (None: of any)."""
    for leftover in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        process = leftover.name.rsplit(".", 2)[1]
        if process.isdecimal() and not _is_running(int(process)):
            leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs, and is somebody else's
    return True


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def unreadable(path: Path, reason: str, stage: str) -> CcdError:
    """The error for an artifact that is missing, damaged or of another version."""
    return CcdError(f"{path}: {reason}; rebuild it with: dvc repro -f -s {stage}")
