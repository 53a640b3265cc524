"""Reading and writing Parquet against a declared schema, in pieces, deterministically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.seal import BLANK, KEY, stamp, verify
from ccd.artifacts.files import replacing, unreadable
from ccd.errors import is_refusal


def schema(name: str, fields: list[tuple[str, pa.DataType, bool, str]]) -> pa.Schema:
    """A schema from (name, type, nullable, doc) rows; ``name`` (e.g. ``ccd.boxes/1``) is kept in the file."""
    columns = [pa.field(column, kind, nullable, {"doc": doc}) for column, kind, nullable, doc in fields]
    return pa.schema(columns, metadata={"schema": name})


def file_metadata(schema: pa.Schema) -> dict[str, str]:
    """The key-value pairs of a file that say something of its content."""
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
    """Yield a function that appends a row group; the file appears at ``path`` only when the block ends well.

    ``metadata`` stands beside the schema's name. Pages carry checksums for any reader that verifies them; the whole
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
        CcdError: missing, damaged, or written under another schema.
    """
    verify(path, stage)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error, stage) from None
    wanted = (declared.metadata or {})[b"schema"].decode()
    found = (file.schema_arrow.metadata or {}).get(b"schema", b"none").decode()
    if found != wanted or not file.schema_arrow.equals(declared):
        file.close()
        raise unreadable(path, f"its schema is {found!r}, expected {wanted!r}", stage)
    return file


def read_parquet(
    path: Path, declared: pa.Schema, stage: str, columns: list[str] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """The table, or some of its columns, and its metadata; see `open_parquet` for the errors."""
    with open_parquet(path, declared, stage) as file:
        try:
            table = file.read(columns, use_threads=False)  # each thread would keep memory of what was freed
        except (OSError, pa.ArrowException) as error:
            if is_refusal(error):
                raise
            raise unreadable(path, error, stage) from None
        return table, file_metadata(file.schema_arrow)
