"""Hardware: device, threads, workers, determinism. Nothing else in the project knows about it."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import torch

from ccd.errors import CcdError
from ccd.params.base import load
from ccd.params.runtime import RuntimeParams

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Hardware:
    """Where a stage runs: ``workers`` processes decode images, ``batch_size`` images are inferred at a time."""

    device: torch.device
    workers: int
    batch_size: int


def hardware() -> Hardware:
    """Set this process up as section ``runtime`` asks. Raises CcdError for a GPU that is not there."""
    params = load(RuntimeParams)
    _make_repeatable()
    return Hardware(find_device(params.device), worker_count(params.workers), params.inference_batch_size)


def find_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU. Raises CcdError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise CcdError(
            f"runtime.device = {name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return chosen


def worker_count(workers: int | None) -> int:
    """Processes that decode images: as asked, or one per core this process may use."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def _make_repeatable() -> None:
    """Make results repeat on the same machine."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # an aid for debugging that costs a pass over memory
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Keep glibc from handing memory back after every training step.

    Freed tensors that are returned to the system are faulted in again at the next step, which costs a CPU training
    step up to a third of its time.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
        except OSError:  # another C library, with another allocator
            return
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
