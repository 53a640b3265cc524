"""A finished toy project with embeddings as wide as those of the demo's CLIP, which reads texts for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ccd.artifacts import corrections_file, features_file, text_file
from tests.toys.deployed import write_student
from tests.toys.finished_run import CLASSES, TEST, TRAIN, write_project

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH = 64
DATA = Path("data/toy")
THRESHOLDS = (0.001, 0.001, 0.999)
TEACHER = {"teacher": "toy clip", "fingerprint": "0"}


def write_ui_project(classes: tuple[str, ...] = CLASSES) -> np.ndarray:
    """Write the project into the working directory. Returns the embeddings (6, 64) of its images."""
    write_project(classes)
    text = text_file.read(DATA / "text.h5")
    text_file.write(DATA / "text.h5", replace(text, values=np.eye(len(classes), WIDTH, dtype=np.float32)))
    rng = np.random.default_rng(3)
    for name, schema, ids in (
        ("clip_global", features_file.GLOBAL_SCHEMA, [*TRAIN, *TEST]),
        ("clip_local", features_file.LOCAL_SCHEMA, np.arange(5)),
    ):
        values = rng.normal(size=(len(ids), WIDTH)).astype(np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        features_file.write(DATA / f"{name}.h5", schema, features_file.Features(ids, values, TEACHER))
    corrections_file.ensure(corrections_file.path_of("toy"))
    params = Path("params.yaml").read_text().splitlines(keepends=True)
    model = f"  model: {ROOT / 'ccd/demo/assets/clip.pt'}\n"
    Path("params.yaml").write_text("".join(model if line.startswith("  model: RN") else line for line in params))
    return features_file.read(DATA / "clip_global.h5", features_file.GLOBAL_SCHEMA).values


def write_ui_project_with_student() -> None:
    """Write the project with a student, whose thresholds are `THRESHOLDS`, into the working directory."""
    write_ui_project()
    write_student(DATA / "student.pt", classes=CLASSES, thresholds=THRESHOLDS)


def open_page() -> tuple[subprocess.Popen[str], str]:
    """Start ``ccd open`` in the working directory; return its process, which the caller ends, and its address."""
    command = [sys.executable, "-m", "ccd.cli.main", "open", "--no-browser", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    printed = re.search(r"http://\S+", server.stdout.readline())
    assert printed is not None
    return server, printed[0]
