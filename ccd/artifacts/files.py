"""Writes files whole or not at all, even if the disk or Ctrl-C interferes; hashes them, and reads byte order marks."""

from __future__ import annotations

import codecs
import csv
import glob
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from ccd.errors import CcdError

ABANDONED_S = 24 * 3600.0
"""A temporary file of another machine or container counts as left over once it was not written to for so long."""
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")
_BYTE_ORDER_MARKS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WRITER = re.compile(r"(?P<system>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}")
_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/(self|thread-self|\d+)/fd/\d+")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes ``path`` if the block succeeds and is deleted otherwise.

    A stream (see `is_stream`) must not be replaced; the content is written into it.

    Raises:
        OSError: the file cannot be written; the error names ``path``.
    """
    with _written_into(path) if is_stream(path) else _replaced(path, durable=True) as temporary:
        yield temporary


@contextmanager
def _replaced(path: Path, *, durable: bool) -> Iterator[Path]:
    """See `replacing`; ``durable``: wait for the disk, so that a power cut leaves the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{writer_token()}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a read-only file system refuses to delete even what is not there
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, temporary, str(temporary), os.fsencode(temporary)):
            error.filename = str(path)
            error.filename2 = None
        raise


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of a cache, whole or not at all. A failure, as of a full disk, is no error: it can be made again."""
    with suppress(OSError), _replaced(path, durable=False) as temporary:
        temporary.write_bytes(content)


def writer_token() -> str:
    """Return a name for a file of this process that no other process on any machine uses.

    It is ``SYSTEM-PID-RANDOM``, where SYSTEM identifies the machine, its last boot and the process namespace, in which
    the process id is valid.
    """
    return f"{_system()}-{os.getpid()}-{secrets.token_hex(4)}"


@lru_cache(maxsize=1)
def _system() -> str:
    facts = [platform.node()]
    with suppress(OSError):  # only Linux has these
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.blake2b("\0".join(facts).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


def is_stream(path: Path) -> bool:
    """Tell whether ``path`` is a device, a pipe, a socket, or a descriptor such as ``/dev/stdout``.

    A stream keeps no bytes that could be lost, and renaming a file to its name would destroy it.
    """
    if _DESCRIPTOR.fullmatch(os.path.abspath(path)):  # noqa: PTH100 - resolving would follow it to a file
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _written_into(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        yield temporary
        with temporary.open("rb") as source, path.open("ab") as target:  # to append leaves a redirected stdout whole
            shutil.copyfileobj(source, target)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete temporary files of ``name`` (None: of any file) that killed processes left in ``folder``.

    A file of this system goes if its process no longer runs; one of another system, or with the name of an earlier
    version, goes once it is `ABANDONED_S` old.
    """
    for leftover in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        token = leftover.name.rsplit(".", 2)[1]
        writer = _WRITER.fullmatch(token)
        if writer is None and not token.isdecimal():
            continue  # not written by this package
        if writer is not None and writer["system"] == _system():
            is_left = not _is_running(int(writer["process"]))
        else:
            is_left = _age_s(leftover) > ABANDONED_S
        if is_left:
            leftover.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs, under another user
    return True


def split_byte_order_mark(content: bytes) -> tuple[str | None, bytes]:
    """Return the encoding that a byte order mark states (None without one), and the content behind the mark."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return encoding, content[len(mark) :]
    return None, content


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; lines end as ``text`` has them."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON; NaN is refused (``ValueError``), since JSON has no such number."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def csv_line(cells: Sequence[Any]) -> str:
    """Format one line of CSV. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # its characters are quoted in cells
    writer.writerow([neutral(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def neutral(text: str) -> str:
    """Return ``text`` with an apostrophe in front if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(FORMULA_MARKS) else text


def write_csv(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write an artifact (training curves, a table of classes) for ``dvc plots`` and spreadsheets.

    The header is the first row's keys; numbers have all digits, text is not changed.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def unreadable(path: Path, reason: str | Exception, stage: str | None) -> CcdError:
    """Return the error for an artifact of ``stage`` that is missing, damaged or of another version.

    Args:
        reason: the damage, or the exception.
        stage: the stage to rerun; None for a file that a person named, which no stage need have made.
    """
    if isinstance(reason, FileNotFoundError):
        advice = "" if stage is None else "; run: dvc repro"
        return CcdError(f"{path}: No such file{advice}")
    text = reason if isinstance(reason, str) else _text(reason)
    return CcdError(f"{path}: {text}" + ("" if stage is None else f"; rebuild it with: dvc repro -f -s {stage}"))


def _text(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def hash_of(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hash_of_rest(file, algorithm)


def hash_of_rest(file: BinaryIO, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of an open file, from its current position to its end."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM only after the block, which must be short.

    For calls of HDF5, which loses data or ends in a segmentation fault if the Python file that it writes to raises.
    Python handles signals only in the main thread; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []

    def keep(number: int, frame: FrameType | None) -> None:
        waiting.append((number, frame))

    usual: dict[int, Any] = {number: signal.signal(number, keep) for number in SIGNALS}
    try:
        yield
    finally:
        for number, action in usual.items():
            signal.signal(number, action)
        for number, frame in waiting:
            action = usual[number]
            if callable(action):
                action(number, frame)
            elif action == signal.SIG_DFL:
                signal.raise_signal(number)


class Sink(io.FileIO):
    """A new file for HDF5 to write to. The first failed write is kept as ``error``, and all later ones are ignored.

    HDF5's own file driver cannot close a file when the disk is full: the process ends in a segmentation fault (HDF5
    1.14 and 2.0). So HDF5 does not see the error, and the caller asks `check`.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, or nothing once a write has failed."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Truncate as `io.FileIO.truncate`; ignored once a write has failed."""
        try:
            return self.tell() if self.error else super().truncate(size)
        except OSError as error:
            self.error = error
            return self.tell()

    def check(self) -> None:
        """Raise the OSError of the first failed write, if any."""
        if self.error is not None:
            raise self.error
