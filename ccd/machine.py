"""What the machine refuses: no space, no permission, no memory. Nobody's bug, and a sentence can say what to do."""

from __future__ import annotations

import errno
import os

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
    """Whether the machine ran out of something, so that the error says nothing about the file it was met at."""
    return error.errno in _RAN_OUT


def is_refusal(error: BaseException) -> bool:
    """Whether the machine refuses access to a file (rights, limits, locks, a disk or network that does not answer), so
    that the error says nothing about what the file holds: it may be whole, and rebuilding it would not help."""
    return isinstance(error, OSError) and error.errno in _ADVICE


def explained(error: BaseException, stage: str = "") -> str | None:
    """What happened, where, and what to do, in one line; None if it is no error of the machine, but a bug.

    Args:
        stage: the stage that runs, where one does: training has other knobs than the rest.
    """
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _is_about_memory(error)):
        training = f"; for the training itself, {stage}.batch_size or {stage}.image_size_px"
        more = training if stage in ("warmup", "train") else ""
        return f"{_kind(str(error))} ran out: lower runtime.inference_batch_size or runtime.workers{more}"
    if not isinstance(error, OSError) or isinstance(error, (ConnectionError, ProcessLookupError, ChildProcessError)):
        return None
    if error.errno is None or (error.errno not in _ADVICE and error.filename is None):
        return None
    advice = _ADVICE.get(error.errno, "mend that (CCD_DEBUG=1 shows where it was met)")
    return f"{_place(error)}: {os.strerror(error.errno)}; {advice}, and run it again"


def _kind(text: str) -> str:
    if "CUDA" in text or "CUBLAS" in text:
        return "the GPU's memory"
    return "shared memory (/dev/shm)" if "shared memory" in text else "memory"


def _place(error: OSError) -> str:
    return "the output" if error.filename is None else os.fsdecode(error.filename)


def _is_about_memory(error: RuntimeError) -> bool:
    """PyTorch has a class for a full GPU alone, and is not imported for this: commands must start at once."""
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _MEMORY_TEXTS)
