"""Training on image files: what warmup and train share around the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ccd.console import StageLog
from ccd.loading import ImageFiles, image_batches
from ccd.params.optimization import OptimizationParams
from ccd.runtime import Hardware
from ccd.student.averaging import Weights
from ccd.student.loop import Batches, Optimization, TrainingResult, train
from ccd.student.model import Student
from ccd.student.objectives import Objective
from ccd.student.progress import EpochRecord
from ccd.student.seeds import derived_seed, epoch_order


def fit(
    student: Student,
    files: ImageFiles,
    targets: np.ndarray,
    objective: Objective,
    params: OptimizationParams,
    names: Sequence[str],
    hardware: Hardware,
    log: StageLog,
) -> TrainingResult:
    """Train on N files and their (N, C) ``targets``, each epoch in a new order that depends on the seed alone.

    Raises:
        CcdError: an image cannot be read, or what `ccd.student.loop.train` raises.
    """
    seed = derived_seed(params.seed, *params.section.encode())  # warm-up and final training differ
    size_px, batch_size = params.image_size_px, params.batch_size
    optimization = Optimization(params.epochs, params.lr, params.head_lr_multiplier, params.precision)

    def batches(epoch: int) -> Batches:
        order = epoch_order(len(files), seed, epoch)
        pin = hardware.device.type == "cuda"
        return image_batches(files, order, size_px, batch_size, hardware.workers, pin_memory=pin)

    steps = -(-len(files) // batch_size)
    with log.bar(steps * params.epochs, "step") as bar:

        def show(epoch: int, step: int, loss: float) -> None:
            bar.set_postfix_str(f"epoch {epoch + 1}/{params.epochs}, loss {loss:.3f}", refresh=False)
            bar.update(epoch * steps + step + 1 - bar.n)

        return train(
            student, batches, torch.from_numpy(targets.astype(np.float32)), objective, optimization=optimization,
            seed=seed, device=hardware.device, names=names, on_step=show,
        )  # fmt: skip


def final_weights(result: TrainingResult) -> tuple[dict[str, Weights], dict[str, Any]]:
    """The sets of weights of a final training, and the epoch (from 1) of the early stop: the last if it never fired."""
    fired = result.early_stop is not None and result.early_stop_epoch is not None
    stopped = len(result.records) if result.early_stop_epoch is None else result.early_stop_epoch + 1
    weights = {"last": result.last, "average": result.average, "early_stop": result.early_stop or result.last}
    return weights, {"epochs": len(result.records), "early_stop_epoch": stopped, "early_stop_fired": fired}


def curve_rows(records: Sequence[EpochRecord]) -> list[dict[str, float | int]]:
    """One row per epoch for the curves; no seconds, so that the file repeats."""
    return [
        {"epoch": record.epoch + 1, "loss": record.loss, **record.parts, "label_map": record.map_percent}
        for record in records
    ]
