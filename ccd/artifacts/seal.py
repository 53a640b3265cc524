"""A checksum over the whole of an artifact, kept inside it.

Parquet's page checksums and HDF5's fletcher32 cover values, but not the footers, headers and attributes around them.
A seal covers every byte: the text ``ccd-seal:`` and 32 zeros are written into the file's metadata, and the zeros are
then replaced by the BLAKE2b-128 of the file as it was with them. Any reader of the format can still read the file. It
is checked before the file is given to a parser, so that no parser sees damaged bytes. It proves that nothing changed
by accident; it is no signature, and whoever wants to forge one can.
"""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

from ccd.artifacts.atomic import unreadable
from ccd.errors import CcdError
from ccd.machine import ran_out

KEY = "seal"
_MARK = b"ccd-seal:"
_ZEROS = b"0" * 32
BLANK = (_MARK + _ZEROS).decode()


def stamp(path: Path) -> None:
    """Seal a file that holds `BLANK` once. Raises CcdError if its text occurs elsewhere in the file too."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        start = content.find(_MARK) + len(_MARK)
        if content[start : start + len(_ZEROS)] != _ZEROS or content.find(_MARK, start) >= 0:
            raise CcdError(f"{path}: the text {_MARK.decode()!r} is reserved, and no name may hold it; rename it")
        content[start : start + len(_ZEROS)] = _digest(content, start)


def verify(path: Path, stage: str) -> None:
    """Raises CcdError, naming the ``stage`` to rerun, unless the file is byte for byte as it was sealed."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.find(_MARK) + len(_MARK)
            if start < len(_MARK):
                raise unreadable(path, "it has no seal: damaged, or written by another program or version", stage)
            if content[start : start + len(_ZEROS)] != _digest(content, start):
                raise unreadable(path, "its content is not what was written: damaged or edited", stage)
    except OSError as error:
        if ran_out(error):
            raise
        raise unreadable(path, error.strerror or str(error), stage) from None
    except ValueError:  # an empty file has no map
        raise unreadable(path, "it is empty", stage) from None


def _digest(content: mmap.mmap, start: int) -> bytes:
    """Of the content with zeros in place of the seal."""
    digest = hashlib.blake2b(digest_size=16)
    with memoryview(content) as view:
        digest.update(view[:start])
        digest.update(_ZEROS)
        digest.update(view[start + len(_ZEROS) :])
    return digest.hexdigest().encode()
