"""``pseudo_labels.parquet``: the labels that the student is trained on, and how each came about."""

from __future__ import annotations

import pyarrow as pa

from ccd.artifacts.class_table import TableSpec

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
