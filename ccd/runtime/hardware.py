"""Hardware and ranks: device, threads, workers, memory, determinism, and work shared among the ranks of a stage.

With one process every function on ranks hands its argument through. Rank 0 prints and writes; the others compute shares
and send them, batch by batch. All ranks must call the same functions in the same order.
Gradients are averaged in `ccd.student.step.over_ranks`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ccd.errors import CcdError
from ccd.params.file import load
from ccd.params.sections import RuntimeParams
from ccd.runtime import launch

T = TypeVar("T")
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Hardware:
    """The device of a stage; ``workers`` processes decode images, ``batch_size`` images are inferred at a time."""

    device: torch.device
    workers: int
    batch_size: int


def set_up_hardware() -> Hardware:
    """Set up this process as section ``runtime`` of params.yaml says. Raises CcdError for a GPU that is not there."""
    params = load(RuntimeParams)
    _make_repeatable()
    return Hardware(use_device(params.device), worker_count(params.workers), params.inference_batch_size)


def find_device(name: str) -> torch.device:
    """Return the named device; ``auto`` is the first GPU, or the CPU without one.

    Each rank of a machine gets a GPU of its own; a launcher may have hidden the others from it.

    Raises:
        CcdError: there is no such GPU, or one GPU is named for several ranks.
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


def use_device(name: str) -> torch.device:
    """Return the device of `find_device`; a GPU becomes the current one, on which all goes that names none."""
    device = find_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def worker_count(workers: int | None) -> int:
    """Return how many processes decode images: ``workers``, or one per usable core; ranks divide the cores."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // launch.local_world_size()))


def _make_repeatable() -> None:
    """Make results repeat on the same machine."""
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True) also imports the compiler: 1.5 s
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # an aid for debugging that costs a pass over memory
    torch.backends.cudnn.benchmark = False
    _allow_tf32(False)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed_memory()


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(device: torch.device, precision: Precision, key: str = "precision") -> None:
    """Check that the device has a precision. Raises CcdError, naming the parameter ``key``, if it has not."""
    if device.type != "cuda" and precision in ("tf32", "fp16"):
        raise CcdError(f"{key} {precision} needs a GPU, the device is {device}; use fp32 or bf16")


@contextmanager
def computing(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in a precision inside the block.

    ``fp32`` is IEEE's. ``tf32``: products of 10-bit mantissas, sums in fp32, on GPUs from Ampere on. ``bf16`` and
    ``fp16``: mixed precision (autocast); weights and what needs range stay fp32.
    """
    with ExitStack() as stack:
        if precision == "tf32":
            _allow_tf32(True)
            stack.callback(_allow_tf32, False)
        elif precision in _AUTOCAST:
            stack.enter_context(torch.autocast(device.type, dtype=_AUTOCAST[precision]))
        yield


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for the device's work."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def read_later(values: Tensor) -> Callable[[], Tensor]:
    """Start copying a tensor to the CPU, and return a function that waits for the copy, but for no later work."""
    if values.device.type != "cuda":
        return lambda: values
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(values.device))

    def read() -> Tensor:
        done.synchronize()
        return copy

    return read


def one_ahead(items: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yield items in their order; on a GPU each when the next one has been made, which that computes meanwhile.

    An error comes behind the items before it.
    """
    if device.type == "cpu":
        yield from items
        return
    following = iter(items)
    held: list[T] = []
    while True:
        try:
            made = [next(following)]
        except StopIteration:
            yield from held
            return
        except Exception:
            yield from held
            raise
        yield from held
        held = made


def keep_freed_memory() -> None:
    """Keep glibc from handing memory back after every training step.

    Freed tensors that are returned to the system are faulted in again at the next step, which costs a CPU training
    step up to a third of its time.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # another C library, with another allocator
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def rank_count() -> int:
    """Return the number of ranks that share this stage's work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def this_rank() -> int:
    """Return this process's rank among them."""
    return dist.get_rank() if rank_count() > 1 else 0


def share(rows: np.ndarray, block: int | None = None) -> np.ndarray:
    """Return this rank's part of ``rows`` (n,): blocks of ``block`` rows in turn, or one contiguous piece without it.

    With the batch size as block, the batches are those of one process, and `merged` brings them in their order.
    """
    if block is None:
        return np.array_split(rows, rank_count())[this_rank()]
    blocks = np.split(rows, range(block, len(rows), block))[this_rank() :: rank_count()]
    return np.concatenate([rows[:0], *blocks])


def merged(items: Iterable[T]) -> Iterator[T]:
    """Yield, on rank 0, the items of all ranks in turn, sent one at a time; on other ranks nothing."""
    if rank_count() == 1:
        yield from items
        return
    waiting = iter(items)
    while True:
        received: list[Any] | None = [None] * rank_count() if this_rank() == 0 else None
        dist.gather_object(next(waiting, None), received)
        items_here = [item for item in received or [] if item is not None]
        if _broadcast(not items_here):
            return
        yield from items_here


def from_rank0(make: Callable[[], T]) -> T:
    """Call ``make`` on rank 0 alone and return its result on every rank."""
    return cast(T, _broadcast(make() if this_rank() == 0 else None))


def _broadcast(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank."""
    box = [value]
    if rank_count() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on every rank."""
    if rank_count() == 1:
        return [value]
    box: list[Any] = [None] * rank_count()
    dist.all_gather_object(box, value)
    return box


def on_rank0(context: AbstractContextManager[T]) -> AbstractContextManager[T]:
    """Return ``context`` on rank 0 alone; other ranks must not use the value that it gives."""
    return context if this_rank() == 0 else nullcontext(cast(T, None))


@contextmanager
def rank0_first() -> Iterator[None]:
    """Run the block on rank 0, then on one rank of every other machine, then on the rest: downloads happen once."""
    turn = 0 if this_rank() == 0 else 1 if launch.local_rank() == 0 else 2
    for _ in range(turn):
        all_gather(None)
    yield
    for _ in range(2 - turn):
        all_gather(None)


def end_other_ranks() -> None:
    """End every rank but 0, successfully: only writing is left to do."""
    if this_rank() > 0:
        raise SystemExit(0)


@dataclass(frozen=True)
class Part:
    """A rank's images of a batch: ``count`` from the ``first`` on, of ``total``."""

    first: int
    count: int
    total: int


def part_of_batch(count: int) -> Part:
    """Return the place of this rank's ``count`` images in the batch that all ranks share."""
    counts = all_gather(count)
    return Part(sum(counts[: this_rank()]), count, sum(counts))


class _Sum(torch.autograd.Function):
    """Sum over the ranks; the gradient is summed over the ranks as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """Sum a tensor over the ranks; gradients are summed over the ranks as well."""
    return cast(Tensor, _Sum.apply(values))
