"""HDF5 artifacts: attributes with a schema, datasets with fletcher32 checksums, and a seal over the whole file."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from ccd.artifacts.seal import BLANK, KEY, stamp, verify
from ccd.artifacts.files import Sink, delayed_interrupts, replacing, unreadable
from ccd.artifacts.ids import Names
from ccd.errors import is_refusal


@contextmanager
def creating(
    path: Path, schema: str, attributes: Mapping[str, str | float]
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new file under ``schema``; it appears at ``path``, sealed, only when the block ends well.

    Yields:
        The file, and a function that raises OSError once the disk has refused a write. It is called at the end in any
        case; a long block calls it on its way, to stop early.
    """
    with replacing(path) as temporary:
        with Sink(temporary, "w+b") as sink:
            try:
                with delayed_interrupts():
                    file = h5py.File(sink, "w", track_order=False)
                    for key, value in sorted({"schema": schema, KEY: BLANK, **attributes}.items()):
                        file.attrs[key] = value
                try:
                    yield file, sink.check
                finally:
                    with delayed_interrupts():
                        file.close()
            finally:
                sink.check()  # explains whatever HDF5 made of it
        stamp(temporary)


@contextmanager
def reading(path: Path, schema: str, stage: str, *, whole: bool = True) -> Iterator[h5py.File]:
    """Open a file that ``stage`` wrote under ``schema``.

    Args:
        whole: check the seal, which reads the whole file; the chunks' own checksums are checked in any case.

    Raises:
        CcdError: missing, damaged, of another schema, or the block meets something that is not there or does not fit.
    """
    if whole:
        verify(path, stage)
    try:
        with h5py.File(path, "r", locking=False) as file:  # files are replaced by renaming: no reader needs a lock
            found = str(file.attrs.get("schema", "none"))
            if found != schema:
                raise unreadable(path, f"its schema is {found!r}, expected {schema!r}", stage)
            if any(_lies_elsewhere(file, name) for name in file):
                raise unreadable(path, "it refers to data in other files", stage)
            yield file
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None


def _lies_elsewhere(file: h5py.File, name: str) -> bool:
    """HDF5 can fetch values from any file that its reader may read; no artifact does."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return True
    dataset = file[name]
    return not isinstance(dataset, h5py.Dataset) or dataset.external is not None or bool(dataset.is_virtual)


def attributes_of(file: h5py.File) -> dict[str, str]:
    """The attributes that say something of the content."""
    return {key: str(value) for key, value in file.attrs.items() if key not in ("schema", KEY)}


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Strings of fixed width (UTF-8, padded), since HDF5 gives strings of variable width no checksum."""
    encoded = [value.encode("utf-8") for value in values]
    kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
    write_array(file, name, np.asarray(encoded, kind), kind)


def write_array(file: h5py.File, name: str, values: np.ndarray, kind: object) -> None:
    """A dataset in one chunk, with a checksum."""
    chunks = tuple(max(1, side) for side in values.shape)
    limits = tuple(None if side == 0 else side for side in values.shape)
    with delayed_interrupts():
        file.create_dataset(name, data=values, dtype=kind, chunks=chunks, maxshape=limits, fletcher32=True)


def read_strings(file: h5py.File, name: str) -> Names:
    """Raises KeyError, TypeError or ValueError if there is no such dataset of strings; see `reading`."""
    if h5py.check_string_dtype(file[name].dtype) is None:
        raise TypeError(f"{name} holds no strings")
    return Names(pa.array(file[name][...], pa.binary()))
