"""Training on several ranks as if on one: batches split, gradients averaged, BatchNorm over the whole batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccd import ranks
from ccd.errors import CcdError
from ccd.student.model import Student


def my_order(order: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """This rank's contiguous part of every batch of ``order`` (n,), one after the other, and the size of a part.

    The parts of a batch differ by one image at most. The last batch may leave a rank none.

    Raises:
        CcdError: a batch has fewer images than there are ranks.
    """
    world, rank = ranks.world(), ranks.rank()
    if batch_size < world:
        raise CcdError(
            f"a batch of {batch_size} images cannot be shared by {world} processes: lower runtime.processes, "
            "or enlarge batch_size"
        )
    mine = [batch.tensor_split(world)[rank] for batch in torch.split(order, batch_size)]
    return torch.cat([order[:0], *mine]), batch_size // world + (rank < batch_size % world)


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
