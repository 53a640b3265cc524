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

from ccd import launch
from ccd.artifacts import timings
from ccd.artifacts.atomic import remove_leftovers
from ccd.errors import CcdError, printable
from ccd.interrupts import Interruptible, came_of_interrupt, deferring, end_interrupted
from ccd.machine import explained

DEBUG_VARIABLE = "CCD_DEBUG"
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
        timings.record(self.name, seconds, [path for path, _, _ in outputs])

    def found(self, finding: str) -> None:
        """The stage's one-line finding."""
        self._say(finding)

    def _say(self, what: str) -> None:
        if launch.rank() == 0:
            print(f"[{self.name}] {what}", flush=True)


def let_text_pass() -> None:
    """Make printing text safe in any locale: what goes into a pipe or file is UTF-8, and what a terminal cannot show
    is escaped. Text for people never ends a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests put other streams there
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


@contextmanager
def user_errors(stage: str = "") -> Iterator[None]:
    """Turn a `CcdError`, and what the machine refuses (`ccd.machine`), into one message on stderr and exit status 2,
    and Ctrl-C into status 130; no traceback. ``stage``: the one that runs, if any.

    With the environment variable ``CCD_DEBUG`` set to anything but 0, the traceback comes before the message; control
    characters, which names of files may hold, are escaped.
    """
    let_text_pass()
    try:
        with deferring():
            yield
    except KeyboardInterrupt:
        end_interrupted()
    except Exception as error:
        if came_of_interrupt(error):
            end_interrupted()
        said = str(error) if isinstance(error, CcdError) else explained(error, stage)
        if said is None or isinstance(error, BrokenPipeError):  # a bug; or the reader of our output has seen enough
            raise
        message = f"error: {said}"
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            error.__suppress_context__ = False  # what `from None` hides from a user is what a developer looks for
            message = traceback.format_exc() + message
        print("\n".join(printable(line) for line in message.split("\n")), file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def stage(function: Callable[..., None]) -> click.Command:
    """Make a function of paths a command: each parameter becomes a required ``--name PATH``; see `user_errors`.

    Under a launcher of several processes it runs in the first alone; see `shared_stage`.
    """
    return _command(function, launch.run_on_first)


def shared_stage(function: Callable[..., None]) -> click.Command:
    """`stage` for one whose work several processes share, see `ccd.launch`."""
    return _command(function, launch.run_on_all)


def _command(function: Callable[..., None], start: Callable[..., None]) -> click.Command:
    def run(debug: bool, **paths: Path) -> None:
        if debug:
            os.environ[DEBUG_VARIABLE] = "1"
        with user_errors(Path(inspect.getfile(function)).stem):
            for path in paths.values() if launch.rank() == 0 else ():
                remove_leftovers(path.parent, path.name)
            start(function, paths)

    names = inspect.signature(function).parameters
    path = click.Path(path_type=Path)
    options: list[click.Parameter] = [
        click.Option([f"--{name.replace('_', '-')}"], type=path, required=True) for name in names
    ]
    options.append(click.Option(["--debug"], is_flag=True, help=f"Show tracebacks; so does {DEBUG_VARIABLE}=1."))
    return Interruptible(function.__module__, callback=run, params=options, help=function.__doc__)
