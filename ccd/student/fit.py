"""Training on image files, for the stages warmup and train: batches, resuming, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts.image_index import ImageIndex
from ccd.images.batches import ImageFiles, batches_of_rows
from ccd.params.sections import OptimizationParams
from ccd.runtime.hardware import Hardware
from ccd.runtime.store import Slot, content_key, fingerprint
from ccd.student.loop import Batches, Optimization, TrainingResult, train
from ccd.student.model import Student
from ccd.student.objectives import Objective
from ccd.student.training_state import EpochRecord, Weights
from ccd.student.transforms import batch_rows, derived_seed


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
        CcdError: an image cannot be read, or what `ccd.student.loop.train` raises.
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
        objective=getattr(objective, "__name__", repr(objective)),
        student=[repr(student), student.cam_boost],
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


def curve_rows(records: Sequence[EpochRecord]) -> list[dict[str, float | int]]:
    """Return one row per epoch for the training curves; without times, so that the file is reproducible."""
    return [
        {"epoch": record.epoch + 1, "loss": record.loss, **record.parts, "label_map": record.map_percent}
        for record in records
    ]
