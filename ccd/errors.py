"""Errors that are meant for the user: their own mistakes, what the machine refuses, Ctrl-C, and missing packages."""

from __future__ import annotations

import atexit
import configparser
import errno
import io
import os
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, NoReturn

import click

DEBUG_VARIABLE = "CCD_DEBUG"


class CcdError(Exception):
    """A mistake that the user can fix. The message says what is wrong, where, and what to do; no traceback is shown."""


def listed(items: Iterable[object], limit: int = 10) -> str:
    """Join the first ``limit`` items with commas and say how many more there are."""
    everything = [str(item) for item in items]
    more = len(everything) - limit
    return ", ".join(everything[:limit]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Escape control characters and bytes that are not UTF-8, which names of files may hold."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def is_utf8(text: str) -> bool:
    """Tell whether ``text`` can be written to a file; names from a file system or JSON may hold lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


URLS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+[^\s\"'<>]+")
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
    **dict.fromkeys(("http", "https"), "http"),
    "hf": "hf",
}
"""Scheme of a URL -> the extra that reads it."""
_REMOTE = re.compile(rf"^({'|'.join(EXTRAS)}):/+(?=[^/])")
_USERINFO = re.compile(r"^(https?:/+)[^/?@]*@|^([^/]+:/+)[^/?@:]*:[^/?@]*@", re.I)  # abfs://CONTAINER@ACCOUNT is none
_SECRET = re.compile(
    r"[?&#][^=&]*(x-amz-|x-goog-|sig(nature)?=|token|secret|passw|pwd|key|auth|credential|policy)", re.I
)


def url_of(path: Path | str) -> str | None:
    """Return the URL that a path stands for, or None for a local file. A `Path` keeps one of its two slashes."""
    text = str(path)
    return _REMOTE.sub(r"\1://", text) if _REMOTE.match(text) else None


def redacted(text: str, mark: str = "...") -> str:
    """Return ``text`` with ``mark`` in place of passwords and signatures in its URLs. Nothing else hides them.

    A URL that went through a `Path` gets its second slash back.
    """
    return URLS.sub(lambda found: _without_secrets(found[0], mark), text)


def _without_secrets(url: str, mark: str) -> str:
    address, question, _ = url.partition("?")
    is_secret = question and _SECRET.search(url, len(address)) is not None
    url = address + (question + mark if mark else "") if is_secret else url
    url = _REMOTE.sub(r"\1://", url)
    return _USERINFO.sub(lambda found: (found[1] or found[2]) + (f"{mark}@" if mark else ""), url)


_OUT_OF_FILES = "raise the limit (`ulimit -n 4096`), or lower runtime.workers"
_FORBIDDEN = "give this user the right to read and write there, or work in another folder"
_ADVICE = {
    errno.ENOSPC: "free some space (`ccd store --prune 1`, `dvc gc -w`)",
    errno.EDQUOT: "free some space (`ccd store --prune 1`, `dvc gc -w`)",
    errno.EFBIG: "raise the limit (`ulimit -f unlimited`), or use a file system that takes larger files",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "mount it writable, or work in another folder",
    errno.EMFILE: _OUT_OF_FILES,
    errno.ENFILE: _OUT_OF_FILES,
    errno.ENOMEM: "lower runtime.workers or runtime.inference_batch_size",
    errno.EAGAIN: "no more processes may start: lower runtime.workers, or raise the limit (`ulimit -u`)",
    errno.EIO: "the disk or the network fails: look at the system's log",
}
_NO_ANSWER = "the disk or the network that holds it does not answer: look at its mount"
_ADVICE |= dict.fromkeys(
    [errno.ESTALE, errno.ETIMEDOUT, errno.ENOLCK, errno.EBUSY, errno.ENOTCONN, errno.ENODEV], _NO_ANSWER
)
_RAN_OUT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "allocate shared memory")


def ran_out(error: OSError) -> bool:
    """Tell whether the machine ran out of something. Such an error says nothing about the file that was read."""
    return error.errno in _RAN_OUT


def is_refusal(error: BaseException) -> bool:
    """Tell whether the machine refuses access to a file: rights, limits, locks, a disk or network that does not answer.

    Such an error says nothing about the file's content: it may be whole, and rebuilding it would not help.
    """
    return isinstance(error, OSError) and error.errno in _ADVICE


def explained(error: BaseException, stage: str = "") -> str | None:
    """Return one line that says what failed, where, and what to do; None if it is a bug and no error of the machine.

    Args:
        stage: the stage that runs, if any: training has other parameters to lower than the rest.
    """
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_about_memory(error)):
        training = f"; for the training itself, {stage}.batch_size or {stage}.image_size_px"
        more = training if stage in ("warmup", "train") else ""
        return f"{_kind(str(error))} ran out: lower runtime.inference_batch_size or runtime.workers{more}"
    if not isinstance(error, OSError) or isinstance(error, (ConnectionError, ProcessLookupError, ChildProcessError)):
        return None
    if error.errno is None or (error.errno not in _ADVICE and error.filename is None):
        return None
    advice = _ADVICE.get(error.errno, "fix that (CCD_DEBUG=1 shows where it happened)")
    return f"{_place(error)}: {os.strerror(error.errno)}; {advice}, and run it again"


def _kind(text: str) -> str:
    if "CUDA" in text or "CUBLAS" in text:
        return "the GPU's memory"
    return "shared memory (/dev/shm)" if "shared memory" in text else "memory"


def _place(error: OSError) -> str:
    return "the output" if error.filename is None else os.fsdecode(error.filename)


def _is_about_memory(error: RuntimeError) -> bool:
    """Tell by name and text: importing PyTorch for its class would take seconds."""
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _MEMORY_TEXTS)


def http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status (400..599) that an error of any library came from, or None."""
    while error is not None:
        answer = getattr(error, "response", None)
        stated = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
        status = stated or getattr(error, "status", None) or getattr(error, "code", None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
        error = error.__cause__ or error.__context__
    return None


INTERRUPTED = 130


def came_of_interrupt(error: BaseException) -> bool:
    """Tell whether an error was raised while Ctrl-C was handled: Python's locks may raise one of their own then."""
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, KeyboardInterrupt):
        chain = chain.__context__
    return chain is not None


def end_interrupted() -> NoReturn:
    """Print one line and exit with the status of an interrupted command."""
    print("interrupted: nothing half-written was left behind", file=sys.stderr, flush=True)
    raise SystemExit(INTERRUPTED) from None


class Interruptible(click.Command):
    """A command that Ctrl-C ends with `end_interrupted`, around its function too; click's status would be 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """See click."""
        run: Callable[..., Any] = super().main
        if not extra.get("standalone_mode", True):
            return run(*args, **extra)
        try:
            status = run(*args, **extra | {"standalone_mode": False})
        except (click.Abort, KeyboardInterrupt):
            end_interrupted()
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        raise SystemExit(status)

    def __call__(self, *args: Any, **extra: Any) -> Any:
        """Run as the whole of a process, as a script and a console script do; see `end_at_once`."""
        try:
            return super().__call__(*args, **extra)
        except SystemExit as end:
            end_at_once(end.code)
            raise


def end_at_once(status: object) -> None:
    """End this process as Python does, without taking every module apart first, which takes PyTorch's a second.

    Returns where Python's own end is needed: for a status that it prints, a thread that is still at work, or output
    that cannot be written.
    """
    others = (each for each in threading.enumerate() if each is not threading.current_thread())
    if not (status is None or isinstance(status, int)) or not all(each.daemon for each in others):
        return
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError, AttributeError):  # no reader, closed, or none: Python says so where it matters
        return
    os._exit((status or 0) & 0xFF)


DISTRIBUTION = "ccd-multilabel"
_CLONE = Path(__file__).resolve().parents[1]


def install_advice(extra: str) -> str:
    """Return the command that installs the packages of ``extra``, e.g. ``pip install 'onnx>=1.17' ...`` for ``onnx``.

    Raises:
        ValueError: there is no such extra.
    """
    try:
        needed = requirements(extra)
    except PackageNotFoundError:  # a copy of the package's folder alone
        return f"install the packages of the extra '{extra}', see setup.cfg in the repository"
    if not needed:
        raise ValueError(f"no extra is called {extra!r}")
    return f"pip install {' '.join(shlex.quote(each) for each in needed)}"


def requirements(extra: str) -> list[str]:
    """Return the requirements of ``extra``, from this clone's setup.cfg, else from the installed distribution.

    Raises:
        PackageNotFoundError: it is neither.
    """
    settings = configparser.ConfigParser()
    settings.read(_CLONE / "setup.cfg", encoding="utf-8")
    if settings.get("metadata", "name", fallback="") == DISTRIBUTION:
        return settings.get("options.extras_require", extra, fallback="").split("\n")[1:]
    stated = requires(DISTRIBUTION) or []
    marked = (each.partition(";") for each in stated)
    return [name.strip() for name, _, marker in marked if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker)]


def make_printing_safe() -> None:
    """Print in any locale without an error: UTF-8 into pipes and files, escapes for what a terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests put other streams there
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


@contextmanager
def user_errors(stage: str = "") -> Iterator[None]:
    """Turn errors that are meant for the user into one message on stderr, without a traceback.

    A `CcdError` and errors of the machine exit with status 2, Ctrl-C with 130. ``stage``: the one that runs, if any.

    With the environment variable ``CCD_DEBUG`` set to anything but 0, the traceback comes before the message; control
    characters, which names of files may hold, are escaped.
    """
    make_printing_safe()
    try:
        yield
    except KeyboardInterrupt:
        end_interrupted()
    except Exception as error:
        if came_of_interrupt(error):
            end_interrupted()
        text = str(error) if isinstance(error, CcdError) else explained(error, stage)
        if text is None or isinstance(error, BrokenPipeError):  # a bug; or the reader of our output has seen enough
            raise
        message = f"error: {text}"
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            error.__suppress_context__ = False  # what `from None` hides from a user is what a developer looks for
            message = traceback.format_exc() + message
        print("\n".join(printable(line) for line in redacted(message).split("\n")), file=sys.stderr, flush=True)
        raise SystemExit(2) from None
