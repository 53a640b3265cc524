"""Measures what a lower precision of the teacher changes: embeddings, scores and labels of the project's own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import Settings
from benchmarks.tables import Table
from ccd.artifacts import bias_file, image_index, text_file
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles, image_batches, indexed_files
from ccd.labels.debias import global_label
from ccd.labels.scores import clip_probs
from ccd.labels.thresholds import LABELLED
from ccd.params.file import load
from ccd.params.sections import ClipGlobalParams, DatasetParams, GlobalLabelsParams, TeacherParams
from ccd.runtime.hardware import Precision
from ccd.teacher import open_clip, openai
from ccd.teacher.encode import encode_images, remembering

COLUMNS = (
    "precision",
    "1 - cosine to fp32, mean",
    "largest",
    "score error, mean",
    "largest",
    "other top-1",
    "labels across 0.5",
)
NOTE = (
    "{teacher} at {size} px, the first {count} images of data/{name}, against the same teacher in fp32, on {device}. A "
    "score error is |s cos - s cos'| with s = {scale:g}, over images and classes; a label is the project's own of the "
    "whole image, debiased, and one across 0.5 has changed sides. On a CPU fp16 is measured for its rounding, though "
    "the stages refuse it there. tf32 rounds as fp16 does, to 10 bits, without fp16's limits of range."
)


def measure_precision(settings: Settings) -> Table:
    """Measure every precision on the images of the project in this folder, whose stage bias has run.

    Raises:
        CcdError: it has not.
    """
    name = load(DatasetParams).name
    teacher = load(TeacherParams)
    size_px = load(ClipGlobalParams).image_size_px
    folder = Path("data") / name
    if not (folder / "bias.json").exists():
        raise CcdError(
            "the stages up to global_labels have not run in this folder; run them with: dvc repro global_labels"
        )
    text = text_file.read(folder / "text.h5")
    bias = bias_file.read(folder / "bias.json").bias
    index = image_index.read(folder / "images.parquet")
    files = indexed_files(load(DatasetParams).root, index)
    rows = np.arange(min(settings.count, len(index)))
    device = settings.hardware.device
    precisions: tuple[Precision, ...] = ("tf32", "bf16", "fp16") if settings.on_gpu else ("bf16", "fp16")
    exact = _features(settings, teacher, "fp32", files, rows, size_px)
    scale = text.logit_scale

    def labels(features: np.ndarray) -> np.ndarray:
        probs = clip_probs(features, text.values, scale)
        return global_label(probs, bias, load(GlobalLabelsParams).floor) >= LABELLED

    def line(precision: Precision) -> list[str]:
        found = _features(settings, teacher, precision, files, rows, size_px)
        away = 1 - (found * exact).sum(axis=1)
        scores = [scale * features @ text.values.T for features in (exact, found)]
        error = np.abs(scores[0] - scores[1])
        other = (scores[0].argmax(axis=1) != scores[1].argmax(axis=1)).mean()
        crossed = (labels(exact) != labels(found)).mean()
        numbers = (away.mean(), away.max(), error.mean(), error.max())
        return [precision, *(f"{number:.2g}" for number in numbers), f"{other:.2%}", f"{crossed:.3%}"]

    named = f"{teacher.backend} {teacher.model}"
    note = NOTE.format(teacher=named, size=size_px, count=len(rows), name=name, scale=scale, device=device)
    return Table("What a lower precision changes", note, COLUMNS, [line(precision) for precision in precisions])


def _features(
    settings: Settings, params: TeacherParams, precision: Precision, files: ImageFiles, rows: np.ndarray, size_px: int
) -> np.ndarray:
    """Embed images, (m, D) float32."""
    device = settings.hardware.device
    chosen: dict[str, Any] = {"normalization": params.normalization, "precision": precision, "device": device}
    chosen |= {"sha256": None, "remember": remembering(None)}
    if params.backend == "clip":
        teacher = openai.load(params.model, **chosen)
    else:
        teacher = open_clip.load(params.model, params.pretrained, **chosen)
    names = [str(row) for row in range(len(files))]
    batches = image_batches(files, rows, size_px, settings.batch_size, settings.hardware.workers)
    return np.concatenate([features for _, features in encode_images(teacher, batches, names)])
