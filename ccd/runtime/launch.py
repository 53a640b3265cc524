"""Start a stage, in one process or in several ("ranks"), and end it with one message.

A stage is always started as ``python -m stages.NAME``, so that its identity in DVC does not change. With
``runtime.processes`` > 1 it runs itself under torchrun; with the environment variable ``CCD_LAUNCH`` it is replaced by
that launcher's command; under a launcher (``RANK`` and ``WORLD_SIZE`` are set) it takes part. torch is imported only
where several processes run: light stages start without it.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import logging
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

import click

from ccd.artifacts.files import remove_leftovers
from ccd.errors import DEBUG_VARIABLE, CcdError, Interruptible, end_interrupted, user_errors
from ccd.params.file import load
from ccd.params.sections import RuntimeParams

LAUNCHER = "CCD_LAUNCH"
_CLEAN_UP_S = 10.0  # how long a rank that failed second waits to be ended
_PR_SET_PDEATHSIG = 1


def world_size() -> int:
    """Return the number of processes that run this stage. Raises CcdError if ``RANK`` is not below ``WORLD_SIZE``."""
    return _rank_and_world_size()[1]


def rank() -> int:
    """Return this process's number among them; rank 0 prints and writes. Raises CcdError as `world_size` does."""
    return _rank_and_world_size()[0]


def local_rank() -> int:
    """Return this process's number among those on its machine."""
    return (_number("LOCAL_RANK") or 0) if _is_launched() else 0


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return (_number("LOCAL_WORLD_SIZE") or 1) if _is_launched() else 1


def _is_launched() -> bool:
    """Tell whether a launcher set ``RANK`` and ``WORLD_SIZE``.

    Empty, or anything but whole numbers, as templates of job schedulers leave them, they count as unset.
    """
    return _number("RANK") is not None and bool(_number("WORLD_SIZE"))


def _rank_and_world_size() -> tuple[int, int]:
    if not _is_launched():
        return 0, 1
    number = _number("RANK") or 0
    count = _number("WORLD_SIZE") or 1
    if number >= count:
        raise CcdError(
            f"RANK={number} must be below WORLD_SIZE={count}; start the processes with torchrun, or unset both"
        )
    return number, count


def _number(variable: str) -> int | None:
    """Return the whole number in an environment variable; None where it is unset, empty or anything else."""
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdecimal() else None


def stage(function: Callable[..., None]) -> click.Command:
    """Make a function of paths a command: each parameter becomes a required ``--name PATH``; see `user_errors`.

    With the default None it becomes an optional text. Under several processes it runs on rank 0; see `shared_stage`.
    """
    return _command(function, _run_on_rank0)


def shared_stage(function: Callable[..., None]) -> click.Command:
    """Make a function of paths a command like `stage`, whose work the ranks share."""
    return _command(function, _run_on_all_ranks)


