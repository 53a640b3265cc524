"""The four tables of image x class: known labels, global labels, pseudo-labels and predictions."""

from __future__ import annotations

import pyarrow as pa

from ccd.artifacts.class_table import TableSpec

LABELS = TableSpec(
    "ccd.labels/1",
    (
        ("label", pa.int8(), False, "1: the class is present, 0: it is not; images without known labels have no rows"),
        ("difficult", pa.bool_(), False, "all objects of the class in the image are marked difficult"),
    ),
    "index",
)


GLOBAL_LABELS = TableSpec(
    "ccd.global_labels/1",
    (
        ("prob", pa.float32(), False, "p: softmax over classes of s * cosine (method section 1)"),
        ("entropy_nats", pa.float32(), False, "H of the image's p, the same for all its classes (section 2)"),
        ("label", pa.float32(), False, "q = clip(max(p, floor) / b, 0, 1) (section 3)"),
    ),
    "global_labels",
)


PSEUDO_LABELS = TableSpec(
    "ccd.pseudo_labels/2",
    (
        ("global_prob", pa.float32(), False, "p of the whole image"),
        ("local_prob", pa.float32(), True, "largest p over the image's local views; null: the image has none"),
        ("global_label", pa.float32(), False, "q, from global_prob (method section 3)"),
        ("local_label", pa.float32(), False, "l, from local_prob (section 6); q where the image has no view"),
        ("label", pa.float32(), False, "y = clip(alpha * q + (1 - alpha) * l, 0, 1) (section 7): the training target"),
        ("box_id", pa.int64(), True, "the view with the largest p, as in boxes.parquet; null: the image has none"),
        ("correction", pa.int8(), True, "what a person decided: 1 present, 0 absent; null: nobody did"),
        ("uncorrected_label", pa.float32(), True, "y before the correction; null: there is none, label is y"),
    ),
    "aggregate",
)


PREDICTIONS = TableSpec(
    "ccd.predictions/1",
    (
        ("zero_shot_prob", pa.float32(), False, "the teacher's p of the whole image"),
        ("student_prob", pa.float32(), False, "sigmoid(logit) of the selected student"),
    ),
    "evaluate",
)
