"""Decision thresholds of a trained student, without ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from ccd import ranks
from ccd.console import StageLog
from ccd.labels.thresholds import prevalence_thresholds
from ccd.loading import ImageFiles
from ccd.runtime import Hardware
from ccd.student.model import Student
from ccd.student.score import score


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
    BatchNorm in training mode. Ranks share it, and end here but for the first.
    """
    probs = score({"student": student}, files, size_px, hardware, log)["student"]
    ranks.others_leave()
    return {"values": prevalence_thresholds(probs, labels).tolist(), "source": "pseudo-labels"}
