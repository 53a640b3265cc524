"""Probabilities of many images under one or several students."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccd import ranks
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
    """sigmoid(logits), (N, C) float32, of every student, on every rank; each image is decoded once.

    Raises:
        CcdError: an image cannot be read, or a student gives NaN or Inf for it; the files are named.
    """
    for student in students.values():
        student.to(hardware.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    collected = {name: [np.empty((0, student.head.out_channels), np.float32)] for name, student in students.items()}
    rows = ranks.share(np.arange(len(files)), hardware.batch_size)
    batches = image_batches(files, rows, size_px, hardware.batch_size, hardware.workers)
    found = ranks.merged(_score_batches(students, batches, files.paths, hardware.device))
    for _, probs in log.batches(found, len(files), "img"):
        for name, values in probs.items():
            collected[name].append(values)
    return ranks.from_first(lambda: {name: np.concatenate(parts) for name, parts in collected.items()})


def _score_batches(
    students: Mapping[str, Student],
    batches: Iterable[tuple[Tensor, Tensor]],
    paths: Sequence[Path],
    device: torch.device,
) -> Iterator[tuple[Tensor, dict[str, np.ndarray]]]:
    for rows, images in batches:
        with torch.inference_mode():
            pixels = to_unit(images.to(device, non_blocking=True))
            logits = {name: student(pixels)[0] for name, student in students.items()}
        probs = {name: probabilities(values, rows, paths, name) for name, values in logits.items()}
        yield rows, probs


def probabilities(logits: Tensor, rows: Tensor, paths: Sequence[Path], name: str) -> np.ndarray:
    """sigmoid(logits), (b, C) float32, of a student called ``name``, for the images ``rows`` (b,) of ``paths``.

    Raises:
        CcdError: NaN or Inf; the files are named.
    """
    probs = logits.sigmoid().cpu().numpy()
    broken = rows[~np.isfinite(probs).all(axis=1)].tolist()
    if broken:
        where = listed(paths[row] for row in broken)
        raise CcdError(f"the student '{name}' gives NaN for {where}; train it again, in fp32")
    return probs


def score_checkpoints(
    warmup: Checkpoint, final: Checkpoint, files: ImageFiles, hardware: Hardware, log: StageLog
) -> dict[str, np.ndarray]:
    """`score` of the warmed-up student, of every set of weights of the final one, and as ``student`` the selected.

    Ranks share it, and end here but for the first.
    """
    spec = StudentSpec.from_dict(final.spec)
    states = {"warmup": warmup.weights[warmup.selected], **final.weights}
    students = {name: restore_student(spec, weights) for name, weights in states.items()}
    probs = score(students, files, spec.image_size_px, hardware, log)
    ranks.others_leave()
    return {**probs, "student": probs[final.selected]}
