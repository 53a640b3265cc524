"""Work that outlives a stage: features are not computed twice, and a killed training goes on from its last epoch.

The store is a folder beside the pipeline, ignored by git and DVC. An entry is named by the fingerprint of all that
decides its content (model, preprocessing, parameters, inputs, code, library versions), so nothing in it is ever stale,
and deleting any of it costs time alone.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from ccd.artifacts.files import remove_leftovers, replacing, writer_token
from ccd.params.file import load
from ccd.params.sections import RuntimeParams
from ccd.runtime import launch
from ccd.runtime.console import library_versions

FOLDER = Path(".ccd/store")
KEY_BYTES = 16
_ROWS_PER_CHUNK = 1024
_SECONDS_PER_CHUNK = 20.0

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ccd", "stages")
NO_EFFECT = frozenset(
    f"ccd/{name}.py"
    for name in (
        *("__init__", "errors", "images/file_cache", "images/remote", "params/file", "params/sections"),
        *("runtime/console", "runtime/launch", "runtime/memory"),
    )
)
"""Files that cannot change what a stage writes, nor can what only they import: what it says, where it runs, how
params.yaml is checked, since DVC follows its values, and where an image's bytes come from, since the index has their
digests. dvc.yaml names the same files."""


@lru_cache
def files_of(modules: tuple[str, ...]) -> dict[str, Path]:
    """Return name (relative, POSIX) -> path of the `closure` of the dotted ``modules``, sorted."""
    return {name: ROOT / name for name in sorted(closure(path for module in modules for path in _candidates(module)))}


def closure(scripts: Iterable[Path]) -> set[str]:
    """Return the files (relative, POSIX) that ``scripts`` reach by imports, themselves included.

    Empty files and `NO_EFFECT` are left out.
    """
    reached: set[Path] = set()
    waiting = list(scripts)
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.relative_to(ROOT).as_posix() not in NO_EFFECT:
            waiting += imported_files(path)
    return {path.relative_to(ROOT).as_posix() for path in reached if path.stat().st_size} - NO_EFFECT


@cache
def imported_files(path: Path) -> list[Path]:
    """Return the project's files that one file imports, anywhere in it. Raises ValueError for a relative import."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                raise ValueError(f"{path}: relative import")
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [file for module in modules for file in _candidates(module)]


def _candidates(module: str) -> list[Path]:
    """Return the project's files of a dotted name and of the packages above it."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return []
    prefixes = (ROOT.joinpath(*parts[: end + 1]) for end in range(len(parts)))
    options = (option for prefix in prefixes for option in (prefix.with_suffix(".py"), prefix / "__init__.py"))
    return [option for option in options if option.is_file()]


def fingerprint(kind: str, modules: Sequence[str], **facts: object) -> str:
    """Return a name for a result that ``facts``, the named modules and the installed libraries determine.

    Args:
        kind: ``features`` or ``training``; starts the name.
        modules: dotted names. Their text is part of the identity, and so is that of everything in ``ccd`` that they
            import, directly or not (`closure`), as DVC follows it.
        facts: strings, numbers, lists or dicts of such.
    """
    known = {"facts": facts, "versions": library_versions()}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, path in files_of(tuple(modules)).items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"{kind}-{digest.hexdigest()[:32]}"


def content_key(*parts: bytes) -> bytes:
    """Hash ``parts`` to `KEY_BYTES` bytes."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


@dataclass(frozen=True)
class Entry:
    """One entry of the store. ``used_s``: when it was last used, in seconds since 1970."""

    path: Path
    size_bytes: int
    used_s: float


