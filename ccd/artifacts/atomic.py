"""Whole files or none: an artifact is written beside its place, flushed to disk, and renamed into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ccd.errors import CcdError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` if the block succeeds and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def unreadable(path: Path, reason: str, stage: str) -> CcdError:
    """The error for an artifact that is missing, damaged or of another version."""
    return CcdError(f"{path}: {reason}; rebuild it with: dvc repro -f -s {stage}")
