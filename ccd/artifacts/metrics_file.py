"""``metrics.json``, ``per_class.csv`` and the training curves: readable for people, and read by the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.files import unreadable, write_csv, write_json
from ccd.errors import is_refusal


def write(
    metrics: Path, per_class: Path, content: dict[str, Any], rows: Sequence[Mapping[str, float | int | str]]
) -> None:
    """Write ``metrics.json`` and ``per_class.csv``; `ccd.evaluation.summary` describes their content."""
    write_json(metrics, content)
    write_csv(per_class, rows)


@dataclass(frozen=True)
class SplitMetrics:
    """``mean_ap``: score table -> mAP in %, None where no class could be counted, over ``images`` labelled images.

    ``left_out``: text for people that names the classes that no mean counts; see `uncounted`.
    """

    mean_ap: dict[str, float | None]
    images: int
    classes_counted: int
    left_out: str


def read_metrics(path: Path) -> dict[str, SplitMetrics]:
    """Read ``metrics.json`` by split (train, test). Raises CcdError if it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {split: _split(content[split]) for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error, "evaluate") from None


def _split(content: dict[str, Any]) -> SplitMetrics:
    means = {name: None if value is None else float(value) for name, value in content["mAP"].items()}
    counted = int(content["classes_counted"])
    left_out = str(content["classes_left_out"])
    return SplitMetrics(means, int(content["labelled_images"]), counted, left_out)


def uncounted(metrics: SplitMetrics, per_class: Mapping[str, Mapping[str, float]], split: str) -> set[str]:
    """Return the classes that no mean of ``split`` counts: those with the fewest positives.

    Args:
        per_class: see `read_per_class`.
    """
    by_positives = sorted(per_class, key=lambda name: -per_class[name].get(f"{split}_positives", 0.0))
    return set(by_positives[metrics.classes_counted :])


def read_per_class(path: Path) -> dict[str, dict[str, float]]:
    """Read ``per_class.csv`` as class -> column -> number, without empty cells; errors as in `read_metrics`."""
    try:
        rows = _csv_rows(path)
        return {row.pop("class"): _numbers(row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise _unreadable(path, error, "evaluate") from None


def read_curve(path: Path, stage: str) -> list[dict[str, float]]:
    """Read training curves, one mapping of columns per epoch, in order. Raises CcdError if missing or malformed."""
    try:
        return [_numbers(row) for row in _csv_rows(path)]
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise _unreadable(path, error, stage) from None


def _unreadable(path: Path, error: Exception, stage: str) -> Exception:
    if is_refusal(error):
        return error
    return unreadable(path, error if isinstance(error, OSError) else f"malformed: {error!r}", stage)


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value != ""}
