"""Runs fuzz cases: each has its own generator, so that any can be repeated by its number."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from ccd.errors import CcdError
from tests.fuzz.subjects import SUBJECTS, Subject, plain, prepare

HANG_S = 10


@dataclass
class Tally:
    """Of one subject: how its cases ended. A finding is a crash, a hang, or damage that was accepted."""

    name: str
    cases: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)


def fuzz(folder: Path, family: str, cases: int, seed: int) -> list[Tally]:
    """``cases`` cases, dealt to the family's subjects in turn, on files in the empty or prepared ``folder``."""
    if not any(folder.iterdir()):
        prepare(folder)
    subjects = [subject for subject in SUBJECTS if subject.family == family]
    tallies = [Tally(subject.name) for subject in subjects]
    goods = [(folder / subject.file).read_bytes() for subject in subjects]
    contents = [plain(subject.read(folder / subject.file)) if subject.whole else "" for subject in subjects]
    for number in range(cases):
        place = number % len(subjects)
        _meet(subjects[place], folder, goods[place], contents[place], number, seed, tallies[place])
    return tallies


def one(folder: Path, name: str, number: int, seed: int) -> str:
    """Repeat one case; whatever it raises is raised."""
    prepare(folder)
    subject = next(subject for subject in SUBJECTS if subject.name == name)
    path = folder / subject.file
    path.write_bytes(subject.mutate(_generator(seed, subject, number), path.read_bytes()))
    return plain(subject.read(path))


def report(tallies: list[Tally]) -> str:
    """A table, and the findings."""
    lines = [
        "| subject | cases | refused | accepted | cases a second | slowest (ms) | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in tallies:
        rate = each.cases / max(each.seconds, 1e-9)
        lines.append(
            f"| {each.name} | {each.cases:,} | {each.refused:,} | {each.accepted:,} | {rate:,.0f} |"
            f" {1000 * each.slowest_s:.0f} | {len(each.findings)} |"
        )
    return "\n".join([*lines, *(finding for each in tallies for finding in each.findings)])


def _meet(subject: Subject, folder: Path, good: bytes, content: str, number: int, seed: int, tally: Tally) -> None:
    path = folder / subject.file
    spoilt = subject.mutate(_generator(seed, subject, number), good)
    path.write_bytes(spoilt)
    start = time.perf_counter()
    tally.cases += 1
    try:
        with _limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = subject.read(path)
        if subject.whole and spoilt != good and plain(found) != content:
            tally.findings.append(f"{subject.name}:{number} accepted damage")
        tally.accepted += 1
    except CcdError as error:
        tally.refused += 1
        if "Traceback" in str(error) or len(str(error)) > 20_000:
            tally.findings.append(f"{subject.name}:{number} has a message of {len(str(error))} characters")
    except Exception as error:
        tally.findings.append(f"{subject.name}:{number} {type(error).__name__}: {str(error)[:200]}")
    finally:
        took = time.perf_counter() - start
        tally.seconds += took
        tally.slowest_s = max(tally.slowest_s, took)
        path.write_bytes(good)


def _generator(seed: int, subject: Subject, number: int) -> Random:
    return Random(f"{seed} {subject.name} {number}")


@contextmanager
def _limit() -> Iterator[None]:
    """A case that takes longer than `HANG_S` hangs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {HANG_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
