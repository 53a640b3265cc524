"""Time and disk that a pipeline will take, from seconds per image; arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ccd.project.rates import TOWERS, Params, Rates
from ccd.project.suggest import Download

STARTUP_S = 5.0  # of a Python process with its libraries
_TABLE_BYTES = 40  # of one image and class, in all tables together
_VIEW_BYTES = 40
_REPORT_BYTES = 5_000_000
_SETS_OF_WEIGHTS = 4  # warm-up, last epoch, early stop, average


@dataclass(frozen=True)
class Estimate:
    """``seconds`` per stage; ``disk_bytes`` by what they hold."""

    seconds: dict[str, float]
    disk_bytes: dict[str, int]

    @property
    def total_s(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())

    @property
    def total_bytes(self) -> int:
        """Of everything."""
        return sum(self.disk_bytes.values())


@dataclass(frozen=True)
class Counts:
    """Images to train on, images to measure on, classes."""

    train: int
    test: int
    classes: int


def estimate(
    params: Params, rates: Rates, counts: Counts, index_s: float, workers: int, overlaps: bool, fetched: int
) -> Estimate:
    """What a run from scratch takes.

    Args:
        index_s: seconds that reading and checking all images took.
        workers: processes that decode images.
        overlaps: decoding and computing go on at the same time (on a GPU); else they share the cores.
        fetched: bytes of weights that are not there yet.
    """
    read = rates.read / max(1, workers)

    def each(compute: float) -> float:
        return max(read, compute) if overlaps else read + compute

    images, proposed = counts.train + counts.test, params["cam_boxes"]
    views = float(proposed["views_per_image"]) + int(proposed["tiles"]) ** 2
    seconds = dict.fromkeys(("index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes",
                             "clip_local", "aggregate", "train", "evaluate", "report"), STARTUP_S)  # fmt: skip
    seconds["index"] += index_s
    seconds["clip_global"] += images * each(rates.teacher_global)
    seconds["warmup"] += params["warmup"]["epochs"] * counts.train * each(rates.warmup_step)
    seconds["cam_boxes"] += counts.train * each(rates.propose)
    seconds["clip_local"] += counts.train * views * each(rates.teacher_local)
    seconds["train"] += counts.train * (params["train"]["epochs"] * each(rates.train_step) + each(rates.score))
    seconds["evaluate"] += counts.test * each(_SETS_OF_WEIGHTS * rates.score)
    embeddings = round((images + views * counts.train) * rates.embed_dim * 4)
    tables = round(images * counts.classes * _TABLE_BYTES + views * counts.train * _VIEW_BYTES)
    artifacts = embeddings + tables + _SETS_OF_WEIGHTS * rates.student_bytes + _REPORT_BYTES
    store = min(embeddings, round(float(params["runtime"]["store_gb"]) * 1e9))
    disk = {"artifacts": artifacts, "DVC's cache": artifacts, "store": store, "weights to download": fetched}
    return Estimate(seconds, disk)


def download_bytes(wanted: Iterable[Download], student_bytes: int) -> int:
    """How much will be fetched, about."""
    return sum(TOWERS[each.name][-1] * 2**20 if each.role == "teacher" else student_bytes for each in wanted)


def estimate_lines(found: Estimate) -> list[str]:
    """A small table for a person."""
    rows = [*found.seconds.items(), ("all stages", found.total_s)]
    lines = [f"  {name:14} {duration(value):>12}" for name, value in rows]
    parts = ", ".join(f"{name} {_size(value)}" for name, value in found.disk_bytes.items() if value)
    return [*lines, f"  disk           {_size(found.total_bytes):>12}  ({parts})"]


def estimate_data(found: Estimate) -> Mapping[str, Any]:
    """The same for programs."""
    return {
        "seconds": {name: round(value, 1) for name, value in found.seconds.items()},
        "total_seconds": round(found.total_s, 1),
        "disk_bytes": found.disk_bytes,
        "total_disk_bytes": found.total_bytes,
    }


def duration(seconds: float) -> str:
    """Two figures are all that an estimate can promise: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)):d} MB"
