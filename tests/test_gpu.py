"""The chain on a GPU beside the chain on the CPU. Run with ``pytest -m gpu``; the same test runs on the CPU as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from ccd.artifacts import checkpoint_file
from ccd.student.step import CapturedStep
from tests.toys.chain import CHAIN, prepare, run_stage, write_pictures
from tests.toys.commands import invoke
from tests.toys.student import KilledError, begun_epochs

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)
TRAINED = {"warmup": "warmup.pt", "train": "student.pt"}
EPOCHS = 3


def run_chain(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All stages, in batches of two of six images: a GPU replays the fifth step and those behind it."""
    changed = {"warmup__batch_size": "2", "train__batch_size": "2", "warmup__epochs": str(EPOCHS)}
    prepare(folder, monkeypatch, "resnet", runtime__device=device, **changed)
    (folder / "pictures").mkdir()
    write_pictures(folder / "pictures", ("red", "green", "blue"))
    for name in CHAIN:
        run_stage(name)
    return folder / "data/toy"


def rows_of(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file[name][...])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint_file.read(path, "train").weights["last"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_device_gives_what_the_cpu_gives(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random networks: what is compared is the arithmetic, not a quality. Training enlarges differences of rounding."""
    here = run_chain(tmp_path / "cpu", "cpu", monkeypatch)
    there = run_chain(tmp_path / device / "again", device, monkeypatch)
    for file, name in (("clip_global.h5", "features"), ("text.h5", "embedding")):
        np.testing.assert_allclose(rows_of(there / file, name), rows_of(here / file, name), atol=1e-4)
    tables = [pd.read_parquet(folder / "global_labels.parquet")["prob"] for folder in (here, there)]
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-3)  # of scores at scale 100
    curves = [pd.read_csv(folder / "warmup_curves.csv") for folder in (here, there)]
    assert len(curves[1]) == EPOCHS
    np.testing.assert_allclose(curves[1]["loss"], curves[0]["loss"], rtol=0.05)
    predicted = invoke("predict", there / "student.pt", tmp_path / "cpu/pictures", "--device", device, "--out", "p.csv")
    assert predicted.exit_code == 0, predicted.stderr


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_killed_training_goes_on_to_the_same_weights(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU to the last bit; a GPU captures its steps anew after the kill."""
    data = run_chain(tmp_path / "project", device, monkeypatch)
    assert "without a CUDA graph" not in capsys.readouterr().err
    for stage, file in TRAINED.items():
        shutil.copy(data / file, tmp_path / file)
        with begun_epochs(die_in=EPOCHS - 1), pytest.raises(KilledError):
            run_stage(stage)
        run_stage(stage)
        if device == "cpu":
            assert (data / file).read_bytes() == (tmp_path / file).read_bytes()
        for key, value in weights(tmp_path / file).items():
            torch.testing.assert_close(weights(data / file)[key], value, atol=1e-5, rtol=1e-4)
    assert EPOCHS * 3 > CapturedStep.WARM_UPS + 1, "no step was a replay"
