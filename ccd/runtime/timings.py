"""How long stages took, and with which libraries: an untracked log, since no artifact may hold a time.

It lies among DVC's own scratch files (``.dvc/tmp``, ignored by git) and is keyed by the md5 of what was written, so
that a result that DVC restores brings back the time of the run that made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


TIMINGS_LOG = Path(".dvc/tmp/ccd_timings.jsonl")


LIBRARIES = ("torch", "torchvision", "rf-clip", "open_clip_torch", "numpy", "pyarrow", "h5py", "Pillow")


def library_versions() -> dict[str, str]:
    """Python and those of `LIBRARIES` that are installed; nothing is imported."""
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
    """(stage, md5 of an output) -> the last run that wrote it. A line that was cut off is passed over."""
    found: dict[tuple[str, str], Timing] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        found |= _timing(line)
    return found


def _timing(line: str) -> dict[tuple[str, str], Timing]:
    try:
        entry = json.loads(line)
        timing = Timing(str(entry["stage"]), float(entry["seconds"]), dict(entry["versions"]))
        return {(timing.stage, str(md5)): timing for md5 in entry["md5"]}
    except (ValueError, KeyError, TypeError):
        return {}


def md5_of(path: Path) -> str:
    """Hexadecimal MD5 of a file, as DVC states it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
