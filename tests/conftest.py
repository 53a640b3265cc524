"""What tests share: the project's root, and the folder of real data that may lie beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Compute on the CPU alone, here and in the processes that tests start, but for a run of the tests marked `gpu`."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real photos, scores and weights for development, beside the repository; the test is skipped without them."""
    for folder in (ROOT.parent / "shared", Path(os.environ.get("CCD_SHARED", "/nonexistent"))):
        if (folder / "data").is_dir():
            return folder
    pytest.skip("the folder of real photos and weights (../shared) is not there")
