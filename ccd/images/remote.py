"""Reads files behind URLs and images inside Parquet: with retries, checked against the index, from a bounded cache.

A URL travels as a `Path`, which keeps one of its two slashes: `url_of` puts the other back. Where bytes come from
cannot change a result, since they are compared with the index.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ccd.artifacts.image_index import Version
from ccd.artifacts.sealed import short_digest
from ccd.errors import EXTRAS, URLS, CcdError, http_status, install_advice, redacted, url_of
from ccd.images.file_cache import FileCache

TABLES = (".csv", ".tsv", ".parquet")
THREADS = 16  # files that one process fetches at a time
TRIES = 5
WAIT_S = 0.5  # before the second try; doubled for each further one
TIMEOUT_S = 60.0
_BYTES_PER_S = 1e5  # a slower line is taken for a dead one
_ROW = re.compile(r"(.+\.parquet)#(\d+)", re.S)
_FINAL = {401, 403, 404, 405, 410, 414, 451}  # not 400, which aiohttp states for a body that ends too early
T = TypeVar("T")
_signed: dict[str, str] = {}  # a URL without its signature -> with it; in memory alone
_reading = threading.Lock()  # of Parquet: threads that want rows of one group read it once


class UnreachableError(CcdError):
    """No file's fault: the network fails, access is denied, or a package is missing. The next file would fail too."""


def name_of(path: Path) -> str:
    """Return how a file is called in tables and messages: its URL, or its path with forward slashes."""
    return url_of(path) or path.as_posix()


def is_remote(path: Path) -> bool:
    """Tell whether a path is a URL or a row of a Parquet file (``FILE.parquet#ROW``), which `read` reads."""
    return url_of(path) is not None or _ROW.fullmatch(str(path)) is not None


def is_table(root: Path | str) -> bool:
    """Tell by its ending whether a data set's root is a manifest or Parquet, and no folder."""
    return str(root).lower().endswith(TABLES) and (url_of(root) is not None or not Path(root).is_dir())


def public(url: str) -> str:
    """Return a URL without password and signature, and remember in memory how to open it."""
    bare = redacted(url, "")
    if bare != url:
        _signed[bare] = url
    return bare


def signed() -> Mapping[str, str]:
    """Return what `public` remembers, for another process; see `remember`."""
    return dict(_signed)


def remember(urls: Mapping[str, str]) -> None:
    """Take over what another process remembers."""
    _signed.update(urls)


def located(root: Path | str, name: str) -> Path:
    """Return where image ``name`` of the index lies: a URL by itself, else below the root, or beside a manifest."""
    if url_of(name) is not None:
        if is_table(root):
            _remember_manifest(str(root))
        return Path(name)
    return Path(root).parent / name if is_table(root) else Path(root) / name


@dataclass(frozen=True)
class Located(Sequence[Path]):
    """The `located` paths of images; made on access, since a million Path objects take a few hundred MB."""

    root: str
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: Any) -> Any:
        return located(self.root, self.names[row])


@lru_cache(maxsize=2)
def _remember_manifest(root: str) -> None:
    """Find the signed URLs of a manifest: the index has them without their signatures."""
    content = read(Path(root), FileCache())
    if root.lower().endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(content))
        texts = [column.to_pylist() for column in table.columns if pa.types.is_string(column.type)]
        text = "\n".join(str(cell) for column in texts for cell in column)
        delimiter = "\n"
    else:
        text = content.decode("utf-8", "ignore")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
    for found in URLS.finditer(text):
        is_quoted = text[found.start() - 1 : found.start()] == '"'
        public(found[0] if is_quoted else found[0].partition(delimiter)[0])


def version_of(url: str) -> Version:
    """Ask for a file's version. Raises CcdError if it is missing or cannot be reached."""
    return Version.stated(attempt(url, lambda system, path: system.info(path)))


def read(path: Path, cache: FileCache, size: int | None = None, digest: str = "") -> bytes:
    """Read a file behind a URL, or an image inside Parquet, through the cache.

    Args:
        size: bytes it must have; None: any.
        digest: BLAKE2b-128 (hex) of its content, or of its `Version`, that it must have; "": any.

    Raises:
        CcdError: it is missing, or another than it was; `UnreachableError`.
    """
    name = name_of(path)
    content = cache.get(name, size, digest)
    if content is not None:
        return content
    row = _ROW.fullmatch(name)
    content = fetch(name, size) if row is None else _embedded(row[1], int(row[2]), cache)
    if size not in (None, len(content)):
        raise CcdError(_changed(name, f"{len(content)} bytes, but {size} when indexed"))
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    is_same = digest in ("", short_digest(content), Version(len(content), md5).digest(name))
    if not is_same and (row is not None or version_of(name).digest(name) != digest):  # an ETag may be no MD5
        raise CcdError(_changed(name, "another content than when indexed"))
    if row is None:
        cache.put(name, digest, content)
    return content


def _changed(name: str, how: str) -> str:
    return f"{name}: {how}: the file changed since index; run `dvc repro -f -s index` and then `dvc repro`"


def fetch(url: str, size: int | None = None, end: int | None = None) -> bytes:
    """Fetch a file of ``size`` bytes (None: unknown), or its first ``end`` bytes.

    Raises:
        CcdError: it is missing, or ends too early each time; `UnreachableError`.
    """
    expected = 0 if size is None else min(size, end or size)

    def call(system: Any, path: str) -> bytes:
        content = _content(system, path, size, end)
        if len(content) < expected:
            raise EOFError(f"{len(content)} bytes, but {expected} when indexed")
        return content

    return b"" if size == 0 else attempt(url, call)


