"""What a stage says on the console: what it reads, how far it is, what it wrote, and one finding."""

from __future__ import annotations

import inspect
import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from tqdm import tqdm

from ccd.runtime.timings import record_timing
from ccd.artifacts.files import remove_leftovers
from ccd.errors import CcdError, printable
from ccd.runtime import launch

T = TypeVar("T")
Batch = TypeVar("Batch", bound=tuple[Any, ...])


class StageLog:
    """One stage's console; silent on every rank but the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start = time.monotonic()

    def reads(self, *what: str) -> None:
        """Say what goes in."""
        self._say(f"reads {'; '.join(what)}")

    def progress(self, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
        """Pass ``items`` on behind a bar with rate and ETA; in a log instead of a terminal, a line every 10 s."""
        with self.bar(total, unit) as bar:
            for item in items:
                yield item
                bar.update()

    def batches(self, items: Iterable[Batch], total: int, unit: str) -> Iterator[Batch]:
        """The same for batches whose first part counts what is in them."""
        with self.bar(total, unit) as bar:
            for item in items:
                yield item
                bar.update(len(item[0]))

    def counter(self, unit: str) -> Callable[[int, int], None]:
        """A function of (done, total) that shows the same bar."""
        bars: list[tqdm[NoReturn]] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(self.bar(total, unit))
            bars[0].update(done - bars[0].n)
            if done == total:
                bars[0].close()

        return show

    def bar(self, total: int, unit: str) -> tqdm[NoReturn]:
        """The same bar, moved by hand, for loops whose steps differ in size."""
        terminal = sys.stderr.isatty()
        interval = 0.2 if terminal else 10.0
        return tqdm(
            desc=f"[{self.name}]",
            total=total,
            unit=unit,
            mininterval=interval,
            maxinterval=2 * interval,
            dynamic_ncols=terminal,
            disable=launch.rank() > 0,
        )

    def wrote(self, *outputs: tuple[Path, int, str]) -> None:
        """Say what came out: (path, rows, what a row is); the time goes to the untracked log of `ccd artifacts`."""
        if launch.rank() > 0:
            return
        seconds = time.monotonic() - self._start
        for path, rows, unit in outputs:
            megabytes = path.stat().st_size / 1e6
            self._say(f"wrote {path}: {rows:,} {unit}, {megabytes:.2f} MB, {seconds:.1f} s")
        record_timing(self.name, seconds, [path for path, _, _ in outputs])

    def found(self, finding: str) -> None:
        """The stage's one-line finding."""
        self._say(finding)

    def _say(self, what: str) -> None:
        if launch.rank() == 0:
            print(f"[{self.name}] {what}", flush=True)
