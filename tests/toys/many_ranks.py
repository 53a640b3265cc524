"""Runs a function as several ranks on this machine, as torchrun would, from a server that has torch loaded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.toys.chain import run_stage

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.toys.many_ranks"])
LIMIT_S = 300.0


@dataclass(frozen=True)
class Ended:
    """How a rank ended, and what it said."""

    status: int | None
    said: str


def on_ranks(world: int, folder: Path, work: Callable[..., None], *arguments: Any) -> list[Ended]:
    """``work(*arguments)`` on every rank, with ``folder`` as working directory. All must end by themselves."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        PROCESSES.Process(target=_rank, args=(rank, world, store.port, folder, work, arguments))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(LIMIT_S)
    stuck = [rank for rank, process in enumerate(ranks) if process.exitcode is None]
    for process in ranks:
        process.kill()
    assert not stuck, f"ranks {stuck} did not end"
    return [Ended(process.exitcode, (folder / f"rank{rank}.txt").read_text()) for rank, process in enumerate(ranks)]


def run_stages(*names: str) -> None:
    """What a rank does in the tests of stages."""
    for name in names:
        run_stage(name)


def _rank(
    rank: int, world: int, port: int, folder: Path, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.chdir(folder)
    output = os.open(f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    work(*arguments)
