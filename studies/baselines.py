"""Rankings of the test images by the teacher alone, without training and without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from ccd.artifacts import boxes_file, class_table, features_file, image_index, text_file
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.text_file import TextEmbeddings
from ccd.evaluation.summary import Scores
from ccd.labels.debias import aggregate, best_view
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import TeacherParams
from ccd.runtime.hardware import set_up_hardware
from ccd.teacher.encode import class_embeddings, load_teacher
from studies.sparc import compound_pairs, sparc_scores

TrainingFree = Literal["standardised", "sparc", "dense"]


def training_free_scores(data: Path, params: Path, method: TrainingFree) -> Scores:
    """Score the test images of a run.

    ``standardised`` is the z of `studies.sparc` and needs no prompt beside the classes' own. ``sparc`` encodes compound
    prompts, which pseudo-labels choose. ``dense`` is `dense_scores` of the plain softmax over the classes.

    Args:
        data: the run's artifacts.
        params: its ``params.yaml``; relative paths in it must hold in the working directory.

    Returns:
        One table (N, C), named by the method.
    """
    index = image_index.read(data / "images.parquet")
    text = text_file.read(data / "text.h5")
    file = features_file.open_global(data / "clip_global.h5", index.ids, text.attributes)
    features = file.take(index.test_rows).astype(np.float64)
    if method == "dense":
        regions = boxes_file.RegionFile(data / "regions.h5", index.ids)
        image_rows = np.nonzero(regions.exist[index.test_rows])[0]
        pieces = [clip_probs(piece, text.values, text.logit_scale) for piece in regions.features(index.test_rows)]
        probs = clip_probs(features, text.values, text.logit_scale)
        return Scores(index.test().ids, {method: dense_scores(probs, np.concatenate([probs[:0], *pieces]), image_rows)})
    cosines = features @ text.values.astype(np.float64).T
    if method == "standardised":
        scores, _ = sparc_scores(cosines, np.empty((len(cosines), 0)), [])
        return Scores(index.test().ids, {method: scores})
    labels = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"], of=text.classes)
    pairs = compound_pairs(labels.columns["label"])
    _, scores = sparc_scores(cosines, features @ compound_embeddings(text, pairs, params).T, pairs)
    return Scores(index.test().ids, {method: scores})


def compound_embeddings(text: TextEmbeddings, pairs: list[tuple[int, int]], params: Path) -> np.ndarray:
    """Return CLIP's embeddings (P, D) float64 of "A and B" in the templates of ``text``; each by its first text."""
    if not pairs:
        return np.empty((0, text.values.shape[1]))
    teacher = load_teacher(**load(TeacherParams, params).model_dump(), device=set_up_hardware().device)
    phrases = [(f"{text.texts[a][0]} and {text.texts[b][0]}",) for a, b in pairs]
    return np.asarray(class_embeddings(teacher, phrases, text.templates).numpy(), np.float64)


def dense_scores(
    global_probs: np.ndarray, region_probs: np.ndarray, image_rows: np.ndarray, weight: float = 0.5
) -> np.ndarray:
    """Return weight * p of the whole image + (1 - weight) * the largest p over its regions, (N, C) float64.

    Args:
        global_probs: (N, C).
        region_probs: (R, C) of patches or regions, from the pass that gave the image's own embedding.
        image_rows: (R,) the image of each region, in 0..N - 1; an image without any keeps its global probability.
    """
    largest, _ = best_view(region_probs, image_rows, len(global_probs))
    return aggregate(global_probs, np.where(np.isnan(largest), global_probs, largest), weight)
