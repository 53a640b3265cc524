"""Ctrl-C and SIGTERM: never in the middle of what cannot bear an exception, and always with their own exit status."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
# HDF5 passes over what was not written, or ends in a segmentation fault, if the Python file that it writes to raises;
# Python itself drops what the callback of a weak reference raises
_UNBROKEN = ("h5py", "weakref", "ccd.artifacts.hdf5")
_RETRY_S = 0.01


@contextmanager
def deferring() -> Iterator[None]:
    """A signal that comes while h5py, our module for HDF5, or a weak reference's callback is at work is answered as
    usual, but only when that is done. Elsewhere, and in other threads than the main one, nothing changes."""
    usual = {number: signal.getsignal(number) for number in SIGNALS}
    waiting: list[signal.Signals] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            waiting.append(signal.Signals(number))
        if any(_is_unbroken(each) for each, _ in traceback.walk_stack(frame)):
            signal.setitimer(signal.ITIMER_REAL, _RETRY_S)
        else:
            answer(frame)

    def answer(frame: FrameType | None = None) -> None:
        while waiting:
            number = waiting.pop(0)
            action = usual[number]
            if callable(action):
                action(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs no handler there
        return
    for number, action in usual.items():
        if callable(action):
            signal.signal(number, handle)
    alarm = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, action in [*usual.items(), (signal.SIGALRM, alarm)]:
            signal.signal(number, action)
        answer()


def _is_unbroken(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.startswith(_UNBROKEN)


def came_of_interrupt(error: BaseException) -> bool:
    """Whether it is an error in the course of a Ctrl-C: Python's locks may raise one of their own then."""
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, KeyboardInterrupt):
        chain = chain.__context__
    return chain is not None


def end_interrupted() -> NoReturn:
    """One line, and SystemExit with the status of an interrupted command."""
    print("interrupted: nothing half-written was left behind", file=sys.stderr, flush=True)
    raise SystemExit(INTERRUPTED) from None


class Interruptible(click.Command):
    """A command that Ctrl-C ends as `end_interrupted` says, also before and after its function; click's own status
    would be 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """See click."""
        run: Callable[..., Any] = super().main
        if not extra.get("standalone_mode", True):
            return run(*args, **extra)
        try:
            status = run(*args, **extra | {"standalone_mode": False})
        except (click.Abort, KeyboardInterrupt):
            end_interrupted()
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        raise SystemExit(status)
