"""Decision thresholds of a trained student, without ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccd.console import StageLog
from ccd.labels.thresholds import prevalence_thresholds
from ccd.loading import ImageFiles, image_batches
from ccd.runtime import Hardware
from ccd.student.model import Student
from ccd.student.predict import predict


def label_free_thresholds(
    student: Student,
    files: ImageFiles,
    labels: np.ndarray,
    size_px: int,
    hardware: Hardware,
    log: StageLog,
) -> dict[str, Any]:
    """Score the N training images and match each class's share of (N, C) pseudo-labels.

    A pass of its own: the scores met while training are those of other weights, on mirrored and recoloured images, with
    BatchNorm in training mode.
    """
    batches = image_batches(files, range(len(files)), size_px, hardware.batch_size, hardware.workers)
    probs: list[Tensor] = []
    for _, logits, _ in log.batches(predict(student, batches, hardware.device), len(files), "img"):
        probs.append(logits.sigmoid().cpu())
    return {"values": prevalence_thresholds(torch.cat(probs).numpy(), labels).tolist(), "source": "pseudo-labels"}
