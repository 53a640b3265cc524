"""Work shared among the ranks of a stage. With one process every function here hands its argument through.

Rank 0 prints and writes; the others compute shares and send them, batch by batch. All ranks must call the same
functions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ccd.runtime import launch

T = TypeVar("T")


def rank_count() -> int:
    """Ranks that share the work of this process's stage."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def this_rank() -> int:
    """This one among them."""
    return dist.get_rank() if rank_count() > 1 else 0


def share(rows: np.ndarray, block: int | None = None) -> np.ndarray:
    """This rank's part of ``rows`` (n,): blocks of ``block`` rows are dealt in turn; without it, one piece for each.

    With the batch size as block, the batches are those of one process, and `merged` brings them in their order.
    """
    if block is None:
        return np.array_split(rows, rank_count())[this_rank()]
    blocks = np.split(rows, range(block, len(rows), block))[this_rank() :: rank_count()]
    return np.concatenate([rows[:0], *blocks])


def merged(items: Iterable[T]) -> Iterator[T]:
    """On rank 0 the items of all ranks, one of each in turn and sent one at a time; on the others nothing."""
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
    """What ``make`` returns on rank 0, on every rank; it is not called on the others."""
    return cast(T, _broadcast(make() if this_rank() == 0 else None))


def _broadcast(value: Any) -> Any:
    """Rank 0's ``value``, on every rank."""
    box = [value]
    if rank_count() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def all_gather(value: T) -> list[T]:
    """The values of all ranks, by rank, on every rank."""
    if rank_count() == 1:
        return [value]
    box: list[Any] = [None] * rank_count()
    dist.all_gather_object(box, value)
    return box


@contextmanager
def on_rank0(context: AbstractContextManager[T]) -> Iterator[T]:
    """Enter ``context`` on rank 0; on the others nothing is entered, and what is yielded must not be used."""
    if this_rank() == 0:
        with context as entered:
            yield entered
    else:
        yield cast(T, None)


@contextmanager
def rank0_first() -> Iterator[None]:
    """Rank 0 first, then one rank of every other machine, then all: what is downloaded is downloaded once."""
    turn = 0 if this_rank() == 0 else 1 if launch.local_rank() == 0 else 2
    for _ in range(turn):
        all_gather(None)
    yield
    for _ in range(2 - turn):
        all_gather(None)


def end_other_ranks() -> None:
    """End every rank but the first, in success: what follows is writing."""
    if this_rank() > 0:
        raise SystemExit(0)


@dataclass(frozen=True)
class Part:
    """A rank's images of a batch: ``count`` from the ``first`` on, of ``total``."""

    first: int
    count: int
    total: int


def part_of_batch(count: int) -> Part:
    """Where this rank's ``count`` images stand in the batch that all ranks have together."""
    counts = all_gather(count)
    return Part(sum(counts[: this_rank()]), count, sum(counts))


def merge_rows(values: Tensor, mine: Tensor) -> Tensor:
    """Bring the rows that each rank has written to all of them, in place.

    Args:
        values: (N, C) float.
        mine: (N,) bool, this rank's rows; no row is two ranks'. Rows that are nobody's stay.

    Returns:
        (N,) bool, the rows that are somebody's.
    """
    if rank_count() == 1:
        return mine
    owned = mine.to(torch.float32)
    dist.all_reduce(owned)
    together = torch.where(mine[:, None], values, torch.zeros_like(values))
    dist.all_reduce(together)
    values.copy_(torch.where(owned[:, None] > 0, together, values))
    return owned > 0
