"""Adds a tenth more images: only these are encoded, and the result equals a run from scratch."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from benchmarks.measure import run
from benchmarks.photos import write_small
from benchmarks.project import DATA, make_project, stage_command
from benchmarks.settings import Settings
from benchmarks.tables import Table

CHAIN = ("index", "text", "clip_global", "bias", "global_labels")
COMPARED = ("images.parquet", "clip_global.h5", "bias.json", "global_labels.parquet")
IMAGES = 2000
MORE = 200
COLUMNS = ("run", "images", "encoded", "clip_global, seconds", "same bytes as from nothing")
NOTE = "Tiny images and a tiny teacher; index, text, clip_global, bias and global_labels are run."


def measure_increment(settings: Settings) -> Table:
    """Measure a run, the same with more images, and one from scratch."""
    grown = settings.work / "grown"
    fresh = settings.work / "fresh"
    make_project(grown, IMAGES)
    first = _chain(grown)
    write_small(grown / "pictures", IMAGES, IMAGES + MORE)
    second = _chain(grown)
    make_project(fresh, IMAGES + MORE)
    third = _chain(fresh)
    same = all(_md5(grown / DATA / name) == _md5(fresh / DATA / name) for name in COMPARED)
    rows = [
        ["first", f"{IMAGES:,}", *first, ""],
        [f"{MORE:,} more", f"{IMAGES + MORE:,}", *second, "yes" if same else "NO"],
        ["from nothing", f"{IMAGES + MORE:,}", *third, ""],
    ]
    for folder in (grown, fresh):
        shutil.rmtree(folder)
    return Table("Increment", NOTE, COLUMNS, rows)


def _chain(folder: Path) -> tuple[str, str]:
    """Run the chain; return the number of encoded images, and the seconds of ``clip_global``."""
    processes = {stage: run(stage_command(stage), folder) for stage in CHAIN}
    encoded = re.search(r"([\d,]+) encoded", processes["clip_global"].output)
    return (encoded[1] if encoded else "?"), f"{processes['clip_global'].seconds:.1f}"


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
