"""Stage global_labels: the debiased label of each whole training image (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import (
    background_file,
    bias_file,
    class_table,
    features_file,
    image_index,
    text_file,
)
from ccd.artifacts.class_table import GLOBAL_LABELS
from ccd.artifacts.image_index import same_classes
from ccd.labels.background import background_prob, find_none, none_said
from ccd.labels.debias import whole_image_labels
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import GlobalLabelsParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage


@stage
def main(images: Path, clip_global: Path, text: Path, bias: Path, out: Path, none: Path) -> None:
    """Score the training images, floor, debias and clip; tell which show none of the classes."""
    params = load(GlobalLabelsParams)
    log = StageLog("global_labels")
    (ids, is_train) = image_index.read_splits(images)
    words = text_file.read(text)
    debias = bias_file.read(bias)
    found = []
    positives = 0
    without = 0
    same_classes(bias, "bias", debias.classes, words.classes)
    looked = features_file.open_global(clip_global, ids, words.attributes)
    train = np.flatnonzero(is_train)
    log.reads(f"{len(train):,} training images", f"{len(words.classes)} classes")
    with class_table.writing(out, GLOBAL_LABELS, words.classes, {}) as table:
        for rows, values in looked.pieces(train):
            probs = clip_probs(values, words.values, words.logit_scale)
            outside = background_prob(values, words.values, words.background, words.logit_scale)
            found.append(find_none(params.none_rule, params.none_threshold, params.none_weight, probs, outside))
            columns = whole_image_labels(probs, debias.bias, params.floor, found[-1][2])
            table.write(ids.take(rows), columns)
            labelled = (columns["label"] >= 0.5).sum(axis=1)
            positives = positives + labelled.sum()
            without = without + (labelled == 0).sum()
    scores, empty, weights = (np.concatenate(column) for column in zip(*found, strict=True))
    background_file.write(none, background_file.NoneImages(ids.take(train), scores, empty, weights, params.none_rule))
    log.wrote((out, len(train) * len(words.classes), "rows (image x class)"), (none, len(train), "images"))
    said = (
        f"{positives / len(train):.2f} labels >= 0.5 per training image, {without / len(train):.1%} of images without"
    )
    log.found(f"{said}; {none_said(params.none_rule, empty.mean())}")


if __name__ == "__main__":
    main()
