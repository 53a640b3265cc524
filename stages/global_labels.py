"""Stage global_labels: the debiased label of each whole training image (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import background_file, bias_file, class_table, features_file, image_index, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS
from ccd.artifacts.image_index import same_classes
from ccd.labels.background import background_line, find_background_images
from ccd.labels.debias import whole_image_labels
from ccd.labels.scores import Scoring
from ccd.labels.thresholds import LABELLED
from ccd.params.file import load
from ccd.params.sections import GlobalLabelsParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage


@stage
def main(images: Path, clip_global: Path, text: Path, bias: Path, out: Path, none: Path) -> None:
    """Score the training images, floor, debias and clip; tell which show none of the classes."""
    params = load(GlobalLabelsParams)
    log = StageLog("global_labels")
    ids, is_train = image_index.read_splits(images)
    classes = text_file.read(text)
    class_bias = bias_file.read(bias)
    same_classes(bias, "bias", class_bias.classes, classes.classes)
    features = features_file.open_global(clip_global, ids, classes.attributes)
    train_rows = np.flatnonzero(is_train)
    log.reads(f"{len(train_rows):,} training images", f"{len(classes.classes)} classes")
    score = Scoring(classes, class_bias.mean_cosines)
    judged = []
    positives = 0
    without = 0
    with class_table.writing(out, GLOBAL_LABELS, classes.classes, {}) as table:
        for rows, piece in features.pieces(train_rows):
            probs = score(piece)
            background = score.background_prob(piece) if params.none_rule == "background" else None
            judged.append(
                find_background_images(params.none_rule, params.none_threshold, params.none_weight, probs, background)
            )
            _, _, weights = judged[-1]
            columns = whole_image_labels(probs, class_bias.bias, params.floor, weights, score.entropy_nats)
            table.write(ids.take(rows), columns)
            positive_counts = (columns["label"] >= LABELLED).sum(axis=1)
            positives += positive_counts.sum()
            without += (positive_counts == 0).sum()
    scores, is_background, weights = (np.concatenate(column) for column in zip(*judged, strict=True))
    train_ids = ids.take(train_rows)
    background_file.write(
        none, background_file.BackgroundImages(train_ids, scores, is_background, weights, params.none_rule)
    )
    log.wrote((out, len(train_rows) * len(classes.classes), "rows (image x class)"), (none, len(train_rows), "images"))
    log.finding(
        f"{positives / len(train_rows):.2f} labels >= 0.5 per training image,"
        f" {without / len(train_rows):.1%} of images without;"
        f" {background_line(params.none_rule, is_background.mean())}"
    )


if __name__ == "__main__":
    main()