class Store:
    """A folder of entries, together at most ``limit_bytes`` large; with 0 nothing is stored."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def features(self, name: str, keys: Sequence[bytes]) -> StoredFeatures:
        """Open the features with these content ``keys``, under the fingerprint ``name``."""
        return StoredFeatures(self._opened(name), keys)

    def slot(self, name: str) -> Slot:
        """Open the place for the state of one training."""
        return Slot(self._opened(name))

    def entries(self) -> list[Entry]:
        """List all entries, the least recently used first."""
        entries = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(FileNotFoundError):  # another process may be deleting
                entries.append(Entry(path, sum(map(_size, path.rglob("*"))), path.stat().st_mtime))
        return sorted(entries, key=lambda entry: (entry.used_s, entry.path))

    def prune(self, limit_bytes: int, keep: Path | None = None) -> list[Entry]:
        """Delete the least recently used entries until the rest is within the limit; never ``keep``. Returns those."""
        entries = self.entries()
        deleted = []
        total = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            if total <= limit_bytes:
                break
            if entry.path != keep:
                shutil.rmtree(entry.path, ignore_errors=True)
                total -= entry.size_bytes
                deleted.append(entry)
        return deleted

    def _opened(self, name: str) -> Path | None:
        if self.limit_bytes == 0:
            return None
        path = self.folder / name
        with _unless_deleted():
            path.mkdir(parents=True, exist_ok=True)
            os.utime(path)  # used now
        remove_leftovers(path)
        self.prune(self.limit_bytes, keep=path)
        return path


def open_store() -> Store:
    """Open the store of the project in the working directory, of the size that section ``runtime`` allows.

    Ranks other than 0 get a store that keeps nothing.
    """
    return Store(FOLDER, round(load(RuntimeParams).store_gb * 1e9) if launch.rank() == 0 else 0)


class StoredFeatures:
    """Features (D,) float32 by the keys of N things, kept in files of many rows.

    A chunk is whole or absent: it is written beside its place and renamed. A damaged one is deleted and counts as
    absent.
    """

    def __init__(self, folder: Path | None, keys: Sequence[bytes]) -> None:
        self._folder = folder
        self._keys = np.frombuffer(b"".join(keys), f"S{KEY_BYTES}") if keys else np.empty(0, f"S{KEY_BYTES}")
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._flushed_s = time.monotonic()

    def restore(self, write: Callable[[np.ndarray, np.ndarray], None]) -> np.ndarray:
        """Pass stored features to ``write(rows, features)`` by chunks; return the missing rows, ascending."""
        missing = np.ones(len(self._keys), bool)
        order = np.argsort(self._keys, kind="stable")
        ascending = self._keys[order]
        for path in sorted(self._folder.glob("*.npz")) if self._folder else ():
            chunk = _read_chunk(path)
            if chunk is None:
                continue
            found_keys, values = chunk
            first = np.searchsorted(ascending, found_keys, side="left")
            last = np.searchsorted(ascending, found_keys, side="right")  # images may be copies of each other
            rows = order[_ranges(first, last)]
            source = np.repeat(np.arange(len(found_keys)), last - first)
            new = missing[rows]
            if new.any():
                write(rows[new], values[source[new]])
                missing[rows] = False
        return np.flatnonzero(missing)

    def recording(self, encoded: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass (rows, features) on and keep them, about every `_SECONDS_PER_CHUNK` seconds and at the end."""
        for rows, values in encoded:
            self._waiting.append((rows, values))
            yield rows, values
            full = sum(len(rows) for rows, _ in self._waiting) >= _ROWS_PER_CHUNK
            if full or time.monotonic() - self._flushed_s > _SECONDS_PER_CHUNK:
                self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._waiting and self._folder is not None:
            rows = np.concatenate([rows for rows, _ in self._waiting])
            keys, first = np.unique(self._keys[rows], return_index=True)
            values = np.concatenate([values for _, values in self._waiting])[first]
            numbers = [int(path.name.split(".")[0]) for path in self._folder.glob("*.npz")]
            # the writer is in the name: another process, or machine, may be adding to the same entry
            path = self._folder / f"{max(numbers, default=-1) + 1:08}.{writer_token()}.npz"
            with _unless_deleted(), replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, keys=keys, features=values)
        self._waiting.clear()
        self._flushed_s = time.monotonic()


class Slot:
    """One file that is replaced as a whole, for the state of an unfinished training."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "state.pt"

    def read(self) -> bytes | None:
        """Return the state that was saved last, or None."""
        try:
            return None if self._path is None else self._path.read_bytes()
        except FileNotFoundError:
            return None

    def save(self, content: bytes | memoryview) -> None:
        """Save a state in place of the last one."""
        if self._path is not None:
            with _unless_deleted(), replacing(self._path) as temporary:
                temporary.write_bytes(content)

    def clear(self) -> None:
        """Delete the state, once its result is written."""
        if self._path is not None:
            shutil.rmtree(self._path.parent, ignore_errors=True)


def _unless_deleted() -> AbstractContextManager[None]:
    """Ignore that another process deletes an entry, which may happen at any time and costs only time.

    FileExistsError: `Path.mkdir` of a folder that goes while it is made.
    """
    return suppress(FileNotFoundError, FileExistsError)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0


def _read_chunk(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as content:  # the archive carries checksums
            return content["keys"], content["features"]
    except FileNotFoundError:  # another process has deleted it
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        path.unlink(missing_ok=True)
        return None


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """first[0] .. last[0] - 1, first[1] .. last[1] - 1, ..."""
    counts = last - first
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
