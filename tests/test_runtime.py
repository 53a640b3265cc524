"""How many processes a stage becomes, and which device and cores each has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ccd.errors import CcdError
from ccd.runtime import hardware, launch
from tests.toys.chain import prepare


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(tmp_path, monkeypatch, "vit", runtime__processes="3")
    assert launch.process_count() == 3
    prepare(tmp_path, monkeypatch, "vit", runtime__processes="auto")
    assert launch.process_count() == 1, "the CPU is one device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    prepare(tmp_path, monkeypatch, "vit", runtime__processes="auto", runtime__device="auto")
    assert launch.process_count() == 2
    prepare(tmp_path, monkeypatch, "vit", runtime__processes="3", runtime__device="cuda")
    with pytest.raises(CcdError, match="this machine has 2"):
        launch.process_count()
    prepare(tmp_path, monkeypatch, "vit", runtime__processes="2", runtime__device="cuda:1")
    with pytest.raises(CcdError, match="a GPU of its own"):
        launch.process_count()


def test_every_rank_of_a_machine_has_its_own_gpu_and_its_share_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    alone = hardware.worker_count(None)
    for name, value in {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert hardware.find_device("auto") == hardware.find_device("cuda") == torch.device("cuda:3")
    assert hardware.find_device("cpu") == torch.device("cpu")
    assert hardware.worker_count(None) == max(1, alone // 4) and hardware.worker_count(5) == 5
    with pytest.raises(CcdError, match="names one GPU"):
        hardware.find_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as Slurm shows it
    assert hardware.find_device("auto") == torch.device("cuda:0")


def test_a_gpu_that_is_named_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what names no GPU, as pinned memory and graphs do not, takes no memory of another."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert hardware.use_device("cuda:1") == torch.device("cuda:1") and current == [torch.device("cuda:1")]
    assert hardware.use_device("cpu") == torch.device("cpu") and len(current) == 1
