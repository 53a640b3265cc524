"""Measures the waiting time of commands that have little to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, environment, run
from benchmarks.project import DATA, make_project, stage_command
from benchmarks.settings import Settings
from benchmarks.synthetic import write_artifacts
from benchmarks.tables import Table

COLUMNS = ("command", "seconds", "peak memory, MB")


def measure_startup(settings: Settings) -> Table:
    """Measure the command line, DVC with nothing to do, and the label stages at the size of VOC12."""
    rows = [_row(settings, "ccd --help", [sys.executable, "-m", "ccd.cli.main", "--help"], ROOT), _dvc(settings)]
    folder = settings.work / "startup"
    make_project(folder, 1)
    write_artifacts(folder / DATA, images=5717, classes=20, width=1024, views=5.0)
    rows += [_row(settings, stage, stage_command(stage), folder) for stage in ("bias", "global_labels", "aggregate")]
    shutil.rmtree(folder)
    note = (
        f"Whole processes, imports included; medians of {settings.repeats}. Label stages: 5,717 images, 20 classes,"
        " 1,024 dimensions, 5 views an image."
    )
    return Table("Start-up and label-only reruns", note, COLUMNS, rows)


def _row(settings: Settings, name: str, command: Sequence[str], folder: Path) -> list[str]:
    runs = [run(command, folder) for _ in range(settings.repeats)]
    seconds = median(each.seconds for each in runs)
    peak_mb = median(each.peak_mb for each in runs)
    return [name, f"{seconds:.2f}", f"{peak_mb:,.0f}"]


def _dvc(settings: Settings) -> list[str]:
    """Measure ``dvc repro`` only after the pipeline has run, since a benchmark must not start it."""
    name = "dvc repro, nothing to do"
    dvc = [sys.executable, "-m", "dvc"]
    status = subprocess.run([*dvc, "status"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if "up to date" not in status.stdout:
        return [name, "not measured: run `make repro` before", ""]
    return _row(settings, name, [*dvc, "repro"], ROOT)
