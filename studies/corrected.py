"""Corrections that a study makes of the true labels, as a person would who decides every class of the images chosen."""

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


def give_corrections(run: Run, wanted: Corrected, seed: int, index: ImageIndex) -> None:
    """Put corrections of ``wanted.images`` training images in the place of the project's own.

    Which ones is chosen without ground truth, from the labels as they are without any correction.

    Args:
        index: the training images, at least ``wanted.images`` of which have known labels (`studies.given.check`).
    """
    path = run.folder / corrections_file.path_of(run.name)
    corrections_file.write(path, {})
    if wanted.images == 0:
        return
    known = class_table.read(run.data / "labels.parquet", LABELS)
    rows = _chosen(run, wanted, seed, index, known_rows(index, known))
    corrections_file.write(path, decided([index.ids[row] for row in rows], known))


def known_rows(index: ImageIndex, known: class_table.ClassTable) -> np.ndarray:
    """Which training images have known labels, (K,) int64."""
    labelled = frozenset(known.ids)
    return np.flatnonzero([image in labelled for image in index.ids])


def _chosen(run: Run, wanted: Corrected, seed: int, index: ImageIndex, candidates: np.ndarray) -> np.ndarray:
    if wanted.order == "random":
        drawn: np.ndarray = np.random.default_rng(seed).permutation(candidates)[: wanted.images]
        return drawn
    run.repro("train" if wanted.order == "student" else "aggregate")
    made = class_table.read(run.data / "pseudo_labels.parquet", PSEUDO_LABELS)
    student = None
    if wanted.order == "student":
        files = indexed_files(str(run.folder / load(DatasetParams, run.folder / PARAMS_FILE).root), index)
        student = student_probs(run.data / "student.pt", files, set_up_hardware(), StageLog("corrections").images)
    gap = disagreement(made.columns, student)[candidates]
    found: np.ndarray = candidates[doubtful_order(gap)[: wanted.images]]
    return found


def doubtful_order(gap: np.ndarray) -> np.ndarray:
    """All rows of (N, C) ``gap``, the most doubtful first; those in no doubt at all come last, in their order."""
    first = [choice.row for choice in most_doubtful(gap, len(gap))]
    return np.concatenate([np.asarray(first, np.int64), np.setdiff1d(np.arange(len(gap)), first)])


def decided(ids: list[str], known: class_table.ClassTable) -> corrections_file.Decisions:
    """Every class of the images ``ids``, by the true labels; a difficult object is present."""
    place = {image: row for row, image in enumerate(known.ids)}
    labels = known.columns["label"]
    return {
        (image, name): int(labels[place[image], column]) for image in ids for column, name in enumerate(known.classes)
    }
