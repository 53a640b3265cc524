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


def interleaved(variants: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Rates (items per second) of every variant, one per round; a variant returns how many items it worked on.

    A round runs each variant once, so that the ratio of two rates of one round means something on a noisy machine.
    """
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, work in variants.items():
            start = time.perf_counter()
            count = work()
            rates[name].append(count / (time.perf_counter() - start))
    return rates


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of ``one`` / ``other``."""
    return median(a / b for a, b in zip(one, other, strict=True))


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