def _content(system: Any, path: str, size: int | None, end: int | None) -> bytes:
    """Read with one request. Of S3, a range that is one byte too long tells that a file grew, without asking first."""
    if end is None and size is not None and size > 0 and "s3" in system.protocol:
        end = size + 1
    options: dict[str, Any] = {} if end is None else {"start": 0, "end": end}
    if getattr(system, "async_impl", False):
        options["timeout"] = TIMEOUT_S + (end or size or 0) / _BYTES_PER_S
    return bytes(system.cat_file(path, **options))


def attempt(url: str, call: Callable[[Any, str], T]) -> T:
    """Call ``call(file system, path in it)``; repeat what may pass, such as a 503 or a timeout, up to `TRIES` times.

    Raises:
        CcdError: the file is missing; `UnreachableError`.
    """
    for turn in range(TRIES):
        if turn:  # processes must not come back all at once
            time.sleep(WAIT_S * 2 ** (turn - 1) * random.uniform(0.75, 1.25))
        try:
            system, path = _file_system(url)
            return call(system, path)
        except (CcdError, MemoryError):
            raise
        except Exception as error:  # each file system raises errors of its own libraries
            status = http_status(error)
            lasts = status in _FINAL or _is_denied(error) or (status is None and isinstance(error, FileNotFoundError))
            if lasts or turn + 1 == TRIES:
                raise _explained(url, error, status) from None
    raise AssertionError("unreachable")


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or "Credentials" in type(error).__name__


def _file_system(url: str) -> tuple[Any, str]:
    """Open the file system of a URL, once a process; credentials are its own business."""
    import fsspec.core

    try:
        # Without a cache of listings: a changed file must be noticed.
        as_signed = {"encoded": True} if url.startswith("http") and url in _signed else {}  # not quoted anew
        system, path = fsspec.core.url_to_fs(_signed.get(url, url), use_listings_cache=False, **as_signed)
    except ImportError:
        scheme = url.partition(":")[0]
        raise UnreachableError(
            f"{redacted(url)}: reading {scheme}:// needs a package: {install_advice(EXTRAS[scheme])}"
        ) from None
    if hasattr(system, "retries"):
        system.retries = 1  # s3fs would multiply its own tries with ours
    return system, path


def _explained(url: str, error: Exception, status: int | None) -> CcdError:
    name = redacted(url)
    if isinstance(error, EOFError):
        return CcdError(_changed(name, str(error)))
    reason = redacted(" ".join(str(error).split()))[:300] or type(error).__name__
    if status in (401, 403) or _is_denied(error):
        # One of many web pages may be closed; a bucket is closed as a whole.
        return (CcdError if name.startswith("http") else UnreachableError)(
            f"{name}: access denied ({reason}); renew the token or the credentials that fsspec reads from the "
            "environment or its configuration (docs/remote_images.md), and run it again"
        )
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return CcdError(f"{name}: not found; correct dataset.root if it moved, else run `dvc repro -f -s index`")
    if status in _FINAL:
        return CcdError(f"{name}: the server refuses it ({reason}); correct the URL")
    return UnreachableError(
        f"{name}: no whole answer in {TRIES} tries ({type(error).__name__}: {reason}); look at the network and the "
        "server, and run it again: what was fetched is kept"
    )


@lru_cache(maxsize=4)
def open_parquet(file: str, process: int) -> Any:
    """Open a Parquet file, local or behind a URL, in ``process``, the calling one. Raises CcdError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if url_of(file) is None:
            return pq.ParquetFile(file)
        return attempt(file, lambda system, path: pq.ParquetFile(system.open(path, "rb"), pre_buffer=True))
    except (OSError, pa.ArrowInvalid) as error:
        raise CcdError(f"{redacted(file)}: cannot be read as Parquet ({error}); fetch it again or remove it") from None


def image_column(parquet: Any) -> str:
    """Return the first column of images, structs with ``bytes``, as Hugging Face data sets have them; "": none."""
    import pyarrow as pa

    fields = [field for field in parquet.schema_arrow if pa.types.is_struct(field.type)]
    names = [field.name for field in fields if "bytes" in [part.name for part in field.type]]
    return min(names, key=lambda name: name != "image", default="")


def _embedded(file: str, row: int, cache: FileCache) -> bytes:
    """Return the image of a row. The images of its row group, which are read together, go into the cache."""
    with _reading:
        metadata = open_parquet(file, os.getpid()).metadata
        ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        group = int(np.searchsorted(ends, row, side="right"))
        if group == len(ends):
            raise CcdError(_changed(f"{file}#{row}", f"{metadata.num_rows} rows"))
        first = int(ends[group]) - metadata.row_group(group).num_rows
        content: bytes | None = _row_group(file, group, first, cache, os.getpid())[row - first]
    if content is None:
        raise CcdError(f"{file}#{row}: the row holds no bytes of an image; remove it")
    return content


@lru_cache(maxsize=2)
def _row_group(file: str, group: int, first: int, cache: FileCache, process: int) -> list[bytes | None]:
    column = image_column(parquet := open_parquet(file, process))

    def values(*_: object) -> list[bytes | None]:
        table = parquet.read_row_group(group, [f"{column}.bytes"])
        contents: list[bytes | None] = table[column].combine_chunks().field("bytes").to_pylist()
        return contents

    contents = values() if url_of(file) is None else attempt(file, values)
    for row, content in enumerate(contents, first):
        if content is not None:
            cache.put(f"{file}#{row}", "", content)
    return contents
