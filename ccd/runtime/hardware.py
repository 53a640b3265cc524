"""Hardware: device, threads, workers, memory, determinism. Nothing else in the project knows about it."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from ccd.errors import CcdError
from ccd.params.file import load
from ccd.params.sections import RuntimeParams
from ccd.runtime import launch


def hand_back_memory() -> None:
    """Give what was freed to the system, where the C library can (glibc): what small things leave between them is no
    place for large ones that follow."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library, with another allocator
            ctypes.CDLL("libc.so.6").malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LONGEST_WAIT = timedelta(minutes=30)  # of one rank for another


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
    """``auto`` is the first GPU if there is one, else the CPU. Raises CcdError for a GPU that is not there.

    Of several ranks on a machine each has a GPU of its own; a launcher may show a rank that one alone.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(name)
    if launch.local_world_size() > 1 and chosen.type == "cuda":
        if chosen.index is not None:
            raise CcdError(f"runtime.device = {name} names one GPU for several processes; use auto, cuda or cpu")
        chosen = torch.device("cuda", 0 if torch.cuda.device_count() == 1 else launch.local_rank())
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise CcdError(
            f"runtime.device = {name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return chosen


def worker_count(workers: int | None) -> int:
    """Processes that decode images: as asked, or one per core this process may use; ranks divide the cores."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // launch.local_world_size()))


def process_count() -> int:
    """How many processes ``runtime.processes`` asks for: ``auto`` is one per GPU, on the CPU one.

    Raises:
        CcdError: more than there are GPUs, or more than one for a GPU that ``runtime.device`` names.
    """
    params = load(RuntimeParams)
    if params.processes == 1:
        return 1
    device = find_device(params.device)
    if params.processes == "auto":
        return torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if device.type == "cuda" and (device.index is not None or params.processes > torch.cuda.device_count()):
        raise CcdError(
            f"runtime.processes = {params.processes} with runtime.device = {params.device}: every process needs a GPU "
            f"of its own, and this machine has {torch.cuda.device_count()}; use auto, or device cpu"
        )
    return params.processes


def join_ranks() -> None:
    """Meet the other ranks: arrays travel over gloo, what is on GPUs over NCCL. Raises CcdError for a wrong device."""
    device = find_device(load(RuntimeParams).device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launch.rank() > 0:
        warnings.simplefilter("ignore")  # rank 0 says the same
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
    except ValueError as error:
        raise CcdError(
            f"RANK and WORLD_SIZE are set, but the processes cannot meet ({error}); start them with torchrun"
        ) from None


def leave_ranks() -> None:
    """Part from the other ranks, if they were met."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


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
