"""Stage global_labels: the debiased label of each whole training image (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import bias as bias_file, class_table, features, image_index, text as text_file
from ccd.artifacts.align import same_classes
from ccd.artifacts.global_labels import SPEC
from ccd.console import StageLog, stage
from ccd.labels.debias import global_label
from ccd.labels.scores import clip_probs, entropy_nats
from ccd.params.base import load
from ccd.params.global_labels import GlobalLabelsParams


@stage
def main(images: Path, clip_global: Path, text: Path, bias: Path, out: Path) -> None:
    """Score the training images, floor, debias and clip."""
    params, log = load(GlobalLabelsParams), StageLog("global_labels")
    index = image_index.read(images)
    words, debias = text_file.read(text), bias_file.read(bias)
    looked = features.open_global(clip_global, index, words.attributes)
    same_classes(bias, "bias", debias.classes, words.classes)
    train = index.train_rows
    log.reads(f"{len(train):,} training images", f"{len(words.classes)} classes")
    positives = without = 0
    with class_table.writing(out, SPEC, words.classes, {}) as table:
        for rows, values in looked.pieces(train):
            probs = clip_probs(values, words.values, words.logit_scale)
            label = global_label(probs, debias.bias, params.floor)
            entropy = np.broadcast_to(entropy_nats(probs)[:, None], probs.shape)
            table.write([index.ids[row] for row in rows], {"prob": probs, "entropy_nats": entropy, "label": label})
            positives += (label >= 0.5).sum()
            without += (label.max(axis=1) < 0.5).sum()
    log.wrote((out, len(train) * len(words.classes), "rows (image x class)"))
    log.found(f"{positives / len(train):.2f} labels >= 0.5 an image; {without / len(train):.1%} of images have none")


if __name__ == "__main__":
    main()
