"""Stage global_labels: the debiased label of each whole training image (method section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import bias as bias_file, class_table, features, image_index, none_images, text as text_file
from ccd.artifacts.align import same_classes
from ccd.artifacts.global_labels import SPEC
from ccd.console import StageLog, stage
from ccd.labels.debias import global_label
from ccd.labels.none_images import background_prob, find_none
from ccd.labels.scores import clip_probs, entropy_nats
from ccd.params.base import load
from ccd.params.global_labels import GlobalLabelsParams


@stage
def main(images: Path, clip_global: Path, text: Path, bias: Path, out: Path, none: Path) -> None:
    """Score the training images, floor, debias and clip; tell which show none of the classes."""
    params, log, index = load(GlobalLabelsParams), StageLog("global_labels"), image_index.read(images)
    words, debias = text_file.read(text), bias_file.read(bias)
    looked = features.read_global(clip_global, index, words.attributes)[index.is_train]
    same_classes(bias, "bias", debias.classes, words.classes)
    train = index.train()
    log.reads(f"{len(train):,} training images", f"{len(words.classes)} classes")
    probs = clip_probs(looked, words.values, words.logit_scale)
    outside = background_prob(looked, words.values, words.background, words.logit_scale)
    empty = find_none(params.none_rule, params.none_threshold, params.none_weight, probs, outside)
    label = global_label(probs, debias.bias, params.floor) * empty[2][:, None]
    entropy = np.broadcast_to(entropy_nats(probs)[:, None], probs.shape)
    columns = {"prob": probs, "entropy_nats": entropy, "label": label}
    class_table.write(out, SPEC, class_table.ClassTable(train.ids, words.classes, columns, {}))
    none_images.write(none, none_images.NoneImages(train.ids, *empty, params.none_rule))
    log.wrote((out, label.size, "rows (image x class)"), (none, len(train), "images"))
    shares = f"{(label.max(axis=1) < 0.5).mean():.1%} of images have none, {empty[1].mean():.1%} show no class"
    log.found(f"{(label >= 0.5).sum(axis=1).mean():.2f} labels >= 0.5 an image; {shares} (rule: {params.none_rule})")


if __name__ == "__main__":
    main()
