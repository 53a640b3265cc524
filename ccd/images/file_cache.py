"""The local cache of files that were fetched: whole files as they are, under the digests of their content."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.files import remove_leftovers, write_cached
from ccd.artifacts.sealed import short_digest

CACHE_FOLDER = Path(".ccd/cache")
_DIGEST_BYTES = 16
_UNREAD_S = 24 * 3600.0
_TOUCHED_S = 3600.0
_used: dict[Path, list[int]] = {}  # folder of a cache -> bytes at the last count, bytes written since
_counting = threading.Lock()


@dataclass(frozen=True)
class FileCache:
    """Fetched files in ``folder``, about ``limit_bytes`` in all; 0 adds none. Each begins with its version's digest and
    its content's, so that a damaged one counts as absent.

    A full cache keeps what it has, so that passes over a larger set find that part every time; what nobody read for a
    day makes room for new files, the oldest first.
    """

    limit_bytes: int = 0
    folder: Path = CACHE_FOLDER

    def get(self, name: str, size: int | None, digest: str) -> bytes | None:
        """Return a file with this ``digest``, of its version or its content, or any of that size for ""."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            if time.time() - path.stat().st_mtime > _TOUCHED_S:
                os.utime(path)
        except OSError:
            return None
        version = data[:_DIGEST_BYTES].hex()
        content = data[2 * _DIGEST_BYTES :]
        own = short_digest(content)
        is_whole = own == data[_DIGEST_BYTES : 2 * _DIGEST_BYTES].hex() and size in (None, len(content))
        return content if is_whole and digest in ("", own, version) else None

    def put(self, name: str, digest: str, content: bytes) -> None:
        """Keep a file of version or content ``digest``, whole or not at all. A full disk is no error here."""
        with suppress(OSError):  # the folder cannot be listed
            if self.limit_bytes and self._has_room(len(content)):
                own = short_digest(content)
                write_cached(self._path(name), bytes.fromhex((digest or own) + own) + content)

    def _path(self, name: str) -> Path:
        key = short_digest(name.encode("utf-8", "surrogateescape"))
        return self.folder / key[:2] / key

    def _has_room(self, size: int) -> bool:
        """Count the files again after every 5 % of the limit, since other processes add and delete too."""
        with _counting:
            used = _used.setdefault(self.folder.absolute(), [0, self.limit_bytes])
            if used[1] + size > self.limit_bytes / 20:
                used[:] = [self._prune(self.limit_bytes - size), 0]
            if used[0] + used[1] + size > self.limit_bytes:
                return False
            used[1] += size
            return True

    def _prune(self, limit_bytes: int) -> int:
        """Delete what nobody read for a day, the oldest first, until the rest is within the limit; return its bytes."""
        files = []
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            remove_leftovers(folder)
            for path in folder.iterdir():
                with suppress(FileNotFoundError):  # another process prunes too
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for used_s, size, path in sorted(files):
            if total <= limit_bytes or time.time() - used_s < _UNREAD_S:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total
