"""Measure on real images how far an exported model is from the student in PyTorch, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ccd.artifacts import class_table, classes_file, image_index
from ccd.artifacts.class_table import LABELS
from ccd.datasets.image_search import find_images
from ccd.errors import CcdError, listed, url_of
from ccd.evaluation.metrics import measure
from ccd.images.batches import ImageFiles, image_batches, indexed_files
from ccd.labels.thresholds import decide
from ccd.params.file import PARAMS_FILE, load
from ccd.params.sections import DatasetParams, EvaluateParams
from ccd.student.transforms import to_unit

BATCH = 8
_ROUNDS = 5


@dataclass(frozen=True)
class Truth:
    """Ground truth of n images: ``label`` (n, C) int8, ``difficult`` (n, C) bool, and how stage evaluate counts."""

    label: np.ndarray
    difficult: np.ndarray
    counting: EvaluateParams


@dataclass(frozen=True)
class RealImages:
    """Images to calibrate on, and n others to ``check`` an export on.

    ``calibrate_from`` and ``check_from`` say in words where they are from. ``truth``: of the images to check on; None
    if unknown.
    """

    calibrate: ImageFiles
    check: ImageFiles
    calibrate_from: str
    check_from: str
    truth: Truth | None = None


@dataclass(frozen=True)
class ImageChoice:
    """``folder``: take images from it; None: from the model's project. ``calibrate``, ``check``: largest numbers."""

    folder: Path | None
    calibrate: int
    check: int


def choose_images(choice: ImageChoice, model: Path, classes: tuple[str, ...]) -> RealImages | None:
    """Choose images for a model of ``classes``, see `folder_images` and `project_images`; None: to check on none."""
    if choice.check == 0:
        return None
    if choice.folder is not None:
        return folder_images(choice.folder, choice.calibrate, choice.check)
    return project_images(model, classes, choice.calibrate, choice.check)


