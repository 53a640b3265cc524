"""Thresholds tuned on a few labelled images that are given on purpose; the pipeline never does this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ccd.artifacts import checkpoint_file
from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
from ccd.artifacts.files import is_stream
from ccd.datasets.image_search import find_images
from ccd.datasets.label_table import read_label_table
from ccd.deploy.classifier import Classifier
from ccd.deploy.load import DESCRIPTION, WEIGHTS, keep_foreign, read_folder, read_student, write_folder
from ccd.deploy.stream import scored
from ccd.errors import CcdError
from ccd.evaluation.metrics import f1
from ccd.labels.thresholds import best_f1_thresholds, decide

SOURCE = "labelled images"


@dataclass(frozen=True)
class Tuned:
    """Per class: images with it, thresholds and F1 in [0, 1] (NaN without images) before and after, on the ``images``
    labelled ones that the new thresholds were chosen on."""

    classes: tuple[str, ...]
    images: int
    positives: np.ndarray
    before: np.ndarray
    after: np.ndarray
    f1_before: np.ndarray
    f1_after: np.ndarray


def tune(classifier: Classifier, labels: Path, root: Path, batch_size: int, workers: int) -> Tuned:
    """Find the thresholds with the largest F1 on the images under ``root`` that the CSV ``labels`` has rows for.

    A class that none of them shows keeps its threshold.

    Raises:
        CcdError: no such files, rows that name no image or class (see `ccd.datasets.label_table`), an unreadable image.
    """
    classes = classifier.description.spec.classes
    if not labels.is_file():
        raise CcdError(f"{labels}: no such file; give a CSV with the columns path and classes (several with ';')")
    if not root.is_dir():
        raise CcdError(f"{root}: no such folder; give the folder that the paths in {labels} are relative to")
    known = read_label_table(labels, find_images(root), classes, root)
    if not known:
        raise CcdError(f"{labels} has no rows; label at least a few images of every class")
    positives = np.zeros((len(known), len(classes)), bool)
    for row, found in enumerate(known.values()):
        positives[row, list(found.columns)] = True
    probs = []
    for batch in scored(classifier, [root / path for path in known], batch_size, workers):
        for problem in batch.problems:
            raise CcdError(problem.reason)
        probs.append(batch.probs)
    return _tuned(classes, np.concatenate(probs), positives, classifier.description.cuts)


def _tuned(classes: tuple[str, ...], probs: np.ndarray, positives: np.ndarray, before: np.ndarray) -> Tuned:
    after = best_f1_thresholds(probs, positives, before)
    scores = [f1(decide(probs, cuts), positives) for cuts in (before, after)]
    return Tuned(classes, len(probs), positives.sum(axis=0), before, after, *scores)


def check_target(model: Path, out: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse a place for the tuned copy of ``model``, before any work.

    Args:
        read: what else is read, and must not be written over.

    Raises:
        CcdError: it is the model itself or one of ``read``, something is there and ``force`` is not given, or its name
            is none that a model is opened by.
    """
    if out.resolve() == model.resolve():
        raise CcdError(f"{out} is the model itself; give another name, since the pipeline owns that one")
    files = [out / WEIGHTS, out / DESCRIPTION] if model.is_dir() else [out]
    if model.is_dir() and (out.suffix == ".onnx" or (out.exists() and not out.is_dir())):
        raise CcdError(f"{out}: the tuned copy of a folder is a folder; give another name")
    if not model.is_dir() and out.suffix != ".pt" and not is_stream(out):
        raise CcdError(f"{out}: the name of a checkpoint must end in .pt")
    refuse_inputs(files, [*([model / WEIGHTS, model / DESCRIPTION] if model.is_dir() else [model]), *read])
    refuse_folders(files)
    refuse_existing(files, force=force)


def save_tuned(model: Path, out: Path, tuned: Tuned) -> list[Path]:
    """Write the model of ``model`` (a checkpoint or an exported folder) with the new thresholds as ``out``; see
    `check_target`.

    Returns:
        Copies of files in ``out`` that no export wrote.

    Raises:
        CcdError: ``model`` is missing or damaged.
    """
    if model.is_dir():
        description, weights, _ = read_folder(model)
        changed = replace(description, thresholds=tuple(tuned.after.tolist()), thresholds_from=SOURCE)
        kept = keep_foreign(out)
        write_folder(out, changed, weights)
        return kept
    found = read_student(model)[0]
    info = found.info | {"thresholds": {"values": tuned.after.tolist(), "source": SOURCE}}
    checkpoint_file.write(out, replace(found, info=info))
    return []
