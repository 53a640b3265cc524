"""How time and memory grow with the number of images: every stage in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Process, run
from benchmarks.project import DATA, make_project, stage_command
from benchmarks.settings import Settings
from benchmarks.synthetic import write_artifacts, write_report_inputs
from benchmarks.tables import Table, speed

CLASSES, WIDTH = 80, 1024
LARGE = 1_000_000
TEST_SHARE = 10  # one test image for so many training images
IMAGE_STAGES = ("index", "clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate")
LABEL_STAGES = ("bias", "global_labels", "aggregate")
COLUMNS = ("stage", "images", "seconds", "peak memory, MB", "images/s")


def measure_growth(settings: Settings) -> Table:
    """Image stages on tiny JPEGs with a tiny teacher and student, label stages and the report on synthetic features."""
    rows = []
    for count in settings.sizes:
        rows += list(_image_stages(settings.work / f"images-{count}", count))
    for count in (*settings.sizes, *([LARGE] * settings.large)):
        rows += list(_label_stages(settings.work / f"labels-{count}", count, settings.views))
    note = (
        f"Every stage in a process of its own, imports included. {', '.join(IMAGE_STAGES)}: JPEGs of 64 x 48 px, a"
        " teacher of one layer, a MobileNetV3 small at 64 px, one epoch, one local view an image; evaluate has a tenth"
        " as many."
        f" The others: {CLASSES} classes, {WIDTH} dimensions, {settings.views:g} local views an image."
        " Linear means: images/s do not fall. Peak memory is resident."
    )
    return Table("Growth", note, COLUMNS, sorted(rows, key=lambda row: _ORDER.index(row[0])))


_CHAIN = (
    "index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local", "aggregate", "train",
    "evaluate",
)  # fmt: skip
_ORDER = (*IMAGE_STAGES, *LABEL_STAGES, "report")


def _image_stages(folder: Path, count: int) -> Iterator[list[str]]:
    test = max(count // TEST_SHARE, 1)
    make_project(folder, count, test, epochs=1)
    for stage in _CHAIN:
        found = run(stage_command(stage), folder)
        if stage in IMAGE_STAGES:
            yield _row(stage, test if stage == "evaluate" else count, found)
    shutil.rmtree(folder)


def _label_stages(folder: Path, count: int, views: float) -> Iterator[list[str]]:
    make_project(folder, 1)
    write_artifacts(folder / DATA, count, CLASSES, WIDTH, views)
    for stage in LABEL_STAGES:
        yield _row(stage, count, run(stage_command(stage), folder))
    write_report_inputs(folder / DATA, folder / "pictures", "0000/00000000.jpg")
    yield _row("report", count, run(stage_command("report"), folder))
    shutil.rmtree(folder)


def _row(stage: str, count: int, found: Process) -> list[str]:
    return [stage, f"{count:,}", f"{found.seconds:.1f}", f"{found.peak_mb:,.0f}", speed(count / found.seconds)]
