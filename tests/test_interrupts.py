"""Ctrl-C at every moment: of a file all is there or nothing, and the status is 130."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import click
import pytest

from ccd.artifacts.files import delayed_interrupts
from ccd.errors import user_errors
from ccd.runtime.launch import stage
from tests.toys.artifacts import WRITERS

EVERY = 29  # of the steps within libraries one in so many; of our own modules' all
ROOT = Path(__file__).parents[1]
OURS = str(ROOT / "ccd")
# a signal in the callback of a weak reference
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextmanager
def interrupted_at(chosen: int, seen: list[bool], number: int = signal.SIGINT) -> Iterator[None]:
    """A signal at step ``chosen`` of the Python code in the block; ``seen``: of each, whether it is in our code."""

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        seen.append(frame.f_code.co_filename.startswith(OURS))
        if len(seen) - 1 == chosen:
            signal.raise_signal(number)
        return trace

    usual = sys.gettrace()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(usual)
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_file_or_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    steps = list[bool]()
    WRITERS[name](path)  # imports what it needs
    with interrupted_at(-1, steps):
        WRITERS[name](path)
    whole = path.read_bytes()
    interrupted = 0
    for step in (each for each, ours in enumerate(steps) if ours or each % EVERY == 0):
        path.unlink(missing_ok=True)
        try:
            with interrupted_at(step, []):
                WRITERS[name](path)
        except KeyboardInterrupt:
            interrupted += 1
        found = [each.name for each in tmp_path.iterdir()]
        assert found in ([], [name]), f"step {step} of {len(steps)} left {found}"
        assert not found or path.read_bytes() == whole, f"step {step} of {len(steps)} left another file"
    assert interrupted > 20


def test_sigterm_that_a_rank_answers_waits_for_hdf5_too(tmp_path: Path) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(143)

    path = tmp_path / "text.h5"
    steps = list[bool]()
    before = signal.signal(signal.SIGTERM, end)
    try:
        with interrupted_at(-1, steps):
            WRITERS["text.h5"](path)
        whole = path.read_bytes()
        for step in range(0, len(steps), 10):
            path.unlink(missing_ok=True)
            with suppress(SystemExit), interrupted_at(step, [], signal.SIGTERM):
                WRITERS["text.h5"](path)
            assert not path.exists() or path.read_bytes() == whole
    finally:
        signal.signal(signal.SIGTERM, before)


@stage
def nothing(out: Path) -> None:
    """Reads nothing and writes nothing."""


def test_a_command_ends_with_status_130_wherever_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    steps = list[bool]()
    found = set()
    with pytest.raises(SystemExit):
        nothing.main(["--out", "x"])  # what is imported and looked up once takes steps of its own
    for chosen in (-1, *range(10, 2000, 50)):  # the first steps are the call itself
        with pytest.raises(SystemExit) as stop, interrupted_at(chosen, steps if chosen < 0 else []):
            try:
                nothing.main(["--out", "x"])
            finally:
                sys.settrace(None)  # the end of this block is no step of the command
        if 0 <= chosen < len(steps):
            found.add((stop.value.code, capsys.readouterr().err.strip().partition(":")[0]))
    assert len(steps) > 300 and found == {(130, "interrupted")}


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("raise KeyboardInterrupt", 130, "interrupted: "),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, "interrupted: "),
        ("raise ValueError('a bug')", 1, "Traceback (most recent call last):"),
    ],
)
def test_a_stage_can_be_interrupted_before_it_begins(ending: str, status: int, said: str) -> None:
    """While its modules are imported, that is."""
    # a suite that runs in the background ignores Ctrl-C, and the child would too
    heeding = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import os, signal, stages, time; {heeding}; {ending}"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == status
    assert run.stderr.startswith(said)
    assert run.stderr.count("\n") == 1 if status == 130 else "a bug" in run.stderr


def test_an_error_that_a_ctrl_c_led_to_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="130"), user_errors():
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("cannot release un-acquired lock")
    said = capsys.readouterr().err
    assert said.startswith("interrupted: ") and said.count("\n") == 1


def test_other_statuses_stay(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in [(["--out", "x"], None), (["--nonsense"], 2), (["--help"], 0)]:
        with pytest.raises(SystemExit) as stop:
            nothing.main(words)
        assert stop.value.code == status
    assert "No such option" in capsys.readouterr().err
    with pytest.raises(click.NoSuchOption):
        nothing.main(["--nonsense"], standalone_mode=False)


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with delayed_interrupts(), delayed_interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_delayed_signal_is_answered_when_the_block_is_done(number: signal.Signals) -> None:
    answered: list[int] = []
    before = signal.signal(number, lambda received, frame: answered.append(received))
    try:
        with delayed_interrupts():
            signal.raise_signal(number)
            assert answered == []
        assert answered == [number]
    finally:
        signal.signal(number, before)


def test_in_another_thread_nothing_is_delayed() -> None:
    """Python allows handlers in the main thread alone."""
    usual = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with delayed_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [usual]


def ended(tail: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a process whose command prints, runs ``tail``, and leaves a handler behind."""
    code = (
        "import atexit, click, sys, threading, time\n"
        "from ccd.errors import Interruptible\n"
        "def run():\n"
        "    atexit.register(print, 'handler')\n"
        "    print('command')\n"
        f"    {tail}\n"
        "class Late:\n"
        "    def __del__(self): print('taken apart')\n"
        "kept = Late()\n"
        "Interruptible('name', callback=run)([])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_process_ends_with_its_handlers_run_and_its_output_whole_and_takes_nothing_apart() -> None:
    assert ended("pass") == (0, "command\nhandler\n", "")
    assert ended("sys.exit(3)") == (3, "command\nhandler\n", "")


def test_python_itself_ends_a_process_with_a_thread_at_work_or_a_last_message() -> None:
    worker = "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"
    assert ended(worker) == (0, "command\nthread\nhandler\ntaken apart\n", "")
    assert ended("sys.exit('why')") == (1, "command\nhandler\ntaken apart\n", "why\n")
