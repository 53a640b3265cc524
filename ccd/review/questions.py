"""Which training images people should look at, and which classes they are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts import checkpoint_file, class_table, corrections_file, image_index
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex, same_ids
from ccd.images.batches import ImageFiles
from ccd.report.doubt import disagreement, most_doubtful
from ccd.runtime.hardware import Hardware
from ccd.student.inference import ImageProgress, score, silent
from ccd.student.model import StudentSpec, restore_student


def student_probs(path: Path, files: ImageFiles, hardware: Hardware, progress: ImageProgress = silent) -> np.ndarray:
    """Return the selected student's probabilities of N images, (N, C) float32.

    Raises:
        CcdError: the checkpoint or an image is missing or damaged.
    """
    found = checkpoint_file.read(path, "train")
    spec = StudentSpec.from_dict(found.spec)
    students = {"student": restore_student(spec, found.weights[found.selected])}
    return score(students, files, spec.image_size_px, hardware, progress)["student"]


ASKED_FROM = 0.3
"""A class is asked about if its label, or the student's probability of it, is at least this."""
MOST_DISPUTED = 3
"""So many of an image's classes are asked about in any case: those the steps disagree about most."""


@dataclass(frozen=True)
class Evidence:
    """What is known of N training images and C classes: ``steps`` name -> (N, C) in [0, 1], the columns ``global``,
    ``local``, ``student`` (if it was asked) and ``final``; ``gap`` (N, C) how far they are apart, 0 where a person has
    decided; ``decided`` (N, C) int8: 1, 0, or -1."""

    index: ImageIndex
    classes: tuple[str, ...]
    steps: Mapping[str, np.ndarray]
    gap: np.ndarray
    decided: np.ndarray


@dataclass(frozen=True)
class Question:
    """An image (row) and the classes (columns) that a person is asked about, the most disputed first."""

    row: int
    classes: tuple[int, ...]


def read_evidence(data: Path, decided_file: Path, student: np.ndarray | None, root: Path | None = None) -> Evidence:
    """From the artifacts in ``data`` and the corrections that there are, which may be newer than the artifacts.

    Args:
        student: (N, C) the student's probabilities of the training images; None: it is not asked.
        root: folder of the images, for corrections that name them by a path that leads there.

    Raises:
        CcdError: an artifact is missing, damaged or not of these images, or the corrections cannot be used.
    """
    index = image_index.read(data / "images.parquet").train()
    made = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS)
    same_ids(data / "pseudo_labels.parquet", "aggregate", made.ids, index.ids)
    decided = corrections_file.read(decided_file, made.ids, made.classes, root).of_images(0, len(made.ids))
    steps = {"global": made.columns["global_label"], "local": np.clip(made.columns["local_label"], 0, 1)}
    steps |= ({} if student is None else {"student": student}) | {"final": made.columns["label"]}
    gap = disagreement(made.columns | {"correction": decided}, student)
    return Evidence(index, made.classes, steps, gap, decided)


def most_doubtful_images(evidence: Evidence, count: int) -> list[Question]:
    """The ``count`` images whose steps disagree most about a class that nobody has decided."""
    return [_question(evidence, choice.row) for choice in most_doubtful(evidence.gap, count)]


def random_images(evidence: Evidence, count: int, seed: int) -> list[Question]:
    """``count`` images drawn evenly from those with a class that nobody has decided; for comparison."""
    left = np.flatnonzero((evidence.decided < 0).any(axis=1))
    drawn = np.random.default_rng(seed).permutation(left)[:count]
    return [_question(evidence, int(row)) for row in drawn]


def _question(evidence: Evidence, row: int) -> Question:
    undecided = evidence.decided[row] < 0
    likely = np.maximum.reduce([values[row] for name, values in evidence.steps.items() if name in ("student", "final")])
    order = [int(place) for place in np.argsort(-evidence.gap[row], kind="stable") if undecided[place]]
    asked = order[:MOST_DISPUTED] + [place for place in order[MOST_DISPUTED:] if likely[place] >= ASKED_FROM]
    return Question(row, tuple(asked))
