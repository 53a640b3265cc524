"""``labels.parquet``: ground truth. Read by evaluate, report and the studies alone (a test proves it)."""

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
