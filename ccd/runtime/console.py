"""The console of a stage: inputs, progress, outputs, one finding; and the log of how long stages took.

Times go to an untracked log, since no artifact may hold a time. It lies among DVC's own scratch files
(``.dvc/tmp``) and is keyed by the md5 of what was written, so that a result that DVC restores brings back the time of
its run.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from ccd.artifacts.files import hash_of
from ccd.runtime import launch

TIMINGS_LOG = Path(".dvc/tmp/ccd_timings.jsonl")
LIBRARIES = ("torch", "torchvision", "rf-clip", "open_clip_torch", "numpy", "pyarrow", "h5py", "Pillow")
T = TypeVar("T")
Batch = TypeVar("Batch", bound=tuple[Any, ...])


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `LIBRARIES`; nothing is imported."""
    known = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: number for name, number in known.items() if number}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Timing:
    """One run of a stage: its own ``seconds``, and name -> version of Python and the libraries it ran with."""

    stage: str
    seconds: float
    versions: dict[str, str]


def record_timing(stage: str, seconds: float, outputs: Iterable[Path], log: Path = TIMINGS_LOG) -> None:
    """Append a line for a finished stage. Outside a DVC project, or where nothing can be written, nothing is kept."""
    if not log.parent.parent.is_dir():
        return
    entry = {
        "stage": stage,
        "seconds": round(seconds, 1),
        "md5": [md5_of(path) for path in outputs],
        "versions": library_versions(),
    }
    try:
        log.parent.mkdir(exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        print(f"note: {log}: the time of {stage} is not kept ({os.strerror(error.errno or 0)})", file=sys.stderr)


def recorded_timings(log: Path = TIMINGS_LOG) -> dict[tuple[str, str], Timing]:
    """Return (stage, md5 of an output) -> the last run that wrote it. An incomplete line is skipped."""
    timings: dict[tuple[str, str], Timing] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        timings |= _timing(line)
    return timings


def _timing(line: str) -> dict[tuple[str, str], Timing]:
    try:
        entry = json.loads(line)
        timing = Timing(str(entry["stage"]), float(entry["seconds"]), dict(entry["versions"]))
        return {(timing.stage, str(md5)): timing for md5 in entry["md5"]}
    except (ValueError, KeyError, TypeError):
        return {}


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, as DVC states it."""
    return hash_of(path, "md5")


class StageLog:
    """One stage's console; silent on every rank but the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start = time.monotonic()

    def reads(self, *what: str) -> None:
        """Print the inputs."""
        self._say(f"reads {'; '.join(what)}")

    def progress(self, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
        """Pass ``items`` on and show a bar with rate and ETA; in a log file, a line every 10 s."""
        with self.bar(total, unit) as bar:
            for item in items:
                yield item
                bar.update()

    def batches(self, items: Iterable[Batch], total: int, unit: str) -> Iterator[Batch]:
        """Pass batches on like `progress`; the length of a batch's first part is its size."""
        with self.bar(total, unit) as bar:
            for item in items:
                yield item
                bar.update(len(item[0]))

    def images(self, batches: Iterable[Batch], total: int, /) -> Iterator[Batch]:
        """Pass batches of images on like `batches`."""
        return self.batches(batches, total, "img")

    @contextmanager
    def training(self, epochs: int, steps: int) -> Iterator[Callable[[int, int, float], None]]:
        """Yield a function of (epoch, step, loss) that shows the same bar; an epoch has ``steps``."""
        with self.bar(epochs * steps, "step") as bar:

            def show(epoch: int, step: int, loss: float) -> None:
                bar.set_postfix_str(f"epoch {epoch + 1}/{epochs}, loss {loss:.3f}", refresh=False)
                bar.update(epoch * steps + step + 1 - bar.n)

            yield show

    def counter(self, unit: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that shows the same bar."""
        bars: list[tqdm[NoReturn]] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(self.bar(total, unit))
            bars[0].update(done - bars[0].n)
            if done == total:
                bars[0].close()

        return show

    def bar(self, total: int, unit: str) -> tqdm[NoReturn]:
        """Return the bar itself, for loops whose steps differ in size."""
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
        """Print each output as (path, rows, unit of a row), and log the stage's time for `ccd artifacts`."""
        if launch.rank() > 0:
            return
        seconds = time.monotonic() - self._start
        for path, rows, unit in outputs:
            megabytes = path.stat().st_size / 1e6
            self._say(f"wrote {path}: {rows:,} {unit}, {megabytes:.2f} MB, {seconds:.1f} s")
        record_timing(self.name, seconds, [path for path, _, _ in outputs])

    def finding(self, finding: str) -> None:
        """Print a finding, in one line."""
        self._say(finding)

    def _say(self, what: str) -> None:
        if launch.rank() == 0:
            print(f"[{self.name}] {what}", flush=True)
