"""Sealed files: a checksum over every byte of an artifact, kept inside it; JSON, Parquet and HDF5 under a schema.

Parquet's page checksums and HDF5's fletcher32 cover values, but not the footers, headers and attributes around them.
A seal covers every byte: the text ``ccd-seal:`` and 32 zeros are written into the file's metadata, and the zeros are
then replaced by the BLAKE2b-128 of the file as it was with them. Any reader of the format can still read the file. It
is checked before the file is given to a parser, so that no parser sees damaged bytes. It proves that nothing changed
by accident; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccd.artifacts.files import Sink, delayed_interrupts, replacing, unreadable
from ccd.errors import CcdError, is_refusal

KEY = "seal"
_MARK = b"ccd-seal:"
_ZEROS = b"0" * 32
BLANK = (_MARK + _ZEROS).decode()
_BLOCK = 1 << 22
_SETTLED_S = 2.0  # a file that is younger could be written to again within the resolution of its times
_verified: set[tuple[int, ...]] = set()  # states of files whose seals this process has checked


def stamp(path: Path) -> None:
    """Seal a file that holds `BLANK` once. Raises CcdError if the file holds that text elsewhere too."""
    with path.open("r+b") as file:
        start = _find(file, 0) + len(_MARK)
        file.seek(start)
        if file.read(len(_ZEROS)) != _ZEROS or _find(file, start) >= 0:
            raise CcdError(f"{path}: the text {_MARK.decode()!r} is reserved, and no name may hold it; rename it")
        digest = _digest(file, start)
        file.seek(start)
        file.write(digest)


@contextmanager
def damage_named(path: Path, stage: str | None, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of ``kinds`` in the block into the CcdError that names ``path`` and the ``stage`` to rerun.

    What the machine refuses (`is_refusal`) is no damage, and passes as it is.
    """
    try:
        yield
    except kinds as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None


def check_schema(path: Path, found: object, expected: str, stage: str | None) -> None:
    """Raise CcdError unless the schema found in ``path`` is the expected one."""
    if found != expected:
        raise unreadable(path, f"its schema is {found!r}, expected {expected!r}", stage)


def verify(path: Path, stage: str | None) -> None:
    """Raise CcdError, naming the ``stage`` to rerun, unless the file is byte for byte as it was sealed.

    A process reads the file once for it, and again once it was written to or replaced.
    """
    with damage_named(path, stage, OSError), path.open("rb") as file:
        status = os.fstat(file.fileno())
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if state in _verified:
            return
        start = _find(file, 0) + len(_MARK)
        if start < len(_MARK):
            empty = file.seek(0, os.SEEK_END) == 0
            lost = "it has no seal: damaged, or written by another program or version"
            raise unreadable(path, "it is empty" if empty else lost, stage)
        file.seek(start)
        if file.read(len(_ZEROS)) != _digest(file, start):
            raise unreadable(path, "its content is not what was written: damaged or edited", stage)
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S:
        _verified.add(state)


def _find(file: BinaryIO, start: int) -> int:
    """Return the position of the first mark at or behind ``start``, or -1."""
    file.seek(start)
    tail = b""
    at = start
    while block := file.read(_BLOCK):
        position = (tail + block).find(_MARK)
        if position >= 0:
            return at - len(tail) + position
        at += len(block)
        tail = (tail + block)[-len(_MARK) + 1 :]
    return -1


