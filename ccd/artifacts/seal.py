"""A checksum over the whole of an artifact, kept inside it.

Parquet's page checksums and HDF5's fletcher32 cover values, but not the footers, headers and attributes around them.
A seal covers every byte: the text ``ccd-seal:`` and 32 zeros are written into the file's metadata, and the zeros are
then replaced by the BLAKE2b-128 of the file as it was with them. Any reader of the format can still read the file. It
is checked before the file is given to a parser, so that no parser sees damaged bytes. It proves that nothing changed
by accident; it is no signature, and whoever wants to forge one can.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from ccd.artifacts.files import replacing, unreadable
from ccd.errors import CcdError
from ccd.errors import is_refusal

KEY = "seal"
_MARK = b"ccd-seal:"
_ZEROS = b"0" * 32
BLANK = (_MARK + _ZEROS).decode()
_BLOCK = 1 << 22


def stamp(path: Path) -> None:
    """Seal a file that holds `BLANK` once. Raises CcdError if its text occurs elsewhere in the file too."""
    with path.open("r+b") as file:
        start = _find(file, 0) + len(_MARK)
        file.seek(start)
        if file.read(len(_ZEROS)) != _ZEROS or _find(file, start) >= 0:
            raise CcdError(f"{path}: the text {_MARK.decode()!r} is reserved, and no name may hold it; rename it")
        digest = _digest(file, start)
        file.seek(start)
        file.write(digest)


def verify(path: Path, stage: str) -> None:
    """Raises CcdError, naming the ``stage`` to rerun, unless the file is byte for byte as it was sealed."""
    try:
        with path.open("rb") as file:
            start = _find(file, 0) + len(_MARK)
            if start < len(_MARK):
                empty = file.seek(0, os.SEEK_END) == 0
                lost = "it has no seal: damaged, or written by another program or version"
                raise unreadable(path, "it is empty" if empty else lost, stage)
            file.seek(start)
            if file.read(len(_ZEROS)) != _digest(file, start):
                raise unreadable(path, "its content is not what was written: damaged or edited", stage)
    except OSError as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None


def _find(file: BinaryIO, start: int) -> int:
    """Where the mark first occurs at ``start`` or behind it; -1: nowhere."""
    file.seek(start)
    tail, at = b"", start
    while block := file.read(_BLOCK):
        found = (tail + block).find(_MARK)
        if found >= 0:
            return at - len(tail) + found
        at += len(block)
        tail = (tail + block)[-len(_MARK) + 1 :]
    return -1


def _digest(file: BinaryIO, start: int) -> bytes:
    """Of the content with zeros in place of the seal. Read in blocks: a mapped file would count as memory in use."""
    digest = hashlib.blake2b(digest_size=16)
    file.seek(0)
    left = start
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            break
        digest.update(block)
        left -= len(block)
    file.seek(start + len(_ZEROS))
    digest.update(_ZEROS)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def write_sealed(path: Path, schema: str, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    head = {"schema": schema, KEY: BLANK}
    with replacing(path) as temporary:
        text = json.dumps({**head, **content}, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        stamp(temporary)


def read_sealed(path: Path, schema: str, stage: str) -> dict[str, Any]:
    """Read what ``stage`` wrote. Raises CcdError if it is missing, changed, or of another schema."""
    verify(path, stage)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise unreadable(path, f"its schema is {found!r}, expected {schema!r}", stage)
    return content  # type: ignore[no-any-return]
