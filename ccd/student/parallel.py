"""Training on several ranks as if on one: batches split, gradients averaged, BatchNorm over the whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccd import ranks
from ccd.errors import CcdError
from ccd.student.model import Student
from ccd.student.seeds import epoch_order


@dataclass(frozen=True)
class BatchRows:
    """Call it with a number of a step, counted on over all epochs from ``first_epoch``: rows (b,) int64 of this rank.

    Parts of a batch are contiguous and differ by one image at most; the last batch of an epoch may leave a rank none.
    Picklable, and the same in every process.
    """

    images: int
    batch_size: int
    seed: int
    first_epoch: int
    rank: int
    world: int

    def __call__(self, index: int) -> Tensor:
        epoch, step = divmod(index, -(-self.images // self.batch_size))
        order = _recent_order(self.images, self.seed, self.first_epoch + epoch)
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        return batch.tensor_split(self.world)[self.rank].clone()


_recent_order = lru_cache(maxsize=1)(epoch_order)


def batch_rows(images: int, batch_size: int, seed: int, first_epoch: int) -> BatchRows:
    """Those of this rank.

    Raises:
        CcdError: a batch has fewer images than there are ranks.
    """
    if batch_size < ranks.world():
        raise CcdError(
            f"a batch of {batch_size} images cannot be shared by {ranks.world()} processes: lower runtime.processes, "
            "or enlarge batch_size"
        )
    return BatchRows(images, batch_size, seed, first_epoch, ranks.rank(), ranks.world())


def over_ranks(student: Student, device: torch.device) -> tuple[Student, Callable[..., tuple[Tensor, Tensor]]]:
    """The student as it is to be trained, and what to call for its forward pass; with one process both are ``student``.

    Its BatchNorm layers are replaced in place by ones that see the batch of all ranks; keys and weights stay.
    """
    if ranks.world() == 1:
        return student, student
    if device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    else:
        _replace_batch_norm(student)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch rename `broadcast_buffers`
        devices = [device] if device.type == "cuda" else None
        return student, DistributedDataParallel(student, device_ids=devices, broadcast_buffers=False)


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            layer = SharedBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer)
        else:
            _replace_batch_norm(child)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics in training are those of all ranks' images, on the CPU, where torch has none."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, C, h, w) -> the same shape; b may be 0 here if it is not everywhere."""
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(x)
        values = x.float()
        count = float(sum(ranks.all_of(values.numel() // values.shape[1])))  # per channel
        mean = _summed(values.sum(dim=(0, 2, 3))) / count  # (C,)
        centred = values - mean.view(1, -1, 1, 1)
        variance = _summed(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the ranks; what depends on the sum on any rank comes back as gradient."""

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


def _summed(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))
