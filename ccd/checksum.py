"""SHA-256 of files: of weights as parameters state it, of checkpoints as exports name it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from ccd.errors import CcdError
from ccd.sniff import not_weights


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """The same of an open file, from where it stands to its end."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str | None, key: str) -> None:
    """Raises CcdError unless the file has the ``expected`` SHA-256 that parameter ``key`` states (None: anything)."""
    if expected is None:
        return
    if not Path(path).is_file():
        raise CcdError(f"{key} is set, but {path} is no local file; correct the path, or leave {key} empty")
    found = sha256_of(Path(path))
    if found != expected:
        other = not_weights(Path(path))
        because = "not the same weights" if other is None else f"the file is {other}"
        raise CcdError(f"{path} has SHA-256 {found}, but {key} says {expected}: {because}")
