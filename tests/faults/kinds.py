"""The faults that are injected into a running stage, each at a random moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from ccd.runtime import store
from tests.faults.child import Child, children_of
from tests.faults.laboratory import DATA, Laboratory

LOADING = ("clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate")
RESUMABLE = ("clip_global", "warmup", "clip_local", "train")
PAGE_BYTES = 4096  # what a file system in memory deals out


@dataclass
class Fault:
    """One kind of fault; this one does nothing. ``codes``: exit statuses that it may lead to, and ``says``: what is
    then on the console for status 2."""

    name = "nothing"
    codes: tuple[int, ...] = (0,)
    says: tuple[str, ...] = ()
    workers = 0

    def __init__(self, lab: Laboratory, stage: str, random: Random, attempt: int) -> None:
        self.lab = lab
        self.stage = stage
        self.random = random
        self.attempt = attempt

    @classmethod
    def impossible(cls, stage: str) -> str:
        """Why it cannot be injected; "" if it can."""
        return ""

    @contextmanager
    def around(self, work: Path) -> Iterator[None]:
        """What is there before the project is made in ``work``, and goes in the end."""
        yield

    def arm(self, work: Path) -> None:
        """Once the project is there."""

    def inside(self) -> None:
        """In the stage's process, before the stage."""

    def strike(self, child: Child) -> bool:
        """While the stage runs. Returns whether the fault came in time."""
        return True

    def mend(self, work: Path) -> None:
        """Before the stage is run again."""

    def _wait(self, child: Child, seconds: float) -> bool:
        """Returns whether the stage still runs after that time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not child.ended():
            time.sleep(0.001)
        return not child.ended()

    def _moment_s(self) -> float:
        """Earlier with every attempt that came too late: the machine may be faster now than for the reference run."""
        return self.random.uniform(0.02, 1.0) * self.lab.seconds[self.stage] * 0.7**self.attempt


class Killed(Fault):
    """kill -9, as by the kernel where memory ran out, or a power cut."""

    name = "killed"
    codes = (-signal.SIGKILL,)

    def strike(self, child: Child) -> bool:
        in_time = self._wait(child, self._moment_s())
        if in_time:
            os.kill(child.pid, signal.SIGKILL)
        return in_time


class KilledWhileWriting(Fault):
    """The same just when a temporary file is opened, flushed or renamed, or within some milliseconds of that."""

    name = "killed in a write"
    codes = (-signal.SIGKILL,)

    def inside(self) -> None:
        left = self.random.randrange(1 + 2 * len(self.lab.bytes_of(self.stage)))
        delay_s = self.random.uniform(0, 0.01)
        at_once = self.random.random() < 0.5

        def look(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in ("open", "os.rename") and str(arguments[0]).endswith(".tmp"):
                if left == 0 and at_once:
                    os.kill(os.getpid(), signal.SIGKILL)
                if left == 0:
                    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
                left -= 1

        sys.addaudithook(look)


def is_kept_work(path: Path) -> bool:
    """Tell whether a file of the store is features or a training's state, and no hash of a CLIP's weights."""
    return ".ccd" in path.parts and not any(part.startswith("weights-") for part in path.parts)


class KilledWithWorkKept(Fault):
    """kill -9 in a later write to the store, so that the next run has something to go on from. Not one of `KINDS`."""

    name = "killed with work kept"
    codes = (-signal.SIGKILL,)

    @classmethod
    def impossible(cls, stage: str) -> str:
        return "" if stage in RESUMABLE else "keeps nothing"

    def inside(self) -> None:
        store._SECONDS_PER_CHUNK = 0.0  # a chunk a batch instead of one in 20 s
        left = self.random.randrange(1, 3)
        delay_s = self.random.uniform(0, 0.003)

        def look(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event == "os.rename" and is_kept_work(Path(str(arguments[0]))):
                if left == 0:
                    time.sleep(delay_s)
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(look)


class Interrupted(Fault):
    """Ctrl-C: SIGINT to the whole process group."""

    name = "Ctrl-C"
    codes = (130, 0)  # 0: it came while Python was ending

    def strike(self, child: Child) -> bool:
        in_time = self._wait(child, self._moment_s())
        if in_time:
            os.killpg(child.pid, signal.SIGINT)
        return in_time


class _Mounted(Fault):
    """A file system in memory of its own for the artifacts."""

    codes = (2,)

    @classmethod
    def impossible(cls, stage: str) -> str:
        return "" if may_mount() else "needs the right to mount a file system"

    @contextmanager
    def around(self, work: Path) -> Iterator[None]:
        place = work / DATA
        place.mkdir(parents=True)
        mount("-t", "tmpfs", "ccd-fault", place)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", place], check=True)


class FullDisk(_Mounted):
    """There is less room than the stage's files need."""

    name = "full disk"
    says = ("No space left on device; free some space",)

    def arm(self, work: Path) -> None:
        needed = sum(-(-size // PAGE_BYTES) for size in self.lab.bytes_of(self.stage))
        state = os.statvfs(work / DATA)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize // PAGE_BYTES
        # a size of 0 means no limit
        mount("-o", f"remount,size={max(1, used + self.random.randrange(needed)) * PAGE_BYTES}", work / DATA)

    def mend(self, work: Path) -> None:
        mount("-o", "remount,size=1g", work / DATA)


class ReadOnly(_Mounted):
    """The folder of artifacts cannot be written."""

    name = "read-only"
    says = ("Read-only file system; mount it writable",)

    def arm(self, work: Path) -> None:
        mount("-o", "remount,ro", work / DATA)

    def mend(self, work: Path) -> None:
        mount("-o", "remount,rw", work / DATA)


class DeadWorker(Fault):
    """kill -9 of one of the processes that decode images."""

    name = "worker killed"
    codes = (2, 0)  # 0: it had nothing left to do
    says = "a process that decodes images died; it was reading: "
    workers = 2

    @classmethod
    def impossible(cls, stage: str) -> str:
        return "" if stage in LOADING else "has no such processes"

    def strike(self, child: Child) -> bool:
        passed = self.random.randrange(4)  # each pass over the images has processes of its own
        seen: set[int] = set()
        while not child.ended():
            workers = set(children_of(child.pid))
            passed -= bool(workers - seen)
            seen |= workers
            if workers and passed < 0:
                time.sleep(self.random.uniform(0, 0.05))
                victim = self.random.choice(sorted(workers))
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                return True
            time.sleep(0.001)
        return False


KINDS: tuple[type[Fault], ...] = (Killed, KilledWhileWriting, Interrupted, FullDisk, ReadOnly, DeadWorker)


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@cache
def may_mount() -> bool:
    """Whether this user may."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount("-t", "tmpfs", "ccd-fault", folder)
        except (OSError, subprocess.CalledProcessError):
            return False
        subprocess.run(["umount", folder], check=True)
        return True
