"""How much disk a project will take, from counts; arithmetic alone, and the order of magnitude is all it promises."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.project.suggest import TOWERS, Download, student_bytes

Params = Mapping[str, Mapping[str, Any]]

_WIDEST = 1024  # embedding width of a teacher that is not known by name
_TABLE_BYTES = 40  # of one image and class, in all tables together
_VIEW_BYTES = 40
_REPORT_BYTES = 5_000_000
_SETS_OF_WEIGHTS = 4  # warm-up, last epoch, early stop, average
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Counts:
    """Images to train on, images to measure on, classes."""

    train: int
    test: int
    classes: int


def disk_bytes(params: Params, counts: Counts, wanted: Iterable[Download]) -> dict[str, int]:
    """Bytes of ``artifacts``, ``cache`` (DVC's copies of them), ``store`` and ``weights`` to download.

    Args:
        params: sections of ``params.yaml``.
        wanted: see `ccd.project.suggest.downloads`.
    """
    images, proposed = counts.train + counts.test, params["cam_boxes"]
    views = round(counts.train * (float(proposed["views_per_image"]) + int(proposed["tiles"]) ** 2))
    model = params["teacher"]["model"]
    width = TOWERS[model].embed_dim if model in TOWERS else _WIDEST
    embeddings = (images + views) * width * _FLOAT_BYTES
    tables = images * counts.classes * _TABLE_BYTES + views * _VIEW_BYTES
    weights = _SETS_OF_WEIGHTS * student_bytes(params["warmup"]["backbone"])
    artifacts = embeddings + tables + weights + _REPORT_BYTES
    store = min(embeddings, round(float(params["runtime"]["store_gb"]) * 1e9))
    fetched = sum(each.size_bytes for each in wanted)
    return {"artifacts": artifacts, "cache": artifacts, "store": store, "weights": fetched}


def disk_line(needed: Mapping[str, int]) -> str:
    """One line for a person."""
    parts = ", ".join(f"{name} {size_text(count)}" for name, count in needed.items() if count)
    return f"disk: about {size_text(sum(needed.values()))} ({parts})"


def shortages(needed: Mapping[str, int], folder: Path, wanted: Iterable[Download]) -> list[str]:
    """A line for each disk that has less free than a project in ``folder`` and the downloads need there."""
    own = sum(count for name, count in needed.items() if name != "weights")
    places: dict[int, Path] = {}
    wanted_there: Counter[int] = Counter()
    for path, count in ((folder, own), *((each.target, each.size_bytes) for each in wanted)):
        place = _existing(path)
        disk = place.stat().st_dev
        places.setdefault(disk, place)
        wanted_there[disk] += count
    free = {disk: shutil.disk_usage(place).free for disk, place in places.items()}
    return [
        f"warning: about {size_text(wanted_there[disk])} of disk are needed at {place}, and {size_text(free[disk])} "
        "are free; make room, or choose another folder"
        for disk, place in places.items()
        if wanted_there[disk] > free[disk]
    ]


def size_text(count: int) -> str:
    """A number of bytes for a person: ``40 MB``, ``1.3 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)):d} MB"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    return next(each for each in (absolute, *absolute.parents) if each.exists())
