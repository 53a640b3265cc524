"""Corrections from the true labels, as by a person who decides every class of the chosen images."""

from __future__ import annotations

import numpy as np

from ccd.artifacts import class_table, corrections_file
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex
from ccd.images.batches import indexed_files
from ccd.params.file import PARAMS_FILE, load
from ccd.params.sections import DatasetParams
from ccd.report.doubt import disagreement, most_doubtful
from ccd.review.questions import student_probs
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import set_up_hardware
from studies.run import Run
from studies.spec import Corrected


def write_corrections(run: Run, wanted: Corrected, seed: int, index: ImageIndex) -> None:
    """Replace the project's corrections by those of ``wanted.images`` training images.

    The images are chosen without ground truth, from the labels without corrections.

    Args:
        index: the training images, at least ``wanted.images`` of which have known labels (`studies.inputs.check`).
    """
    path = run.folder / corrections_file.path_of(run.name)
    corrections_file.write(path, {})
    if wanted.images == 0:
        return
    labels = class_table.read(run.data / "labels.parquet", LABELS)
    rows = _chosen(run, wanted, seed, index, known_rows(index, labels))
    corrections_file.write(path, decided([index.ids[row] for row in rows], labels))


def known_rows(index: ImageIndex, labels: class_table.ClassTable) -> np.ndarray:
    """Return the rows of the training images with known labels, (K,) int64."""
    labelled = frozenset(labels.ids)
    return np.flatnonzero([image in labelled for image in index.ids])


def _chosen(run: Run, wanted: Corrected, seed: int, index: ImageIndex, candidates: np.ndarray) -> np.ndarray:
    if wanted.order == "random":
        drawn: np.ndarray = np.random.default_rng(seed).permutation(candidates)[: wanted.images]
        return drawn
    run.repro("train" if wanted.order == "student" else "aggregate")
    pseudo_labels = class_table.read(run.data / "pseudo_labels.parquet", PSEUDO_LABELS)
    student = None
    if wanted.order == "student":
        files = indexed_files(str(run.folder / load(DatasetParams, run.folder / PARAMS_FILE).root), index)
        student = student_probs(run.data / "student.pt", files, set_up_hardware(), StageLog("corrections").images)
    gap = disagreement(pseudo_labels.columns, student)[candidates]
    chosen: np.ndarray = candidates[doubtful_order(gap)[: wanted.images]]
    return chosen


def doubtful_order(gap: np.ndarray) -> np.ndarray:
    """Return all rows of (N, C) ``gap``, the most doubtful first; those without doubt come last, in their order."""
    doubtful = [choice.row for choice in most_doubtful(gap, len(gap))]
    return np.concatenate([np.asarray(doubtful, np.int64), np.setdiff1d(np.arange(len(gap)), doubtful)])


def decided(ids: list[str], table: class_table.ClassTable) -> corrections_file.Decisions:
    """Return decisions about every class of the images ``ids``, by the true labels; a difficult object is present."""
    row_of = {image: row for row, image in enumerate(table.ids)}
    labels = table.columns["label"]
    return {
        (image, name): int(labels[row_of[image], column]) for image in ids for column, name in enumerate(table.classes)
    }
