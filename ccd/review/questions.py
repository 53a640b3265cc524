"""Choose the training images that people should review, and the classes they are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccd.artifacts import class_table, corrections_file, image_index
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex, same_ids
from ccd.report.doubt import disagreement, most_doubtful

if TYPE_CHECKING:
    from ccd.images.batches import ImageFiles
    from ccd.runtime.hardware import Hardware
    from ccd.student.inference import ImageProgress


def student_probs(
    path: Path, files: ImageFiles, hardware: Hardware, progress: ImageProgress | None = None
) -> np.ndarray:
    """Return the selected student's probabilities for N images, (N, C) float32.

    Raises:
        CcdError: the checkpoint or an image is missing or damaged.
    """
    from ccd.artifacts import checkpoint_file
    from ccd.student.inference import score, silent
    from ccd.student.model import StudentSpec, restore_student

    checkpoint = checkpoint_file.read(path, "train")
    spec = StudentSpec.from_dict(checkpoint.spec)
    students = {"student": restore_student(spec, checkpoint.weights[checkpoint.selected])}
    return score(students, files, spec.image_size_px, hardware, progress or silent)["student"]


MIN_LIKELY = 0.3
"""A class is asked about if its label, or the student's probability for it, is at least this."""
MOST_DISPUTED = 3
"""Number of an image's classes that are asked about in any case: those with the largest gap."""


@dataclass(frozen=True)
class Evidence:
    """Labels of N training images and C classes at every step of the method.

    ``steps``: name -> (N, C) in [0, 1], with the names ``global``, ``local``, ``student`` (if used) and ``final``.
    ``gap`` (N, C): largest difference between steps, 0 where a person has decided. ``decided`` (N, C) int8: 1 present,
    0 absent, -1 undecided.
    """

    index: ImageIndex
    classes: tuple[str, ...]
    steps: Mapping[str, np.ndarray]
    gap: np.ndarray
    decided: np.ndarray


@dataclass(frozen=True)
class Question:
    """An image (its row) and the classes (their columns) that a person is asked about, the largest gap first."""

    row: int
    classes: tuple[int, ...]


def read_evidence(data: Path, decided_file: Path, student: np.ndarray | None, root: Path | None = None) -> Evidence:
    """Read the evidence from the artifacts in ``data`` and the corrections, which may be newer than the artifacts.

    Args:
        student: (N, C) the student's probabilities for the training images; None: leave the student out.
        root: folder of the images, for corrections that name images by paths into it.

    Raises:
        CcdError: an artifact is missing, damaged or about other images, or the corrections cannot be used.
    """
    index = image_index.read(data / "images.parquet").train()
    pseudo_labels = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS)
    same_ids(data / "pseudo_labels.parquet", "aggregate", pseudo_labels.ids, index.ids)
    corrections = corrections_file.read(decided_file, pseudo_labels.ids, pseudo_labels.classes, root)
    decided = corrections.of_images(0, len(pseudo_labels.ids))
    columns = pseudo_labels.columns
    steps = {"global": columns["global_label"], "local": np.clip(columns["local_label"], 0, 1)}
    if student is not None:
        steps["student"] = student
    steps["final"] = columns["label"]
    gap = disagreement(columns | {"correction": decided}, student)
    return Evidence(index, pseudo_labels.classes, steps, gap, decided)


def most_doubtful_images(evidence: Evidence, count: int) -> list[Question]:
    """Return questions about the ``count`` images with the largest gap of an undecided class."""
    return [_question(evidence, choice.row) for choice in most_doubtful(evidence.gap, count)]


def random_images(evidence: Evidence, count: int, seed: int) -> list[Question]:
    """Return questions about ``count`` random images with an undecided class; a baseline for `most_doubtful_images`."""
    undecided = np.flatnonzero((evidence.decided < 0).any(axis=1))
    drawn = np.random.default_rng(seed).permutation(undecided)[:count]
    return [_question(evidence, int(row)) for row in drawn]


def _question(evidence: Evidence, row: int) -> Question:
    likely = np.maximum.reduce([values[row] for name, values in evidence.steps.items() if name in ("student", "final")])
    return Question(row, asked_classes(evidence.gap[row], evidence.decided[row], likely))


def asked_classes(gap: np.ndarray, decided: np.ndarray, likely: np.ndarray) -> tuple[int, ...]:
    """Return the undecided classes (columns) of one image to ask about: the most disputed first, then likely ones.

    Args:
        gap: (C,) difference between steps. decided: (C,) -1 undecided. likely: (C,) compared with `MIN_LIKELY`.
    """
    columns = [int(column) for column in np.argsort(-gap, kind="stable") if decided[column] < 0]
    others = [column for column in columns[MOST_DISPUTED:] if likely[column] >= MIN_LIKELY]
    return (*columns[:MOST_DISPUTED], *others)
