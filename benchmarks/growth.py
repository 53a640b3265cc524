"""Measures the growth of time and memory with the number of images: every stage in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import networks
from benchmarks.measure import Process, run
from benchmarks.project import DATA, make_project, stage_command
from benchmarks.settings import Settings
from benchmarks.synthetic import write_artifacts, write_report_inputs
from benchmarks.tables import Table, speed

CLASSES = 80
WIDTH = 1024
LARGE = 1_000_000
TEST_SHARE = 10  # training images per test image
IMAGE_STAGES = ("index", "clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate")
LABEL_STAGES = ("bias", "global_labels", "aggregate", "report")
COLUMNS = (
    "stage",
    "images",
    "seconds",
    "peak memory, MB",
    "label arrays, MB",
    "growth beyond them",
    "images/s",
)
# Bytes per image and class of the (N, C) tables that a stage reads, makes or writes, and may hold in memory.
LABEL_BYTES = {
    "warmup": 8,  # targets, predictions
    "cam_boxes": 4,  # probabilities
    "train": 8,
    "evaluate": 32,  # five columns of the pseudo-labels, three made of them
    "global_labels": 8,  # two columns written
    "aggregate": 41,  # two columns read, eight written
    "report": 34,  # the eight columns, and the truth
}


NOTE = (
    "Every stage in a process of its own, imports included. Linear means: images/s do not fall. Peak memory is"
    " resident. Label arrays: the (N, C) tables that the stage reads, makes or writes, which it may hold; growth beyond"
    " them: what the peak grew by more than they did, as a share of the stage's first row."
)


def measure_growth(settings: Settings) -> Table:
    """Measure the image stages on tiny JPEGs with a tiny teacher and student."""
    work = settings.work
    until = settings.until
    rows = [row for count in settings.sizes for row in _image_stages(work / f"images-{count}", count, until)]
    about = (
        " JPEGs of 64 x 48 px, a teacher of one layer, a MobileNetV3 small at 64 px, one epoch, one local view an"
        " image; evaluate has a tenth as many."
    )
    return Table("Growth", NOTE + about, COLUMNS, _cells(rows, IMAGE_STAGES))


def measure_label_growth(settings: Settings) -> Table:
    """Measure the stages of the label maths and the report on synthetic features."""
    sizes = (*settings.sizes, *([LARGE] * settings.large))
    rows = [row for count in sizes for row in _label_stages(settings.work / f"labels-{count}", count, settings.views)]
    about = f" {CLASSES} classes, {WIDTH} dimensions, {settings.views:g} local views an image."
    return Table("Growth of the label maths", NOTE + about, COLUMNS, _cells(rows, LABEL_STAGES))


_CHAIN = (
    "index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local", "aggregate", "train",
    "head", "evaluate",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One stage on ``images`` images; ``labels_mb``: size of its (N, C) tables."""

    stage: str
    images: int
    labels_mb: float
    process: Process

    def growth(self, least: Row) -> str:
        """Return the growth of peak memory beyond the label arrays, relative to ``least``."""
        more_mb = self.process.peak_mb - least.process.peak_mb - (self.labels_mb - least.labels_mb)
        return f"{more_mb / least.process.peak_mb:+.1%}" if more_mb > 0 else "none"


def _cells(rows: Sequence[Row], stages: Sequence[str]) -> list[list[str]]:
    first: dict[str, Row] = {}
    cells = []
    for row in sorted(rows, key=lambda row: stages.index(row.stage)):
        least = first.setdefault(row.stage, row)
        growth = "" if row is least else row.growth(least)
        seconds = row.process.seconds
        peak_mb = row.process.peak_mb
        cells.append(
            [
                row.stage,
                f"{row.images:,}",
                f"{seconds:.1f}",
                f"{peak_mb:,.0f}",
                f"{row.labels_mb:,.0f}",
                growth,
                speed(row.images / seconds),
            ]
        )
    return cells


def _image_stages(folder: Path, count: int, until: str) -> Iterator[Row]:
    test = max(count // TEST_SHARE, 1)
    make_project(folder, count, test, epochs=1)
    for stage in _CHAIN[: _CHAIN.index(until) + 1]:
        process = run(stage_command(stage), folder)
        if stage in IMAGE_STAGES:
            pairs = count * len(networks.CLASSES)
            yield _row(stage, test if stage == "evaluate" else count, pairs, process)
    shutil.rmtree(folder)


def _label_stages(folder: Path, count: int, views: float) -> Iterator[Row]:
    make_project(folder, 1)
    write_artifacts(folder / DATA, count, CLASSES, WIDTH, views)
    for stage in LABEL_STAGES:
        if stage == "report":
            write_report_inputs(folder / DATA, folder / "pictures", "0000/00000000.jpg")
        yield _row(stage, count, count * CLASSES, run(stage_command(stage), folder))
    shutil.rmtree(folder)


def _row(stage: str, images: int, pairs: int, process: Process) -> Row:
    return Row(stage, images, LABEL_BYTES.get(stage, 0) * pairs / 2**20, process)
