"""Timing: variants in turn, so that a busy machine hits all of them; and commands in processes of their own."""

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
    """Another working directory for a while; stages and training find their parameters and their store there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Process:
    """A finished command: its ``seconds``, its largest resident memory in MB, what it printed."""

    seconds: float
    peak_mb: float
    said: str


class Watch:
    """Times one run; what comes before the end of its first batch is its start-up, and no part of its rate."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._started: float | None = None
        self._first = 0

    def batch(self, items: int) -> None:
        """Call it after every batch, with the items in it."""
        if self._started is None:
            self._started = time.perf_counter()
            self._first = items

    def round(self, items: int) -> Round:
        """Call it after the run, with all its items; one of a single batch counts whole."""
        ended = time.perf_counter()
        if self._started is None or items <= self._first:
            return Round(items / (ended - self._begun), 0.0)
        return Round((items - self._first) / (ended - self._started), self._started - self._begun)


class Round(NamedTuple):
    """``rate``: items a second after the first batch; ``start_s``: seconds until that was done."""

    rate: float
    start_s: float


Work = Callable[[Watch], int]


def interleaved(variants: Mapping[str, Work], repeats: int) -> dict[str, list[Round]]:
    """The rounds of every variant; a variant tells the watch of its batches and returns how many items it worked on.

    A round runs each variant once, so that the ratio of two rates of one round means something on a noisy machine.
    Memory that earlier runs left behind is handed back before each, as a stage starts without it.
    """
    rounds: dict[str, list[Round]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, work in variants.items():
            hand_back_memory()  # a process that starts copies its parent's, page by page, at every write
            watch = Watch()
            rounds[name].append(watch.round(work(watch)))
    return rounds


def ratio(one: Sequence[Round], other: Sequence[Round]) -> float:
    """Median over the rounds of the rates ``one`` / ``other``."""
    return median(a.rate / b.rate for a, b in zip(one, other, strict=True))


def typical(rounds: Sequence[Round]) -> Round:
    """Medians."""
    return Round(median(found.rate for found in rounds), median(found.start_s for found in rounds))


def environment() -> dict[str, str]:
    """That of this process, with the project importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}


def run(command: Sequence[str], folder: Path) -> Process:
    """Run a command in ``folder``. Raises RuntimeError with what it said if it fails."""
    with tempfile.TemporaryDirectory() as temporary:
        result = Path(temporary, "result.json")
        timed = [sys.executable, "-m", "benchmarks.timed", str(result), *command]
        done = subprocess.run(timed, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
        found = json.loads(result.read_text())
    if found["status"] != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {found['status']}:\n{done.stderr}")
    return Process(found["seconds"], found["peak_mb"], done.stdout)
