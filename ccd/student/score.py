"""Probabilities of many images under one or several students."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts.checkpoint import Checkpoint
from ccd.console import StageLog
from ccd.errors import CcdError, listed
from ccd.loading import ImageFiles, image_batches
from ccd.runtime import Hardware
from ccd.student.model import Student, StudentSpec, restore_student
from ccd.student.transforms import to_unit


def score(
    students: Mapping[str, Student], files: ImageFiles, size_px: int, hardware: Hardware, log: StageLog
) -> dict[str, np.ndarray]:
    """sigmoid(logits), (N, C) float32, of every student; each image is decoded once.

    Raises:
        CcdError: an image cannot be read, or a student gives NaN or Inf for it; the files are named.
    """
    for student in students.values():
        student.to(hardware.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    collected: dict[str, list[Tensor]] = {name: [] for name in students}
    batches = image_batches(files, range(len(files)), size_px, hardware.batch_size, hardware.workers)
    with torch.inference_mode():
        for rows, images in log.batches(batches, len(files), "img"):
            pixels = to_unit(images.to(hardware.device, non_blocking=True))
            for name, student in students.items():
                probs = student(pixels)[0].sigmoid().cpu()
                broken = rows[~torch.isfinite(probs).all(dim=1)].tolist()
                if broken:
                    where = listed(files.paths[row] for row in broken)
                    raise CcdError(f"the student '{name}' gives NaN for {where}; train it again, in fp32")
                collected[name].append(probs)
    empty = {name: torch.empty(0, student.head.out_channels) for name, student in students.items()}
    return {name: torch.cat([empty[name], *parts]).numpy() for name, parts in collected.items()}


def score_checkpoints(
    warmup: Checkpoint, final: Checkpoint, files: ImageFiles, hardware: Hardware, log: StageLog
) -> dict[str, np.ndarray]:
    """`score` of the warmed-up student, of every set of weights of the final one, and as ``student`` the selected."""
    spec = StudentSpec.from_dict(final.spec)
    states = {"warmup": warmup.weights[warmup.selected], **final.weights}
    students = {name: restore_student(spec, weights) for name, weights in states.items()}
    probs = score(students, files, spec.image_size_px, hardware, log)
    return {**probs, "student": probs[final.selected]}