def _command(function: Callable[..., None], start: Callable[..., None]) -> click.Command:
    gc.enable()  # the imports of a stage are done, see stages/__init__.py

    def run(debug: bool, **given: Path | str | None) -> None:
        if debug:
            os.environ[DEBUG_VARIABLE] = "1"
        values = {name: value for name, value in given.items() if value is not None}
        with user_errors(Path(inspect.getfile(function)).stem):
            for path in [value for value in values.values() if isinstance(value, Path) and rank() == 0]:
                remove_leftovers(path.parent, path.name)
            start(function, values)

    options: list[click.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = click.STRING if parameter.default is None else click.Path(path_type=Path)
        options.append(click.Option([f"--{name.replace('_', '-')}"], type=kind, required=kind is not click.STRING))
    options.append(click.Option(["--debug"], is_flag=True, help=f"Show tracebacks; so does {DEBUG_VARIABLE}=1."))
    return Interruptible(function.__module__, callback=run, params=options, help=function.__doc__)


def _run_on_rank0(function: Callable[..., None], values: Mapping[str, Path | str]) -> None:
    if rank() == 0:
        function(**values)


def _run_on_all_ranks(function: Callable[..., None], values: Mapping[str, Path | str]) -> None:
    """Run a stage whose work is shared among ranks: start them, or be one of them.

    Raises:
        CcdError: the hardware does not fit, or a process was killed.
        SystemExit: the ranks ended, with the status of the first that failed.
    """
    if _is_launched():
        if world_size() == 1:
            return function(**values)
        return _run_as_member(function, values)
    spec = sys.modules[function.__module__].__spec__
    options = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = ["-m", spec.name, *options] if spec else [sys.argv[0], *options]
    if os.environ.get(LAUNCHER, "").strip():
        return _become([*_launcher_command(), *command])
    count = process_count()
    if count == 1:
        return function(**values)
    return _torchrun(count, command)


def _launcher_command() -> list[str]:
    try:
        return shlex.split(os.environ[LAUNCHER])
    except ValueError as error:
        raise CcdError(f"{LAUNCHER}={os.environ[LAUNCHER]}: no shell command ({error}); correct its quotes") from None


def _become(command: Sequence[str]) -> None:
    """Replace this process by ``command``, which then gets its signals and gives its exit status."""
    sys.stdout.flush()
    try:
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        raise CcdError(f"{LAUNCHER}: {command[0]} was not found; it must begin with a launcher's command") from None


def _torchrun(count: int, command: Sequence[str]) -> None:
    """Run ``command`` on ``count`` ranks of this machine. See `_run_on_all_ranks` for what is raised."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    if not os.environ.get("OMP_NUM_THREADS", "").strip():
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // count))
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name need not resolve
    logging.disable()  # the rank that failed says why
    where = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count)]
    try:
        run(parse_args([*where, *command]))  # type: ignore[no-untyped-call]
    except SignalException as stopped:
        if stopped.sigval == signal.SIGINT:
            end_interrupted()
        raise SystemExit(128 + stopped.sigval) from None
    except ChildFailedError as failed:
        # first a rank that could say why, then one that was killed, then those that torchrun ended for it
        order = {128 + signal.SIGTERM: 2}
        number, failure = min(
            failed.failures.items(), key=lambda each: order.get(each[1].exitcode, each[1].exitcode < 0)
        )
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from None
        raise CcdError(
            f"process {number} of {count} was killed ({signal.Signals(-failure.exitcode).name}); most often memory "
            "ran out: lower runtime.processes, runtime.workers or a batch size. What was encoded, and whole epochs, "
            "are kept"
        ) from None


def _exit_silently(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # a launcher that is killed can cause the same signal several times
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _run_as_member(function: Callable[..., None], values: Mapping[str, Path | str]) -> None:
    """Run a stage as one rank of several. Of all ranks that fail, one says why; the others end silently.

    No context manager: a signal between its methods would leave its generator to be closed by the garbage collector.
    """
    usual = {number: signal.signal(number, _exit_silently) for number in (signal.SIGINT, signal.SIGTERM)}
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # the launcher was killed
    try:
        join_ranks()
        function(**values)
    except SystemExit:
        raise
    except BaseException as error:
        if not _is_first_failure():
            time.sleep(_CLEAN_UP_S)  # the launcher ends us once the rank that speaks is through
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
        for number, action in usual.items():  # nothing is left to clean up; at exit, SystemExit is a traceback
            signal.signal(number, action)


def process_count() -> int:
    """Return the number of ranks that ``runtime.processes`` asks for; ``auto`` is one per GPU, and one on the CPU.

    Raises:
        CcdError: more than there are GPUs, or more than one for a GPU that ``runtime.device`` names.
    """
    params = load(RuntimeParams)
    if params.processes == 1:
        return 1
    import torch

    from ccd.runtime.hardware import find_device

    device = find_device(params.device)
    if params.processes == "auto":
        return torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if device.type == "cuda" and (device.index is not None or params.processes > torch.cuda.device_count()):
        raise CcdError(
            f"runtime.processes = {params.processes} with runtime.device = {params.device}: every process needs a GPU "
            f"of its own, and this machine has {torch.cuda.device_count()}; use auto, or device cpu"
        )
    return params.processes


def join_ranks() -> None:
    """Connect to the other ranks: gloo for arrays, NCCL for what is on GPUs. Raises CcdError for a wrong device."""
    import torch.distributed as dist

    from ccd.runtime.hardware import use_device

    device = use_device(load(RuntimeParams).device)
    if rank() > 0:
        warnings.simplefilter("ignore")  # rank 0 says the same
    longest_wait = timedelta(minutes=30)  # of one rank for another
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=longest_wait)
    except ValueError as error:
        raise CcdError(
            f"RANK and WORLD_SIZE are set, but the processes cannot meet ({error}); start them with torchrun"
        ) from None


def leave_ranks() -> None:
    """Disconnect from the other ranks, if connected."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _is_first_failure() -> bool:
    import torch.distributed as dist

    try:
        address = os.environ["MASTER_ADDR"]
        port = int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=5), wait_for_workers=False)  # type: ignore[attr-defined]
        return bool(store.add("ccd/failed", 1) == 1)
    except (KeyError, ValueError):  # not met yet
        return rank() == 0
    except RuntimeError:  # rank 0 held the store and is gone
        return False


def _is_lost_peer(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
