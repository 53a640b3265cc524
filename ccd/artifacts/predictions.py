"""``predictions.parquet``: what teacher and student say of every test image, labelled or not."""

from __future__ import annotations

import pyarrow as pa

from ccd.artifacts.class_table import TableSpec

PREDICTIONS = TableSpec(
    "ccd.predictions/1",
    (
        ("zero_shot_prob", pa.float32(), False, "the teacher's p of the whole image"),
        ("student_prob", pa.float32(), False, "sigmoid(logit) of the selected student"),
    ),
    "evaluate",
)
