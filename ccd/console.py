"""What a stage says on the console: what it reads, how far it is, what it wrote, and one finding."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ccd.errors import CcdError

T = TypeVar("T")


class StageLog:
    """One stage's console."""

    def __init__(self, name: str, show_progress: bool = True) -> None:
        self.name = name
        self.show_progress = show_progress
        self._start = time.monotonic()

    def reads(self, *what: str) -> None:
        """Say what goes in."""
        print(f"[{self.name}] reads {'; '.join(what)}", flush=True)

    def progress(self, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
        """A bar with rate and ETA, on a terminal or a log alike (in a log, a line every 10 s)."""
        interval = 0.2 if sys.stderr.isatty() else 10.0
        yield from tqdm(
            items, self.name, total, unit=f" {unit}", mininterval=interval, maxinterval=2 * interval,
            disable=not self.show_progress, file=sys.stderr, dynamic_ncols=sys.stderr.isatty(),
        )  # fmt: skip

    def bar(self, total: int, unit: str) -> tqdm[None]:
        """A bar that is moved by hand, for loops whose steps differ in size."""
        interval = 0.2 if sys.stderr.isatty() else 10.0
        return tqdm(
            None, self.name, total, unit=f" {unit}", mininterval=interval, maxinterval=2 * interval,
            disable=not self.show_progress, file=sys.stderr, dynamic_ncols=sys.stderr.isatty(),
        )  # fmt: skip

    def wrote(self, *outputs: tuple[Path, int, str]) -> None:
        """Say what came out: (path, rows, what a row is)."""
        seconds = time.monotonic() - self._start
        for path, rows, unit in outputs:
            megabytes = path.stat().st_size / 1e6
            print(f"[{self.name}] wrote {path}: {rows:,} {unit}, {megabytes:.2f} MB, {seconds:.1f} s", flush=True)

    def found(self, finding: str) -> None:
        """The stage's one-line finding."""
        print(f"[{self.name}] {finding}", flush=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a `CcdError` into one message on stderr and exit status 2, and Ctrl-C into status 130; no traceback."""
    try:
        yield
    except CcdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was left behind", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
