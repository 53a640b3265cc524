"""The CSV artifacts (training curves, per-class table), for ``dvc plots`` and a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from ccd.artifacts.atomic import replacing


def write(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write rows with the first row's keys as header. Numbers are written in full."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
