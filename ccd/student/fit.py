"""Training on image files, for the stages warmup and train: the loop over epochs, resuming, results."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError, listed
from ccd.images.batches import ImageFiles, batches_of_rows
from ccd.params.sections import OptimizationParams
from ccd.runtime.hardware import Hardware, part_of_batch, rank_count, read_later, this_rank, to_device
from ccd.runtime.store import Slot, content_key, fingerprint
from ccd.student.model import Student
from ccd.student.objectives import Objective
from ccd.student.step import Optimization, TrainingStep, Weights, check_weights, cpu_weights
from ccd.student.training_state import (
    EpochMeter,
    EpochRecord,
    Progress,
    StateFile,
    StateWriter,
    restore,
)
from ccd.student.transforms import batch_rows, derived_seed, step_generator

Batches = Iterable[tuple[Tensor, Tensor]]
STEPS_AHEAD = {"cpu": 0, "cuda": 1}  # steps on their way when a loss is read, so that the device never waits


@dataclass(frozen=True)
class TrainingData:
    """N images to train on: their ``files``, ``labels`` (N, C) in [0, 1], and their part of the image ``index``."""

    files: ImageFiles
    labels: np.ndarray
    index: ImageIndex

    def __len__(self) -> int:
        return len(self.files)


def fit(
    student: Student,
    data: TrainingData,
    objective: Objective,
    params: OptimizationParams,
    hardware: Hardware,
    *,
    state: Slot | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> TrainingResult:
    """Train on image files, each epoch in a new order that depends on the seed alone. Ranks share every batch.

    Args:
        state: keeps the state of an unfinished training; one that was killed goes on after its last whole epoch.
        on_step: called with epoch, step (both from 0) and loss after every step.

    Raises:
        CcdError: an image cannot be read, or what `train` raises.
    """
    seed = derived_seed(params.seed, *params.section.encode())  # warm-up and final training differ
    optimization = Optimization(
        params.epochs,
        params.lr,
        params.head_lr_multiplier,
        params.precision,
        params.schedule,
        steps_per_epoch(len(data), params.batch_size),
        getattr(params, "ema_decay", None),  # of the final training alone
        params.frozen_backbone,
    )
    return train(
        student,
        _epochs(data, params, hardware, seed),
        torch.from_numpy(data.labels.astype(np.float32)),
        objective,
        optimization=optimization,
        seed=seed,
        device=hardware.device,
        names=data.index.ids,
        state=state,
        on_step=on_step,
    )


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch; the last one may be smaller."""
    return -(-images // batch_size)


def _epochs(data: TrainingData, params: OptimizationParams, hardware: Hardware, seed: int) -> Callable[[int], Batches]:
    """Return a function of an epoch that yields its batches.

    One stream serves all epochs: worker processes that start later copy a parent that has grown.
    """
    steps = steps_per_epoch(len(data), params.batch_size)
    streams: list[Iterator[tuple[Tensor, Tensor]]] = []

    def batches(epoch: int) -> Batches:
        if not streams:
            rows_of = batch_rows(len(data), params.batch_size, seed, epoch)
            count = (params.epochs - epoch) * steps
            pin = hardware.device.type == "cuda"
            streams.append(
                batches_of_rows(data.files, rows_of, count, params.image_size_px, hardware.workers, pin_memory=pin)
            )
        return islice(streams[0], steps)

    return batches


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

    Raises:
        CcdError: the loss is not finite, the weights are not after an epoch, an epoch has no batch, or the precision
            does not fit the device.
    """
    step = TrainingStep(student, objective, optimization, device)
    targets = targets.to(device, copy=True)
    progress = Progress() if state is None else restore(state, step.parts, targets)
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, StateWriter(state) as states:
        for epoch in range(len(progress.records), optimization.epochs):
            record = _train_epoch(step, epoch_batches(epoch), targets, epoch, seed, names, on_step)
            weights = cpu_weights(student)
            check_weights(weights, epoch)
            states.wait()
            if epoch >= optimization.epochs // 2:  # the first half is still on its way
                progress.average.update(weights)
            if progress.tracker.update(record.map_percent):
                progress.candidate = weights
            progress.records.append(record)
            states.save(progress, step.parts, weights, targets)
    fired = progress.tracker.epoch is not None
    return TrainingResult(
        records=tuple(progress.records),
        last=cpu_weights(student),
        average=progress.average.weights,
        early_stop=progress.candidate if fired else None,
        early_stop_epoch=progress.tracker.epoch,
        ema=None if step.ema is None else step.ema.weights,
    )


def _train_epoch(
    step: TrainingStep,
    batches: Batches,
    targets: Tensor,
    epoch: int,
    seed: int,
    names: Sequence[str] | None,
    on_step: Callable[[int, int, float], None] | None,
) -> EpochRecord:
    meter = EpochMeter(targets, time.perf_counter())
    waiting: deque[_Sent] = deque()
    rows_before: Tensor | None = None
    for index, (rows, images) in enumerate(batches):  # (b,), (b, 3, H, W)
        part = part_of_batch(len(rows))
        if index == 0:
            step.train_mode(part.total)
            first_batch_images = part.total
        elif part.total == 1 < first_batch_images:
            continue
        step_seed = derived_seed(seed, epoch, index)
        # stochastic depth (EfficientNet, ConvNeXt) draws from the global generator, on every rank other numbers
        torch.manual_seed(step_seed if this_rank() == 0 else derived_seed(seed, epoch, index, this_rank()))
        device_rows = to_device(rows, step.device)
        pixels = images.to(step.device, non_blocking=True)
        step.schedule(epoch, index)
        views = step.objective.views(pixels, targets[device_rows], step_generator(step_seed, part))
        outcome = step(views, part.count * rank_count() / part.total)
        meter.add(device_rows, outcome)
        if outcome.targets is not None:
            targets[device_rows] = outcome.targets
        waiting.append(_Sent(epoch, index, rows, read_later(outcome.loss.detach()), rows_before))
        rows_before = rows
        while len(waiting) > STEPS_AHEAD[step.device.type]:
            waiting.popleft().check(names, on_step)
    for last in waiting:
        last.check(names, on_step)
    return meter.record(epoch)


@dataclass(frozen=True)
class _Sent:
    """A step on its way, whose loss is read later."""

    epoch: int
    index: int
    rows: Tensor
    loss: Callable[[], Tensor]
    rows_before: Tensor | None

    def check(self, names: Sequence[str] | None, on_step: Callable[[int, int, float], None] | None) -> None:
        """Wait for the step and tell ``on_step``.

        Raises:
            CcdError: the loss is not finite. It names the images of the step before too, whose gradients may have
                spoilt the weights while its own loss was finite.
        """
        loss = float(self.loss())
        if len(self.rows) and not math.isfinite(loss):
            images = [
                listed(f"row {row}" if names is None else names[row] for row in rows.tolist())
                for rows in (self.rows, self.rows_before)
                if rows is not None
            ]
            raise CcdError(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {self.index + 1} (images: "
                f"{'; of the step before: '.join(images)}); lower the learning rate, use fp32, or look at these images "
                "and their labels"
            )
        if on_step is not None:
            on_step(self.epoch, self.index, loss)


def training_name(
    student: Student, data: TrainingData, objective: Objective, params: OptimizationParams, hardware: Hardware
) -> str:
    """Return the name of a training's state in the store: a fingerprint of all that decides its result."""
    weights = b"".join(value.detach().cpu().contiguous().numpy().tobytes() for value in student.state_dict().values())
    return fingerprint(
        "training",
        ("ccd.student.fit",),
        params=params.model_dump(),
        section=params.section,
        objective=repr(objective),
        student=[repr(student), student.cam_boost, student.mean.tolist(), student.std.tolist()],
        inputs=content_key(weights, data.labels.tobytes(), "".join(data.index.digests).encode()).hex(),
        device=hardware.device.type,
    )


def final_weights(result: TrainingResult) -> tuple[dict[str, Weights], dict[str, Any]]:
    """Return the sets of weights of a final training and the epoch (from 1) of the early stop, or else the last."""
    fired = result.early_stop is not None and result.early_stop_epoch is not None
    stopped = len(result.records) if result.early_stop_epoch is None else result.early_stop_epoch + 1
    weights = {"last": result.last, "average": result.average, "early_stop": result.early_stop or result.last}
    if result.ema is not None:
        weights["ema"] = result.ema
    return weights, {"epochs": len(result.records), "early_stop_epoch": stopped, "early_stop_fired": fired}
