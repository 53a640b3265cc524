"""Tune thresholds on labelled images that the user provides (``ccd thresholds``); the pipeline never does this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ccd.artifacts import checkpoint_file, head_file
from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
from ccd.artifacts.files import is_stream
from ccd.datasets.image_search import find_images
from ccd.datasets.label_table import read_label_table
from ccd.deploy.classifier import Classifier
from ccd.deploy.load import (
    DESCRIPTION,
    HEAD_SUFFIX,
    WEIGHTS,
    keep_foreign,
    read_folder,
    read_student,
    write_folder,
)
from ccd.deploy.stream import scored
from ccd.errors import CcdError
from ccd.evaluation.metrics import f1
from ccd.labels.thresholds import best_f1_thresholds, decide

SOURCE = "labelled images"


@dataclass(frozen=True)
class Tuned:
    """The result of tuning on ``images`` labelled images, with a value per class.

    ``positives``: number of images with the class; ``before`` and ``after``: thresholds; ``f1_before`` and
    ``f1_after``: F1 in [0, 1] on the same images, NaN without positives.
    """

    classes: tuple[str, ...]
    images: int
    positives: np.ndarray
    before: np.ndarray
    after: np.ndarray
    f1_before: np.ndarray
    f1_after: np.ndarray


def tune(classifier: Classifier, labels: Path, root: Path, batch_size: int, workers: int) -> Tuned:
    """Choose the thresholds with the largest F1 on the images under ``root`` that have rows in the CSV ``labels``.

    A class that none of them shows keeps its threshold.

    Raises:
        CcdError: a file is missing, a row names no image or class (see `ccd.datasets.label_table`), or an image cannot
            be read.
    """
    classes = classifier.description.spec.classes
    if not labels.is_file():
        raise CcdError(f"{labels}: no such file; give a CSV with the columns path and classes (several with ';')")
    if not root.is_dir():
        raise CcdError(f"{root}: no such folder; give the folder that the paths in {labels} are relative to")
    label_rows = read_label_table(labels, find_images(root), classes, root)
    if not label_rows:
        raise CcdError(f"{labels} has no rows; label at least a few images of every class")
    positives = np.zeros((len(label_rows), len(classes)), bool)
    for row, label_row in enumerate(label_rows.values()):
        positives[row, list(label_row.columns)] = True
    probs = []
    for batch in scored(classifier, [root / path for path in label_rows], batch_size, workers):
        for problem in batch.problems:
            raise CcdError(problem.reason)
        probs.append(batch.probs)
    return _tuned(classes, np.concatenate(probs), positives, classifier.description.cuts)


def _tuned(classes: tuple[str, ...], probs: np.ndarray, positives: np.ndarray, before: np.ndarray) -> Tuned:
    after = best_f1_thresholds(probs, positives, before)
    scores = [f1(decide(probs, cuts), positives) for cuts in (before, after)]
    return Tuned(classes, len(probs), positives.sum(axis=0), before, after, *scores)


def check_target(model: Path, out: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse an unsuitable ``out`` for the tuned copy of ``model``, before any work.

    Args:
        read: other files that are read, and must not be overwritten.

    Raises:
        CcdError: ``out`` is the model itself or one of ``read``, exists and ``force`` is false, or could not be opened
            under its name.
    """
    if out.resolve() == model.resolve():
        raise CcdError(f"{out} is the model itself, which belongs to the pipeline; give another name")
    files = [out / WEIGHTS, out / DESCRIPTION] if model.is_dir() else [out]
    if model.is_dir() and (out.suffix == ".onnx" or (out.exists() and not out.is_dir())):
        raise CcdError(f"{out}: the tuned copy of a folder is a folder; give another name")
    suffix = HEAD_SUFFIX if model.suffix == HEAD_SUFFIX else ".pt"
    if not model.is_dir() and out.suffix != suffix and not is_stream(out):
        raise CcdError(f"{out}: the name of the tuned copy must end in {suffix}")
    refuse_inputs(files, [*([model / WEIGHTS, model / DESCRIPTION] if model.is_dir() else [model]), *read])
    refuse_folders(files)
    refuse_existing(files, force=force)


def save_tuned(model: Path, out: Path, tuned: Tuned) -> list[Path]:
    """Write a copy of ``model`` (checkpoint, head or exported folder) with the new thresholds; see `check_target`.

    Returns:
        Backups of files in ``out`` that no export wrote.

    Raises:
        CcdError: ``model`` is missing or damaged.
    """
    if model.is_dir():
        description, weights, _ = read_folder(model)
        description = replace(description, thresholds=tuple(tuned.after.tolist()), thresholds_from=SOURCE)
        backups = keep_foreign(out)
        write_folder(out, description, weights)
        return backups
    if model.suffix == HEAD_SUFFIX:
        head_file.write(out, replace(head_file.read(model), thresholds=tuned.after, thresholds_from=SOURCE))
        return []
    checkpoint = read_student(model)[0]
    info = checkpoint.info | {"thresholds": {"values": tuned.after.tolist(), "source": SOURCE}}
    checkpoint_file.write(out, replace(checkpoint, info=info))
    return []