def folder_images(root: Path, calibrate: int, check: int) -> RealImages:
    """Choose images in a folder: at most half of them, and ``calibrate``, to calibrate on; of the others ``check``.

    Raises:
        CcdError: ``root`` is no folder, or has no images.
    """
    if not root.is_dir():
        raise CcdError(f"{root}: no such folder; give --images a folder of images such as the model will see")
    paths = find_images(root)
    if not paths:
        raise CcdError(f"no images in {root}; give --images a folder of images such as the model will see")
    rows = np.arange(len(paths))
    first, second = _apart(rows, min(calibrate, (len(rows) + 1) // 2), check)
    files = [ImageFiles([root / paths[row] for row in chosen.tolist()]) for chosen in (first, second)]
    return RealImages(files[0], files[1], "a folder of images", "a folder of images")


def project_images(model: Path, classes: tuple[str, ...], calibrate: int, check: int) -> RealImages | None:
    """Choose images of the project that a model belongs to.

    Those to calibrate on are training images. Those to check on are test images, with known labels if there are any;
    without test images, other training images. All are evenly spaced in the index.

    Args:
        model: a file in ``data/NAME`` of a project, or one elsewhere, for which the project in the working directory is
            taken if it has the same ``classes``.

    Returns:
        None if there is no such project, or the folder of its images is not there.

    Raises:
        CcdError: a file of the project is damaged.
    """
    folder = _artifacts(model)
    if folder is None or classes_file.read(folder / "classes.json").names != classes:
        return None
    params = folder.parents[1] / PARAMS_FILE
    dataset = load(DatasetParams, params)
    is_remote = url_of(dataset.root) is not None
    root = dataset.root if is_remote else str(folder.parents[1] / dataset.root)
    if dataset.name != folder.name or not (is_remote or Path(root).is_dir()):
        return None
    index = image_index.read(folder / "images.parquet")
    labels = folder / "labels.parquet"
    truth = class_table.read(labels, LABELS, of=classes) if labels.is_file() else None
    row_of = {} if truth is None else {name: row for row, name in enumerate(truth.ids)}
    rows = index.test_rows
    labelled = np.asarray([row for row in rows.tolist() if index.ids[row] in row_of], np.int64)
    first, second = _apart(index.train_rows, calibrate, check)
    if len(rows):
        second = _evenly(labelled if len(labelled) else rows, check)
    files = [indexed_files(root, index.take(chosen)) for chosen in (first, second)]
    check_from = "test images" if len(rows) else "training images"
    if truth is None or not len(labelled):
        return RealImages(files[0], files[1], "training images", check_from)
    known = [row_of[index.ids[row]] for row in second.tolist()]
    table = {name: truth.columns[name][known] for name in ("label", "difficult")}
    return RealImages(
        files[0], files[1], "training images", check_from, Truth(**table, counting=load(EvaluateParams, params))
    )


def _artifacts(model: Path) -> Path | None:
    """Return the folder of artifacts that a model belongs to, absolute; None if none is found."""
    places = [model.parent]
    if PARAMS_FILE.is_file():
        places.append(Path("data") / load(DatasetParams).name)
    needed = ("images.parquet", "classes.json")
    whole = (place.resolve() for place in places if all((place / name).is_file() for name in needed))
    return next((place for place in whole if (place.parents[1] / PARAMS_FILE).is_file()), None)


def _apart(rows: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose ``first`` of ``rows`` and ``second`` of the others; a row that is alone is chosen twice."""
    chosen = _evenly(rows, first)
    others = np.setdiff1d(rows, chosen)
    return chosen, _evenly(others if len(others) else rows, second)


def _evenly(rows: np.ndarray, wanted: int) -> np.ndarray:
    """Choose at most ``wanted`` of ``rows`` (n,), evenly spaced."""
    count = min(wanted, len(rows))
    return rows[np.arange(count) * len(rows) // max(count, 1)]


def unit_batches(files: ImageFiles, size_px: int) -> Iterator[Tensor]:
    """Yield the images as a student reads them, (b, 3, S, S) float32 in [0, 1]; `CcdError` names one it cannot read."""
    for _, pixels in image_batches(files, np.arange(len(files)), size_px, BATCH, workers=0):
        yield to_unit(pixels)


@dataclass(frozen=True)
class Agreement:
    """Comparison with the student on ``images`` images, ``images_from`` in words.

    ``largest`` and ``mean``: absolute difference of a probability. ``decisions``: share of the decisions (image x
    class, at the model's thresholds) that differ; ``answers``: share of images whose set of classes differs.
    ``positives``: share of decisions that are "present" in the student. ``mean_ap``: mAP in % of student and export
    over ``classes_counted`` classes, None without ground truth.
    """

    images: int
    images_from: str
    largest: float
    mean: float
    decisions: float
    answers: float
    positives: float
    mean_ap: tuple[float, float] | None
    classes_counted: int

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, of three digits, or two behind the point for mAP."""
        shares = {"largest_difference": self.largest, "mean_difference": self.mean}
        shares |= {"decisions_that_differ": self.decisions, "images_with_other_classes": self.answers}
        shares |= {"decisions_present": self.positives}
        rounded = {name: float(f"{value:.3g}") for name, value in shares.items()}
        means = None
        if self.mean_ap is not None:
            student, export = self.mean_ap
            means = {"student": round(student, 2), "export": round(export, 2), "classes_counted": self.classes_counted}
        return {"images": self.images, "images_from": self.images_from, **rounded, "mAP": means}


def compare(
    student: Callable[[Tensor], Tensor],
    export: Callable[[Tensor], Tensor],
    images: RealImages,
    classes: tuple[str, ...],
    cuts: np.ndarray,
    size_px: int,
) -> Agreement:
    """Compare two functions from pixels (b, 3, S, S) float32 in [0, 1] to probabilities (b, C).

    Args:
        cuts: thresholds, (C,).

    Raises:
        CcdError: an image cannot be read, or the export gives NaN or Inf.
    """
    parts = [(student(pixels).numpy(), export(pixels).numpy()) for pixels in unit_batches(images.check, size_px)]
    expected, actual = (np.concatenate(each) for each in zip(*parts, strict=True))
    broken = np.flatnonzero(~np.isfinite(actual).all(axis=1))
    if len(broken):
        where = listed([images.check.paths[row] for row in broken.tolist()], 3)
        raise CcdError(f"the exported model gives NaN or Inf for {where}; nothing was written; use --precision fp32")
    difference = np.abs(actual.astype(np.float64) - expected)
    present = decide(expected, cuts)
    differs = decide(actual, cuts) != present
    mean_ap, counted = _mean_ap(expected, actual, images.truth, classes)
    return Agreement(
        images=len(expected),
        images_from=images.check_from,
        largest=float(difference.max()),
        mean=float(difference.mean()),
        decisions=float(differs.mean()),
        answers=float(differs.any(axis=1).mean()),
        positives=float(present.mean()),
        mean_ap=mean_ap,
        classes_counted=counted,
    )


def _mean_ap(
    expected: np.ndarray, actual: np.ndarray, truth: Truth | None, classes: tuple[str, ...]
) -> tuple[tuple[float, float] | None, int]:
    """Return mAP in % of both tables (n, C), None without ground truth, and the number of classes counted."""
    if truth is None:
        return None, 0
    difficult, min_positives = truth.counting.counted()
    tables = {"student": expected, "export": actual}
    result = measure(
        tables, truth.label, truth.difficult, classes, treat_difficult=difficult, min_positives=min_positives
    )
    student, export = (result.mean_ap[name] for name in tables)
    if student is None or export is None:
        return None, 0
    return (student, export), len(classes) - len(result.left_out)


def images_per_second(sessions: Mapping[str, Any], pixels: Tensor) -> dict[str, float]:
    """Time onnxruntime sessions on one batch of pixels (b, 3, S, S), in turns; the fastest of five counts.

    The turns let a busy machine slow all of them alike, so that their ratio holds where the numbers do not.
    """
    inputs = {"pixels": pixels.contiguous().numpy()}
    fastest = dict.fromkeys(sessions, float("inf"))
    for turn in range(_ROUNDS + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(["logits"], inputs)
            taken = time.perf_counter() - start
            fastest[name] = min(fastest[name], taken) if turn else fastest[name]  # the first turn sets memory up
    return {name: len(pixels) / seconds for name, seconds in fastest.items()}
