"""Training on image files: what warmup and train share around the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts.image_index import ImageIndex
from ccd.images.batches import ImageFiles, batches_of_rows
from ccd.params.sections import OptimizationParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import Hardware
from ccd.runtime.store import Slot, content_key, fingerprint, open_store
from ccd.student.loop import Batches, Optimization, TrainingResult, train
from ccd.student.model import Student
from ccd.student.objectives import Objective
from ccd.student.progress import EpochRecord, Weights
from ccd.student.transforms import batch_rows, derived_seed


def fit(
    student: Student,
    files: ImageFiles,
    targets: np.ndarray,
    objective: Objective,
    params: OptimizationParams,
    index: ImageIndex,
    hardware: Hardware,
    log: StageLog,
) -> tuple[TrainingResult, Slot]:
    """Train on N files and their (N, C) ``targets``, each epoch in a new order that depends on the seed alone.

    A training that was killed goes on after its last whole epoch. Ranks share every batch.

    Args:
        index: of the files, row by row.

    Returns:
        The result, and the place in the store where its state is kept, to be cleared once the result is written.

    Raises:
        CcdError: an image cannot be read, or what `ccd.student.loop.train` raises.
    """
    seed = derived_seed(params.seed, *params.section.encode())  # warm-up and final training differ
    size_px = params.image_size_px
    batch_size = params.batch_size
    optimization = Optimization(params.epochs, params.lr, params.head_lr_multiplier, params.precision)
    steps = -(-len(files) // batch_size)
    streams: list[Iterator[tuple[Tensor, Tensor]]] = []

    def batches(epoch: int) -> Batches:
        if not streams:  # one for all epochs: processes that start late copy what this one has grown to
            rows_of = batch_rows(len(files), batch_size, seed, epoch)
            count = (params.epochs - epoch) * steps
            pin = hardware.device.type == "cuda"
            streams.append(batches_of_rows(files, rows_of, count, size_px, hardware.workers, pin_memory=pin))
        return islice(streams[0], steps)

    slot = open_store().slot(_identity(student, targets, objective, params, index, hardware))
    with log.bar(steps * params.epochs, "step") as bar:

        def show(epoch: int, step: int, loss: float) -> None:
            bar.set_postfix_str(f"epoch {epoch + 1}/{params.epochs}, loss {loss:.3f}", refresh=False)
            bar.update(epoch * steps + step + 1 - bar.n)

        result = train(
            student,
            batches,
            torch.from_numpy(targets.astype(np.float32)),
            objective,
            optimization=optimization,
            seed=seed,
            device=hardware.device,
            names=index.ids,
            state=slot,
            on_step=show,
        )
    return result, slot


def _identity(
    student: Student,
    targets: np.ndarray,
    objective: Objective,
    params: OptimizationParams,
    index: ImageIndex,
    hardware: Hardware,
) -> str:
    """All that decides what a training comes to."""
    weights = b"".join(value.detach().cpu().contiguous().numpy().tobytes() for value in student.state_dict().values())
    return fingerprint(
        "training",
        ("ccd.student.fit",),
        params=params.model_dump(),
        section=params.section,
        objective=getattr(objective, "__name__", repr(objective)),
        student=[repr(student), student.cam_boost],
        inputs=content_key(weights, targets.tobytes(), "".join(index.digests).encode()).hex(),
        device=hardware.device.type,
    )


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
