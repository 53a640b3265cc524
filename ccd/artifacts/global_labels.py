"""``global_labels.parquet``: what CLIP says of each whole training image, before and after debiasing."""

from __future__ import annotations

import pyarrow as pa

from ccd.artifacts.class_table import TableSpec

GLOBAL_LABELS = TableSpec(
    "ccd.global_labels/1",
    (
        ("prob", pa.float32(), False, "p: softmax over classes of s * cosine (method section 1)"),
        ("entropy_nats", pa.float32(), False, "H of the image's p, the same for all its classes (section 2)"),
        ("label", pa.float32(), False, "q = clip(max(p, floor) / b, 0, 1) (section 3)"),
    ),
    "global_labels",
)
