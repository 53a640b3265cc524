"""What a launcher's environment variables say, and what they do not."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from ccd.errors import CcdError
from ccd.runtime import launch
from ccd.runtime.launch import shared_stage

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "0", "WORLD_SIZE": "auto"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2"},
        {"WORLD_SIZE": "2"},
        {"RANK": "%RANK%", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
    ],
)
def test_empty_or_meaningless_variables_count_as_unset(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, values)
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (0, 1, 0, 1)


def test_a_launchers_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": ""})
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (3, 4, 1, 1)


def test_a_rank_outside_the_world_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "5", "WORLD_SIZE": "2"})
    with pytest.raises(CcdError, match=r"RANK=5.*WORLD_SIZE=2"):
        launch.rank()


@shared_stage
def nothing(out: Path) -> None:
    """Write nothing, but say that it ran."""
    print(f"ran for {out}")


def run_stage(capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Exit status, standard output and standard error of the stage above."""
    with pytest.raises(SystemExit) as stop:
        nothing.main(["--out", "x"])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {})
    monkeypatch.delenv(launch.LAUNCHER, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "as before")
    monkeypatch.setattr("ccd.runtime.launch.process_count", lambda: 2)
    monkeypatch.setattr("logging.disable", lambda: None)


def failed(**status_of_rank: int) -> ChildFailedError:
    return ChildFailedError(
        "stage", {int(rank[1:]): ProcessFailure(0, 1, code, "<NA>") for rank, code in status_of_rank.items()}
    )


@pytest.mark.parametrize(
    ("ending", "status", "parts"),
    [
        (failed(r1=2), 2, ()),
        (failed(r0=143, r1=2), 2, ()),
        (failed(r0=143, r1=-9), 2, ("process 1 of 2", "SIGKILL", "runtime.processes")),
        (SignalException("stop", signal.SIGINT), 130, ("interrupted",)),
        (SignalException("stop", signal.SIGTERM), 143, ()),
    ],
)
def test_the_end_of_torchrun_is_that_of_the_stage(
    ending: Exception,
    status: int,
    parts: tuple[str, ...],
    two_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []

    def run(arguments: argparse.Namespace) -> None:
        started.append(arguments)
        raise ending

    monkeypatch.setattr("torch.distributed.run.run", run)
    code, _, said = run_stage(capsys)
    assert code == status and all(part in said for part in parts) and (parts or not said)
    assert (started[0].nproc_per_node, started[0].standalone, started[0].local_addr) == ("2", True, "127.0.0.1")
    assert [*started[0].training_script_args[-2:]] == ["--out", "x"]
    assert int(os.environ["OMP_NUM_THREADS"]) >= 1


def test_a_launcher_takes_the_place_of_the_process(
    two_processes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became = []
    monkeypatch.setattr("os.execvp", lambda file, words: became.append((file, words)))
    monkeypatch.setenv(launch.LAUNCHER, "srun --nodes=2 'a b'")
    run_stage(capsys)
    assert became[0][0] == "srun" and became[0][1][:3] == ["srun", "--nodes=2", "a b"]
    assert became[0][1][-2:] == ["--out", "x"]
    monkeypatch.setenv(launch.LAUNCHER, "srun 'a")
    code, _, said = run_stage(capsys)
    assert code == 2 and launch.LAUNCHER in said and "quotes" in said


def test_a_launcher_that_is_not_there_is_named(
    two_processes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(launch.LAUNCHER, "no-such-launcher --nodes=2")
    code, _, said = run_stage(capsys)
    assert code == 2 and launch.LAUNCHER in said and "no-such-launcher" in said


def test_one_process_runs_the_stage_itself(
    two_processes: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ccd.runtime.launch.process_count", lambda: 1)
    assert run_stage(capsys)[1] == "ran for x\n"
    set_all(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1"})
    assert run_stage(capsys)[1] == "ran for x\n"


def test_a_lost_peer_is_told_from_other_errors() -> None:
    assert launch._is_lost_peer(RuntimeError("[gloo] Connection closed by peer"))
    assert launch._is_lost_peer(RuntimeError("NCCL communicator was aborted"))
    assert not launch._is_lost_peer(RuntimeError("shapes differ"))


def test_a_signal_that_comes_twice_ends_a_rank_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that is killed has several threads; each that ends can send its ranks the signal."""
    said = []

    def leave_ranks() -> None:
        signal.raise_signal(signal.SIGTERM)
        said.append("left")

    monkeypatch.setattr("ccd.runtime.launch.join_ranks", lambda: None)
    monkeypatch.setattr("ccd.runtime.launch.leave_ranks", leave_ranks)
    monkeypatch.setattr("ctypes.CDLL", lambda name: argparse.Namespace(prctl=lambda option, number: None))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        launch._run_as_member(lambda: signal.raise_signal(signal.SIGTERM), {})
    assert stop.value.code == 143 and said == ["left"]
    assert signal.getsignal(signal.SIGTERM) == before
