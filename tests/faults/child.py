"""A function in a process of its own: forked, so that PyTorch is imported once for hundreds of processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """``code``: exit status, negative for a signal; ``said``: stdout and stderr together."""

    code: int
    said: str
    seconds: float


class Child:
    """A running function. It leads a process group of its own, as a command in a terminal does."""

    def __init__(self, action: Callable[[], object], folder: Path, log: Path) -> None:
        self._log = log
        self._start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        ready, begins = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(action, folder, log, begins)
        os.close(begins)
        os.read(ready, 1)  # returns when the action begins, or the child has ended
        os.close(ready)
        self._code: int | None = None

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.monotonic() - self._start

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        if self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def wait(self, limit_s: float) -> Ended:
        """How it ended; after ``limit_s`` seconds it is killed, which is an AssertionError."""
        until = time.monotonic() + limit_s
        while not self.ended():
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"not ended after {limit_s} s:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.002)
        assert self._code is not None
        return Ended(self._code, self._log.read_text(encoding="utf-8", errors="replace"), self.seconds)


def run(action: Callable[[], object], folder: Path, log: Path, limit_s: float = 120) -> Ended:
    """Do it to its end."""
    return Child(action, folder, log).wait(limit_s)


def children_of(process: int) -> list[int]:
    """The processes that one has started, living and of Linux alone."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _be_child(action: Callable[[], object], folder: Path, log: Path, begins: int) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(1), "w", buffering=1) for _ in range(2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(begins)
        action()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
