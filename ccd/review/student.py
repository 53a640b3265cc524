"""What the finished student says of the training images, which no artifact holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import checkpoint
from ccd.artifacts.image_index import ImageIndex
from ccd.console import StageLog
from ccd.loading import indexed_files
from ccd.runtime import hardware
from ccd.student.model import StudentSpec, restore_student
from ccd.student.score import score


def student_probs(path: Path, root: str, index: ImageIndex, log: StageLog) -> np.ndarray:
    """(N, C) float32, the selected student's probabilities of the images of ``index`` under ``root``.

    Raises:
        CcdError: the checkpoint or an image is missing or damaged.
    """
    found = checkpoint.read(path, "train")
    spec = StudentSpec.from_dict(found.spec)
    students = {"student": restore_student(spec, found.weights[found.selected])}
    return score(students, indexed_files(root, index), spec.image_size_px, hardware(), log)["student"]
