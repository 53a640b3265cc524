"""The training loop, one for the warm-up and for the final training (method sections 4 and 8)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import part_of_batch, rank_count, this_rank
from ccd.student.inference import Precision, autocast
from ccd.student.model import Student, share_batch_norm
from ccd.student.objectives import Objective, Outcome, Schedule, lr_factor
from ccd.student.training_state import (
    EpochMeter,
    EpochRecord,
    MovingAverage,
    Progress,
    StateFile,
    Stateful,
    Weights,
    cpu_weights,
    restore,
    save,
)
from ccd.student.transforms import derived_seed, step_generator

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Optimization:
    """Adam; the head's learning rate is ``lr * head_lr_multiplier``.

    ``schedule``: see `lr_factor`; ``cosine`` needs ``steps_per_epoch``. ``ema_decay``: see `MovingAverage`; None: none.
    ``frozen_backbone``: train the head alone; the backbone keeps its weights and its BatchNorm's running statistics.
    """

    epochs: int
    lr: float
    head_lr_multiplier: float
    precision: Precision = "fp32"
    schedule: Schedule = "constant"
    steps_per_epoch: int = 1
    ema_decay: float | None = None
    frozen_backbone: bool = False


@dataclass(frozen=True)
class TrainingResult:
    """State dicts on the CPU and one record per epoch.

    ``last``: after the last epoch. ``average``: uniform mean over the ends of the epochs of the second half.
    ``early_stop``: of ``early_stop_epoch`` (0-based); both are None if the rule never fired. ``ema``: the exponential
    moving average; None if there is none.
    """

    records: tuple[EpochRecord, ...]
    last: Weights
    average: Weights
    early_stop: Weights | None
    early_stop_epoch: int | None
    ema: Weights | None = None


def train(
    student: Student,
    epoch_batches: Callable[[int], Batches],
    targets: Tensor,
    objective: Objective,
    *,
    optimization: Optimization,
    seed: int,
    device: torch.device,
    names: Sequence[str] | None = None,
    state: StateFile | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainingResult:
    """Train ``student`` in place.

    Args:
        student: moved to ``device``, in channels-last format.
        epoch_batches: epoch (0-based) -> batches of rows (b,) int64 and pixels (b, 3, H, W) uint8. A last batch of one
            image after larger ones is dropped, as its BatchNorm statistics mean little; where the first batch is a
            single image, BatchNorm keeps its running statistics instead. With several ranks each has its part of every
            batch, which may be empty; the result is that of one process but for the rounding of sums.
        targets: (N, C) float32 in [0, 1]; left as they are, also where the objective moves them.
        objective: see `ccd.student.objectives`.
        seed: the random numbers of a step depend on (seed, epoch, step) alone.
        names: image of each row, for error messages.
        state: keeps the training's state after every epoch; what an earlier call with the same arguments left there is
            gone on with, and the result is the same.
        on_step: called with epoch, step and loss after every step.
        on_epoch: called after every epoch.

    Raises:
        CcdError: the loss is not finite, the weights are not after an epoch, an epoch has no batch, or the precision
            does not fit the device.
    """
    step = _Step(student, objective, optimization, device)
    targets = targets.to(device, copy=True)
    progress = Progress() if state is None else restore(state, step.parts, targets)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(len(progress.records), optimization.epochs):
            record = _train_epoch(step, epoch_batches(epoch), targets, epoch, seed, names, on_step)
            weights = cpu_weights(student)
            _check_weights(weights, epoch)
            if epoch >= optimization.epochs // 2:  # the first half is still on its way
                progress.average.update(weights)
            if progress.tracker.update(record.map_percent):
                progress.candidate = weights
            progress.records.append(record)
            if state is not None:
                save(state, progress, step.parts, targets)
            if on_epoch is not None:
                on_epoch(record)
    fired = progress.tracker.epoch is not None
    return TrainingResult(
        records=tuple(progress.records),
        last=cpu_weights(student),
        average=progress.average.weights,
        early_stop=progress.candidate if fired else None,
        early_stop_epoch=progress.tracker.epoch,
        ema=None if step.ema is None else step.ema.weights,
    )


class _Step:
    """The student with its optimizer; a call is one step of training."""

    def __init__(
        self, student: Student, objective: Objective, optimization: Optimization, device: torch.device
    ) -> None:
        student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if optimization.frozen_backbone:
            student.backbone.requires_grad_(False)
        self.student, self.network = over_ranks(student, device)
        self.objective = objective
        self.device = device
        self.autocast = autocast(device, optimization.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=optimization.precision == "fp16")
        head_lr = optimization.lr * optimization.head_lr_multiplier
        self.optimizer = torch.optim.Adam(
            [
                {"params": student.backbone.parameters(), "lr": optimization.lr},
                {"params": student.head.parameters(), "lr": head_lr},
            ]
        )
        self.base_lrs = [optimization.lr, head_lr]
        self.optimization = optimization
        self.parts: dict[str, Stateful] = {
            "student": self.student,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }
        self.ema = None if optimization.ema_decay is None else MovingAverage(self.student, optimization.ema_decay)
        if self.ema is not None:
            self.parts["ema"] = self.ema

    def schedule(self, epoch: int, index: int) -> None:
        """Set the learning rates of step ``index`` of ``epoch`` (both from 0)."""
        optimization = self.optimization
        step = epoch * optimization.steps_per_epoch + index
        factor = lr_factor(optimization.schedule, step / (optimization.epochs * optimization.steps_per_epoch))
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = factor * lr

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator, weight: float) -> Outcome:
        """``weight``: of this rank's loss; ranks average their gradients, and may hold unequal parts of the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            outcome = self.objective(self.network, images, targets, generator)
        torch.autograd.backward(self.scaler.scale(weight * outcome.loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.student)
        return outcome


def _train_epoch(
    step: _Step,
    batches: Batches,
    targets: Tensor,
    epoch: int,
    seed: int,
    names: Sequence[str] | None,
    on_step: Callable[[int, int, float], None] | None,
) -> EpochRecord:
    meter = EpochMeter(targets, time.perf_counter())
    before: Tensor | None = None
    for index, (rows, images) in enumerate(batches):  # (b,), (b, 3, H, W)
        part = part_of_batch(len(rows))
        if index == 0:
            _train_mode(step.student, part.total, step.optimization.frozen_backbone)
            first_batch_images = part.total
        elif part.total == 1 < first_batch_images:
            continue
        step_seed = derived_seed(seed, epoch, index)
        # stochastic depth (EfficientNet, ConvNeXt) draws from the global generator, on every rank other numbers
        torch.manual_seed(step_seed if this_rank() == 0 else derived_seed(seed, epoch, index, this_rank()))
        device_rows = rows.to(step.device)
        step.schedule(epoch, index)
        outcome = step(
            images.to(step.device, non_blocking=True),
            targets[device_rows],
            step_generator(step_seed, part),
            part.count * rank_count() / part.total,
        )
        loss = outcome.loss.item()  # waits for the device, so after the step
        if part.count and not math.isfinite(loss):
            raise _not_finite(loss, epoch, index, rows, before, names)
        before = rows
        meter.add(device_rows, outcome)
        if outcome.targets is not None:
            targets[device_rows] = outcome.targets
        if on_step is not None:
            on_step(epoch, index, loss)
    return meter.record(epoch)


def _train_mode(student: Student, batch_images: int, frozen_backbone: bool) -> None:
    student.train()
    if frozen_backbone:
        student.backbone.eval()
    if batch_images == 1:
        for layer in student.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()


def over_ranks(student: Student, device: torch.device) -> tuple[Student, Callable[..., tuple[Tensor, Tensor]]]:
    """Return the student to train and the function for its forward pass; with one process both are ``student``.

    Its BatchNorm layers are replaced in place by ones that see the batch of all ranks; keys and weights stay.
    """
    if rank_count() == 1:
        return student, student
    norms = [(name, layer) for name, layer in student.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    activations = {name: layer.act for name, layer in norms if hasattr(layer, "act")}  # timm's layers hold them
    if device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    else:
        share_batch_norm(student)
    for name, act in activations.items():
        student.get_submodule(name).register_forward_hook(lambda layer, args, output, act=act: act(output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch rename `broadcast_buffers`
        devices = [device] if device.type == "cuda" else None
        return student, DistributedDataParallel(student, device_ids=devices, broadcast_buffers=False)


def _not_finite(
    loss: float, epoch: int, step: int, rows: Tensor, before: Tensor | None, names: Sequence[str] | None
) -> CcdError:
    """Return the error for a loss that is not finite.

    It names the step before too, whose gradients may have spoilt the weights while its own loss was finite.
    """

    def images(of: Tensor) -> str:
        return listed(names[row] if names is not None else f"row {row}" for row in of.tolist())

    earlier = "" if before is None else f"; of the step before: {images(before)}"
    return CcdError(
        f"the loss became {loss} in epoch {epoch + 1}, step {step + 1} (images: {images(rows)}{earlier}); "
        "lower the learning rate, use fp32, or look at these images and their labels"
    )


def _check_weights(weights: Weights, epoch: int) -> None:
    """Check the weights after an epoch: no loss follows the gradients of its last step."""
    broken = [name for name, values in weights.items() if not torch.isfinite(values).all()]
    if broken:
        raise CcdError(
            f"after epoch {epoch + 1} {len(broken)} of the student's tensors hold NaN or Inf ({listed(broken, 3)}); "
            "lower the learning rate, or use fp32"
        )
