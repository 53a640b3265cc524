"""Times variants in turn, so that a busy machine slows all of them, and commands in their own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ccd.runtime.memory import hand_back_memory

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the working directory for the block; stages and training find parameters and store there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Process:
    """A finished command: its ``seconds``, those of processors, its peak resident memory in MB, its standard output."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


class Watch:
    """Times one run; the time up to the end of its first ``start_batches`` is its start-up, and not part of its rate.

    ``ended``: when the last batch ended, where what follows it is not part of the rate either.
    """

    def __init__(self) -> None:
        self.start_batches = 1
        self.ended: float | None = None
        self._begun = time.perf_counter()
        self._started: float | None = None
        self._first = 0

    def batch(self, items: int) -> None:
        """Note the end of a batch of ``items``; call it after every batch."""
        if self.start_batches > 0:
            self.start_batches -= 1
            self._started = time.perf_counter()
            self._first += items

    def round(self, items: int) -> Round:
        """Return the round of a run of ``items``; call it at the end. A run of its first batches has no start-up."""
        ended = self.ended or time.perf_counter()
        if self._started is None or items <= self._first:
            return Round(items / (ended - self._begun), 0.0)
        return Round((items - self._first) / (ended - self._started), self._started - self._begun)


class Round(NamedTuple):
    """``rate``: items per second after the first batch; ``start_s``: seconds up to the end of the first batch."""

    rate: float
    start_s: float


Work = Callable[[Watch], int]


def interleaved(variants: Mapping[str, Work], repeats: int) -> dict[str, list[Round]]:
    """Return the rounds of every variant; a variant reports its batches to the watch and returns its number of items.

    A round runs each variant once, so that ratios within a round are meaningful on a noisy machine. Memory of earlier
    runs is handed back before each, as a stage starts without it.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, work in variants.items():
            hand_back_memory()  # a forked worker copies its parent's memory page by page as it is written
            watch = Watch()
            rounds[name].append(watch.round(work(watch)))
    return rounds


def ratio(one: Sequence[Round], other: Sequence[Round]) -> float:
    """Return the median over the rounds of the ratio of rates ``one`` / ``other``."""
    return median(a.rate / b.rate for a, b in zip(one, other, strict=True))


def typical(rounds: Sequence[Round]) -> Round:
    """Return the median rate and the median start-up."""
    return Round(median(each.rate for each in rounds), median(each.start_s for each in rounds))


def environment() -> dict[str, str]:
    """Return the environment of this process, with the project importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}


def run(command: Sequence[str], folder: Path) -> Process:
    """Run a command in ``folder``. Raises RuntimeError with its error output if it fails."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary, "result.json")
        timed = [sys.executable, "-m", "benchmarks.timed", str(result), *command]
        process = subprocess.run(timed, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
        usage = json.loads(result.read_text())
    if usage["status"] != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {usage['status']}:\n{process.stderr}")
    return Process(usage["seconds"], usage["cpu_seconds"], usage["peak_mb"], process.stdout)
