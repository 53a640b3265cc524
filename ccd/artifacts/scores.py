"""``metrics.json`` and ``per_class.csv``: what evaluate found, for ``dvc metrics``, ``dvc plots`` and a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ccd.artifacts import csv_files
from ccd.artifacts.atomic import write_json


def write(
    metrics: Path, per_class: Path, content: dict[str, Any], rows: Sequence[Mapping[str, float | int | str]]
) -> None:
    """Write both; see `ccd.evaluation.summary` for what is in them."""
    write_json(metrics, content)
    csv_files.write(per_class, rows)
