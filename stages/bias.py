"""Stage bias: how sure CLIP is, on average, of each class it picks (method section 2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import bias_file, features_file, image_index, text_file
from ccd.labels.bias import class_bias, concatenate, no_bias, reliable_images, top1_of
from ccd.labels.scores import Scoring, mean_cosines
from ccd.params.file import load
from ccd.params.sections import BiasParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage


@stage
def main(images: Path, clip_global: Path, text: Path, out: Path) -> None:
    """Estimate CLIP's class bias on the training images."""
    params = load(BiasParams)
    log = StageLog("bias")
    ids, is_train = image_index.read_splits(images)
    classes = text_file.read(text)
    features = features_file.open_global(clip_global, ids, classes.attributes)
    log.reads(f"{is_train.sum():,} training images", f"{len(classes.classes)} classes")
    rows = np.flatnonzero(is_train)
    means = mean_cosines(classes, (piece for _, piece in features.pieces(rows))) if params.center_scores else None
    score = Scoring(classes, means)
    top1 = concatenate([top1_of(score(piece), score.is_distribution) for _, piece in features.pieces(rows)])
    shrinkage = params.shrinkage if params.enabled else 1.0
    if params.enabled or reliable_images(top1, params.max_entropy_nats).any():
        estimate = class_bias(top1, classes.classes, params.max_entropy_nats, shrinkage)
    else:
        estimate = no_bias(len(classes.classes))
    values = estimate.values if params.enabled else np.ones_like(estimate.values)
    without_top1 = tuple(name for name, count in zip(classes.classes, estimate.top1_counts, strict=True) if count == 0)
    content = bias_file.BiasFile(
        classes=classes.classes,
        bias=values,
        top1_counts=estimate.top1_counts,
        reliable_share=estimate.reliable_share,
        max_entropy_nats=params.max_entropy_nats,
        shrinkage=params.shrinkage,
        enabled=params.enabled,
        shrunk=without_top1,
        mean_cosines=means,
    )
    bias_file.write(out, content)
    log.wrote((out, len(values), "classes"))
    low = int(values.argmin())
    high = int(values.argmax())
    log.finding(
        f"bias from {values[low]:.3f} ({classes.classes[low]}) to {values[high]:.3f} ({classes.classes[high]});"
        f" {estimate.reliable_share:.2%} of training images are reliable;"
        f" {len(without_top1)} classes come first on none of these"
    )


if __name__ == "__main__":
    main()
