"""Measures the waiting time of commands that have little to do, and of stages that have a large CLIP."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import ROOT, Process, environment, run
from benchmarks.networks import save_large_clip
from benchmarks.project import DATA, make_project, stage_command, with_settings
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


HEAVY = ("text", "clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate")
CHAIN = ("index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local", "aggregate",
         "train", "head", "evaluate")  # fmt: skip
PIXELS = {
    "clip_global.image_size_px": "32", "warmup.batch_size": "2", "train.batch_size": "2", "warmup.epochs": "1",
    "train.epochs": "1", "warmup.backbone": "resnet18", "runtime.workers": "0",
}  # fmt: skip
CHECKPOINTS = {"archive": True, "state dict": False}


def measure_checkpoint(settings: Settings) -> Table:
    """Measure the stages that need a network on two images, with a CLIP of the largest published shapes."""
    codes = ("import torch", "import torch, torchvision")
    rows = [_row_of(code, settings, partial(run, [sys.executable, "-c", code], ROOT)) for code in codes]
    for kind, as_archive in CHECKPOINTS.items():
        folder = settings.work / kind.replace(" ", "_")
        make_project(folder, 2, test=1)
        (folder / "pictures/classes.txt").write_text("cat\ndog\n")
        save_large_clip(folder / "clip.pt", as_archive)
        with_settings(folder, PIXELS)
        first = {stage: run(stage_command(stage), folder) for stage in CHAIN}
        rows += [
            _row_of(f"{stage}, {kind}", settings, partial(_without_results, stage, folder), first[stage])
            for stage in HEAVY
        ]
        shutil.rmtree(folder)
    note = (
        "Whole processes on two images of 32 px, or two class names: imports, loading, the least work there is, and the"
        f" end. CLIP: RN50x64's shapes, random weights, a file of 1.3 GB in the page cache. Medians of"
        f" {settings.repeats}, after a first run, which has to hash the file."
    )
    columns = ("command", "seconds", "processor seconds", "first run, seconds", "peak memory, MB")
    return Table("Start of the stages with a large CLIP", note, columns, rows)


def _row_of(name: str, settings: Settings, start: Callable[[], Process], first: Process | None = None) -> list[str]:
    runs = [start() for _ in range(settings.repeats)]
    seconds = median(each.seconds for each in runs)
    cpu_seconds = median(each.cpu_seconds for each in runs)
    peak_mb = median(each.peak_mb for each in runs)
    first_seconds = "" if first is None else f"{first.seconds:.2f}"
    return [name, f"{seconds:.2f}", f"{cpu_seconds:.2f}", first_seconds, f"{peak_mb:,.0f}"]


def _without_results(stage: str, folder: Path) -> Process:
    """Run a stage that finds the hashes of weights in the store, and no features."""
    for entry in folder.glob(".ccd/store/features-*"):
        shutil.rmtree(entry)
    return run(stage_command(stage), folder)


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
