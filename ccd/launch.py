"""One stage in several processes ("ranks"): who this one is, how the others start, and one message when one fails.

A stage is always started as ``python -m stages.NAME``, so that its identity in DVC does not change. With
``runtime.processes`` > 1 it starts itself that many times and waits; with the environment variable ``CCD_LAUNCH`` it
hands itself to that launcher; under a launcher (``RANK`` and ``WORLD_SIZE`` are set) it takes part. No torch up here:
light stages start without it.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

from ccd.errors import CcdError

LAUNCHER = "CCD_LAUNCH"
_END_S = 10.0  # what a process has to clean up after SIGTERM
_PR_SET_PDEATHSIG = 1


def world_size() -> int:
    """Processes that run this stage. Raises CcdError if ``RANK`` is not below ``WORLD_SIZE``."""
    return _launched()[1]


def rank() -> int:
    """This process among them; 0 prints and writes. Raises CcdError as `world_size` does."""
    return _launched()[0]


def local_rank() -> int:
    """This process among those on its machine."""
    return (_number("LOCAL_RANK") or 0) if _is_launched() else 0


def local_world_size() -> int:
    """Processes on this machine."""
    return (_number("LOCAL_WORLD_SIZE") or 1) if _is_launched() else 1


def _is_launched() -> bool:
    """Whether a launcher set ``RANK`` and ``WORLD_SIZE``; empty or no whole numbers, as templates of job schedulers
    leave them, they count as unset."""
    return _number("RANK") is not None and bool(_number("WORLD_SIZE"))


def _launched() -> tuple[int, int]:
    """Rank and number of ranks."""
    if not _is_launched():
        return 0, 1
    number, count = _number("RANK") or 0, _number("WORLD_SIZE") or 1
    if number >= count:
        raise CcdError(
            f"RANK={number} must be below WORLD_SIZE={count}; start the processes with torchrun, or unset both"
        )
    return number, count


def _number(variable: str) -> int | None:
    """The whole number in an environment variable; None where it is unset, empty or anything else."""
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def run_on_first(function: Callable[..., None], paths: Mapping[str, Path]) -> None:
    """Run a light stage: on rank 0 alone, whatever started it."""
    if rank() == 0:
        function(**paths)


def run_on_all(function: Callable[..., None], paths: Mapping[str, Path]) -> None:
    """Run a stage whose work is shared among ranks: start them, or be one of them.

    Raises:
        CcdError: the hardware does not fit, or a process was killed.
        SystemExit: the ranks ended, with the status of the first that failed.
    """
    if _is_launched():
        if world_size() == 1:
            return function(**paths)
        with _member():
            return function(**paths)
    spec = sys.modules[function.__module__].__spec__
    words = [word for name, path in paths.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    command = ["-m", spec.name, *words] if spec else [sys.argv[0], *words]
    if os.environ.get(LAUNCHER, "").strip():
        return _wait([lambda: subprocess.Popen([*_launcher_words(), *command])])
    from ccd.runtime import process_count

    count = process_count()
    if count == 1:
        return function(**paths)
    return _start([sys.executable, *command], count)


def _launcher_words() -> list[str]:
    try:
        return shlex.split(os.environ[LAUNCHER])
    except ValueError as error:
        raise CcdError(f"{LAUNCHER}={os.environ[LAUNCHER]}: no shell command ({error}); correct its quotes") from None


def _start(command: Sequence[str], count: int) -> None:
    """The same command ``count`` times on this machine, as ranks that meet at a store in this process."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "").strip() or str(threads),
    }  # fmt: skip
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name need not resolve

    def starter(rank: int) -> Callable[[], subprocess.Popen[bytes]]:
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        # in a session of its own: Ctrl-C reaches the process that waits, and that one ends the others
        return lambda: subprocess.Popen(command, env=environment, start_new_session=True)

    _wait([starter(rank) for rank in range(count)])


def _wait(starters: Sequence[Callable[[], subprocess.Popen[bytes]]]) -> None:
    """Start processes and wait; when one fails, end the others. See `run_on_all` for what is raised."""
    before = signal.signal(signal.SIGTERM, _exit_on_sigterm)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(start() for start in starters)
        while None in (found := [process.poll() for process in processes]) and not any(found):
            time.sleep(0.05)
    except FileNotFoundError as error:
        raise CcdError(f"{LAUNCHER}: {error.filename} was not found; it must begin with a launcher's command") from None
    finally:
        failed = [(number, process.returncode) for number, process in enumerate(processes) if process.returncode]
        _end(processes)
        signal.signal(signal.SIGTERM, before)
    for number, status in sorted(failed, key=lambda each: each[1] < 0):  # those that could say why come first
        if status > 0:
            raise SystemExit(status)
        name = signal.Signals(-status).name
        raise CcdError(
            f"process {number} of {len(processes)} was killed ({name}); most often memory ran out: lower "
            "runtime.processes, runtime.workers or a batch size. What was encoded, and whole epochs, are kept"
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()  # of one that has ended, nothing
    latest_s = time.monotonic() + _END_S
    while None in [process.poll() for process in processes] and time.monotonic() < latest_s:
        time.sleep(0.02)
    for process in processes:
        process.kill()  # e.g. it waits inside NCCL for a rank that is gone
        process.wait()


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _member() -> Iterator[None]:
    """Take part as one rank of several. Of all ranks that fail, one says why; the others end silently."""
    signal.signal(signal.SIGTERM, _exit_on_sigterm)  # so that half-written files are removed
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # whoever waits for us is gone
    from ccd.runtime import join_ranks, leave_ranks

    try:
        join_ranks()
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if not _is_first_failure():
            time.sleep(_END_S)  # the launcher ends us once the rank that speaks is through
            raise SystemExit(2) from None
        if isinstance(error, RuntimeError) and _is_lost_peer(error):
            time.sleep(1)  # a launcher that saw it die is quicker, and knows why
            raise CcdError(
                f"rank {rank()} lost its connection to another process of this stage, which died; look for its "
                "message above or in the launcher's log, and start again"
            ) from error
        raise
    finally:
        leave_ranks()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to clean up; at exit, SystemExit is a traceback


def _is_first_failure() -> bool:
    import torch.distributed as dist

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=5), wait_for_workers=False)  # type: ignore[attr-defined]
        return bool(store.add("ccd/failed", 1) == 1)
    except (KeyError, ValueError):  # not met yet
        return rank() == 0
    except RuntimeError:  # rank 0 held the store and is gone
        return False


def _is_lost_peer(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
