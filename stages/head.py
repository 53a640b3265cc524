"""Stage head: a linear head on CLIP's features of the whole images learns the labels; no image is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import class_table, features_file, head_file, image_index
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.features_file import GLOBAL_SCHEMA
from ccd.artifacts.image_index import same_ids
from ccd.labels.scores import sigmoid
from ccd.labels.thresholds import prevalence_thresholds
from ccd.params.file import load
from ccd.params.sections import HeadParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage
from ccd.student.probe import fit_head


@stage
def main(images: Path, clip_global: Path, pseudo_labels: Path, out: Path) -> None:
    """Fit the head, and decide each class in as many training images as the labels do."""
    params = load(HeadParams)
    log = StageLog("head")
    ids, is_train = image_index.read_splits(images)
    features = features_file.FeatureFile(clip_global, GLOBAL_SCHEMA)
    same_ids(clip_global, "clip_global", features.ids, ids)
    targets = class_table.read(pseudo_labels, PSEUDO_LABELS, ["label"])
    rows = np.flatnonzero(is_train)
    same_ids(pseudo_labels, "aggregate", targets.ids, ids.take(rows))
    labels = targets.columns["label"]
    log.reads(f"{len(rows):,} training images", f"{len(targets.classes)} classes")
    values = features.take(rows)
    linear = fit_head(values, labels, **params.model_dump())
    thresholds = prevalence_thresholds(sigmoid(linear.logits(values)), labels)
    attributes = dict(features.attributes)
    content = head_file.HeadFile(
        classes=targets.classes,
        linear=linear,
        thresholds=thresholds,
        thresholds_from="pseudo-labels",
        image_size_px=int(attributes.pop("image_size_px")),
        teacher=load(TeacherParams, as_written=True).model_dump(),
        attributes=attributes,
    )
    head_file.write(out, content)
    log.wrote((out, len(thresholds), "classes"))
    log.finding(f"{values.shape[1]} features of {attributes['teacher']}; labelling with it needs this CLIP")


if __name__ == "__main__":
    main()
