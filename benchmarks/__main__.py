"""Measures speed and memory of the pipeline: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from benchmarks.growth import IMAGE_STAGES, measure_growth, measure_label_growth
from benchmarks.increment import measure_increment
from benchmarks.precision import measure_precision
from benchmarks.regions import measure_regions
from benchmarks.settings import Settings
from benchmarks.shapes import measure_shapes
from benchmarks.startup import measure_checkpoint, measure_startup
from benchmarks.student import measure_student
from benchmarks.tables import Table, machine
from benchmarks.teacher import measure_teacher
from benchmarks.voc07 import measure_voc07
from ccd.runtime.hardware import Precision, find_device, set_up_hardware, worker_count

PARTS: dict[str, Callable[[Settings], Table]] = {
    "startup": measure_startup,
    "teacher": measure_teacher,
    "regions": measure_regions,
    "shapes": measure_shapes,
    "student": measure_student,
    "growth": measure_growth,
    "labels": measure_label_growth,
    "increment": measure_increment,
}
ON_REQUEST: dict[str, Callable[[Settings], Table]] = {
    "precision": measure_precision,
    "voc07": measure_voc07,
    "checkpoint": measure_checkpoint,
}
PRECISION = click.Choice(get_args(Precision))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([*PARTS, *ON_REQUEST]),
    help="Measure this part; repeatable. Without: all but precision and voc07.",
)
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Photos; default: drawn.")
@click.option("--count", type=click.IntRange(1), default=96, help="Photos per round; student: twice as many.")
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Images inferred at a time.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Rounds, of which the median counts.")
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(1), default=(1000, 10_000), help="N of growth and labels."
)
@click.option("--until", type=click.Choice(IMAGE_STAGES), default=IMAGE_STAGES[-1], help="growth: the last stage.")
@click.option("--large", is_flag=True, help="labels: also a million images.")
@click.option("--views", type=click.FloatRange(0), default=2.0, help="labels: local views an image.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.2, help="voc07: of its photos.")
@click.option("--teacher-precision", type=PRECISION, default="fp32", help="teacher: of library and bare model.")
@click.option("--student-precision", type=PRECISION, default="fp32", help="student: of library and bare model.")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="shapes: a project that ran up to cam_boxes; default: scenes of the demo.",
)
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--workers", type=click.IntRange(0), help="Processes that decode; default: one per core.")
@click.option("--work", type=click.Path(path_type=Path), help="Where to write gigabytes; default: a temporary folder.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), help="For the tables.")
def main(
    only: tuple[str, ...], work: Path | None, out: Path, device: str, workers: int | None, **chosen: object
) -> None:
    """Write a Markdown file per part, and print it. All parts together take about half an hour on two cores."""
    out.mkdir(parents=True, exist_ok=True)
    machine_text = machine()
    click.echo(machine_text)
    batch_size = int(str(chosen["batch_size"]))
    hardware = replace(
        set_up_hardware(), device=find_device(device), workers=worker_count(workers), batch_size=batch_size
    )
    for name in only or PARTS:
        with tempfile.TemporaryDirectory(dir=work) as temporary:
            settings = Settings(work=Path(temporary), hardware=hardware, **chosen)  # type: ignore[arg-type]
            text = (PARTS | ON_REQUEST)[name](settings).markdown()
        click.echo(text)
        (out / f"{name}.md").write_text(f"{text}\n{machine_text}", encoding="utf-8")


if __name__ == "__main__":
    main()
