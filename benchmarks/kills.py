"""Stages killed at random moments: does the rerun go on, how much is done twice, and are the bytes the same?"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import environment, run
from benchmarks.project import DATA, command_of, make_project, stage_command
from benchmarks.settings import Settings
from benchmarks.tables import Table

OUTPUTS = {
    "clip_global": "clip_global.h5", "clip_local": "clip_local.h5", "warmup": "warmup.pt", "train": "student.pt"
}  # fmt: skip
CHAIN = (
    "index",
    "text",
    "clip_global",
    "bias",
    "global_labels",
    "warmup",
    "cam_boxes",
    "clip_local",
    "aggregate",
    "train",
)
IMAGES = 2000
SECONDS_PER_CHUNK = 0.2
COLUMNS = (
    "stage", "kills", "while computing", "images of one run", "images of all runs", "done twice, per kill",
    "same bytes",
)  # fmt: skip
NOTE = (
    "SIGKILL to the stage and its workers at a moment drawn from the time that an uninterrupted run takes; then the "
    f"stage is run again, until it ends; then from nothing, until there were enough kills. {IMAGES} tiny images; "
    f"encoded features are kept every {SECONDS_PER_CHUNK} s here (20 s in earnest), training after every epoch (3 of "
    "them). Done twice: images encoded or trained on again, as a share of those of one uninterrupted run. Same bytes: "
    "every finished run wrote what the uninterrupted one wrote."
)


def measure_kills(settings: Settings) -> Table:
    """Each resumable stage, after what it needs has run once."""
    folder, rng = settings.work / "kills", random.Random(0)
    make_project(folder, IMAGES)
    rows = []
    for stage in CHAIN:
        if stage in OUTPUTS:
            rows.append(_killed(folder, stage, settings.kills, rng))
        else:
            run(stage_command(stage), folder)
    shutil.rmtree(folder)
    return Table("Kills", NOTE, COLUMNS, rows)


@dataclass
class Attempt:
    """Runs of one stage in a project."""

    folder: Path
    stage: str

    @property
    def log(self) -> Path:
        """What the runs computed, a number of images a line."""
        return self.folder / f"{self.stage}.log"

    def forget(self) -> None:
        """Back to nothing: no output, nothing kept, nothing counted."""
        shutil.rmtree(self.folder / ".ccd", ignore_errors=True)
        (self.folder / DATA / OUTPUTS[self.stage]).unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)

    def computed(self) -> int:
        """Images so far."""
        return sum(map(int, self.log.read_text().split())) if self.log.exists() else 0

    def digest(self) -> str:
        """MD5 of what the stage wrote."""
        return hashlib.md5((self.folder / DATA / OUTPUTS[self.stage]).read_bytes()).hexdigest()

    def start(self) -> subprocess.Popen[bytes]:
        """The stage, in a process group of its own."""
        command = [sys.executable, "-m", "benchmarks.counted", str(self.log), str(SECONDS_PER_CHUNK)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [*command, *command_of(self.stage)], cwd=self.folder, env=environment(), stdout=quiet, stderr=quiet,
            start_new_session=True,
        )  # fmt: skip


def _killed(folder: Path, stage: str, kills: int, rng: random.Random) -> list[str]:
    attempt = Attempt(folder, stage)
    attempt.forget()
    start = time.perf_counter()
    _finish(attempt)
    seconds, whole, digest = time.perf_counter() - start, attempt.computed(), attempt.digest()
    done = working = computed = finished = 0
    same = True
    while done < kills:
        attempt.forget()
        while done < kills:
            before = attempt.computed()
            if _run_and_kill(attempt, rng.uniform(0, seconds)):
                break
            done += 1
            working += attempt.computed() > before
        else:
            _finish(attempt)
        computed, finished = computed + attempt.computed(), finished + 1
        same = same and attempt.digest() == digest
    twice = (computed - finished * whole) / whole / max(1, done)
    return [stage, str(done), str(working), f"{whole:,}", f"{computed:,} in {finished}", f"{twice:.1%}",
            "yes" if same else "NO"]  # fmt: skip


def _run_and_kill(attempt: Attempt, after_s: float) -> bool:
    """True: the stage had ended before."""
    process = attempt.start()
    try:
        return process.wait(after_s) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def _finish(attempt: Attempt) -> None:
    status = attempt.start().wait()
    if status != 0:
        raise RuntimeError(f"{attempt.stage} ended with {status} after it was killed")