def _digest(file: BinaryIO, start: int) -> bytes:
    """Hash the content with zeros in place of the seal, in blocks, since a mapped file would count as memory in use."""
    digest = hashlib.blake2b(digest_size=16)
    file.seek(0)
    left = start
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    file.seek(start + len(_ZEROS))
    digest.update(_ZEROS)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def write_sealed(path: Path, schema: str, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    with replacing(path) as temporary:
        text = json.dumps({"schema": schema, KEY: BLANK, **content}, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        stamp(temporary)


def read_sealed(path: Path, schema: str, stage: str) -> dict[str, Any]:
    """Read the JSON that ``stage`` wrote. Raises CcdError if it is missing, changed, or of another schema."""
    verify(path, stage)
    with damage_named(path, stage, OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
    check_schema(path, content.get("schema") if isinstance(content, dict) else None, schema, stage)
    return content  # type: ignore[no-any-return]


def schema(name: str, fields: list[tuple[str, pa.DataType, bool, str]]) -> pa.Schema:
    """Build a schema from (name, type, nullable, doc) rows; ``name`` (e.g. ``ccd.boxes/1``) is kept in the file."""
    columns = [pa.field(column, kind, nullable, {"doc": doc}) for column, kind, nullable, doc in fields]
    return pa.schema(columns, metadata={"schema": name})


def file_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return the key-value pairs of a file that describe its content."""
    pairs = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return {key: value for key, value in pairs.items() if key not in ("ARROW:schema", KEY)}


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], declared: pa.Schema, metadata: dict[str, str]) -> None:
    """Write record batches, each a row group, under ``declared``; see `writing_parquet`."""
    with writing_parquet(path, declared, metadata) as write:
        for batch in batches:
            write(batch)


@contextmanager
def writing_parquet(
    path: Path, declared: pa.Schema, metadata: dict[str, str]
) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yield a function that appends a row group; the file appears at ``path`` only if the block succeeds.

    ``metadata`` is stored beside the schema's name. Pages carry checksums for any reader that verifies them; the whole
    file is sealed.
    """
    full = declared.with_metadata({**file_metadata(declared), **metadata, KEY: BLANK})
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, full, compression="zstd", write_page_checksum=True) as writer:

            def write(batch: pa.RecordBatch) -> None:
                writer.write_table(pa.Table.from_batches([batch.cast(full)]), row_group_size=max(1, batch.num_rows))

            yield write
        stamp(temporary)


def open_parquet(path: Path, declared: pa.Schema, stage: str) -> pq.ParquetFile:
    """Open a file that ``stage`` wrote; its schema name and columns must be the declared ones.

    Raises:
        CcdError: it is missing, damaged, or written under another schema.
    """
    verify(path, stage)
    with damage_named(path, stage, OSError, pa.ArrowException):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    expected = (declared.metadata or {})[b"schema"].decode()
    actual = (file.schema_arrow.metadata or {}).get(b"schema", b"none").decode()
    if actual != expected or not file.schema_arrow.equals(declared):
        file.close()
        raise unreadable(path, f"its schema is {actual!r}, expected {expected!r}", stage)
    return file


def rows_with(file: pq.ParquetFile, column: str, text: str) -> pa.Table:
    """Return the rows with ``text`` in a column of strings, from the row groups whose range of values holds it."""
    place = file.schema_arrow.get_field_index(column)
    ranges = [file.metadata.row_group(group).column(place).statistics for group in range(file.num_row_groups)]
    may_hold = [each is None or not each.has_min_max or each.min <= text <= each.max for each in ranges]
    table = file.read_row_groups(np.flatnonzero(may_hold).tolist(), use_threads=False)
    return table.filter(pc.equal(table[column], text))


def read_parquet(
    path: Path, declared: pa.Schema, stage: str, columns: list[str] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """Read the table, or some of its columns, and its metadata; see `open_parquet` for the errors."""
    with open_parquet(path, declared, stage) as file:
        with damage_named(path, stage, OSError, pa.ArrowException):
            table = file.read(columns, use_threads=False)  # each thread would keep freed memory
        return table, file_metadata(file.schema_arrow)


@contextmanager
def creating(
    path: Path, schema: str, attributes: Mapping[str, str | float]
) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create an HDF5 file under ``schema``; it appears at ``path``, sealed, only if the block succeeds.

    Yields:
        The file, and a function that raises OSError once a write has failed. It is called at the end in any case; a
        long block calls it now and then, to stop early.
    """
    with replacing(path) as temporary:
        with Sink(temporary, "w+b") as sink:
            file = None
            try:
                with delayed_interrupts():
                    file = h5py.File(sink, "w", track_order=False)
                    for key, value in sorted({"schema": schema, KEY: BLANK, **attributes}.items()):
                        file.attrs[key] = value
                yield file, sink.check
            finally:
                try:
                    _close(file)
                finally:
                    _close(file)  # an interrupt may have come before the first one delayed it
                    sink.check()  # names the cause of an error that HDF5 raised
        stamp(temporary)


def _close(file: h5py.File | None) -> None:
    if file is not None:
        with delayed_interrupts():
            file.close()


@contextmanager
def reading(path: Path, schema: str, stage: str | None, *, check_seal: bool = True) -> Iterator[h5py.File]:
    """Open an HDF5 file that ``stage`` wrote under ``schema``.

    Args:
        check_seal: check the seal, which reads the whole file; the chunks' own checksums are checked in any case.

    Raises:
        CcdError: the file is missing, damaged or of another schema, or the block finds no such dataset or a wrong type.
    """
    if check_seal:
        verify(path, stage)
    with (
        damage_named(path, stage, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError),
        h5py.File(path, "r", locking=False) as file,  # files are replaced by renaming: no reader needs a lock
    ):
        check_schema(path, str(file.attrs.get("schema", "none")), schema, stage)
        if any(_is_external(file, name) for name in file):
            raise unreadable(path, "it refers to data in other files", stage)
        yield file


def _is_external(file: h5py.File, name: str) -> bool:
    """Tell whether a dataset refers to other files, which HDF5 would read; no artifact does."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return True
    dataset = file[name]
    return not isinstance(dataset, h5py.Dataset) or dataset.external is not None or bool(dataset.is_virtual)


def attributes_of(file: h5py.File) -> dict[str, str]:
    """Return the attributes that describe the content."""
    return {key: str(value) for key, value in file.attrs.items() if key not in ("schema", KEY)}


def write_strings(file: h5py.File, name: str, values: Sequence[str]) -> None:
    """Write strings of fixed width (UTF-8, padded), since HDF5 has no checksums for strings of variable width."""
    encoded = [value.encode("utf-8") for value in values]
    kind = h5py.string_dtype("utf-8", max([1, *map(len, encoded)]))
    write_array(file, name, np.asarray(encoded, kind), kind)


def write_array(file: h5py.File, name: str, values: np.ndarray, kind: object) -> None:
    """Write a dataset in one chunk, with a checksum."""
    chunks = tuple(max(1, side) for side in values.shape)
    limits = tuple(None if side == 0 else side for side in values.shape)
    with delayed_interrupts():
        file.create_dataset(name, data=values, dtype=kind, chunks=chunks, maxshape=limits, fletcher32=True)


def short_digest(content: bytes) -> str:
    """Return the BLAKE2b-128 of ``content``, hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
