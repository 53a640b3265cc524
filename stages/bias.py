"""Stage bias: how sure CLIP is, on average, of each class it picks (method section 2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import bias_file, features_file, image_index, text_file
from ccd.labels.bias import class_bias, joined, sureness
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import BiasParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage


@stage
def main(images: Path, clip_global: Path, text: Path, out: Path) -> None:
    """Estimate CLIP's class bias on the training images."""
    params = load(BiasParams)
    log = StageLog("bias")
    (ids, is_train) = image_index.read_splits(images)
    words = text_file.read(text)
    looked = features_file.open_global(clip_global, ids, words.attributes)
    log.reads(f"{is_train.sum():,} training images", f"{len(words.classes)} classes")
    pieces = (values for _, values in looked.pieces(np.flatnonzero(is_train)))
    sure = joined([sureness(clip_probs(values, words.values, words.logit_scale)) for values in pieces])
    shrinkage = params.shrinkage if params.enabled else 1.0
    found = class_bias(sure, words.classes, params.max_entropy_nats, shrinkage)
    values = found.values if params.enabled else np.ones_like(found.values)
    empty = tuple(name for name, count in zip(words.classes, found.top1_counts, strict=True) if count == 0)
    content = bias_file.BiasFile(
        words.classes,
        values,
        found.top1_counts,
        found.reliable_share,
        params.max_entropy_nats,
        params.shrinkage,
        params.enabled,
        empty,
    )
    bias_file.write(out, content)
    log.wrote((out, len(values), "classes"))
    low = int(values.argmin())
    high = int(values.argmax())
    log.found(
        f"bias from {values[low]:.3f} ({words.classes[low]}) to {values[high]:.3f} ({words.classes[high]});"
        f" {found.reliable_share:.2%} of training images are reliable; {len(empty)} classes come first on none of these"
    )


if __name__ == "__main__":
    main()
