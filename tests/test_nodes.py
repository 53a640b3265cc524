"""Two nodes, as docs/many_gpus.md says: two agents of torchrun through CCD_LAUNCH, here on loopback and with gloo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.toys.chain import COLOURS, ROOT, STAGES, artifacts, prepare, run_stage, write_pictures


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to its labels, made by one process."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch, "resnet", runtime__inference_batch_size="3", warmup__epochs="2", warmup__lr="1.0e-4")
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", tuple(COLOURS), train_count=10)
        for name in ("index", "text", "clip_global", "bias", "global_labels"):
            run_stage(name)
    return folder


def on_two_nodes(folder: Path, stage: str, each: int) -> subprocess.CompletedProcess[str]:
    """Run a stage by its own command on two nodes of ``each`` processes."""
    command = [sys.executable, *STAGES[stage]["cmd"].replace("${dataset.name}", "toy").split()[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["CCD_LAUNCH"] = f"{sys.executable} -m tests.toys.two_nodes {each}"
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_two_nodes_encode_what_one_process_does(project: Path, tmp_path: Path) -> None:
    """Batches of 3 of 13 images: three for the first node, two for the second."""
    folder = tmp_path / "nodes"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".ccd"))
    (folder / "data/toy/clip_global.h5").unlink()
    ended = on_two_nodes(folder, "clip_global", 1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("[clip_global] 13 encoded, 0 from the store") == 1
    with h5py.File(project / "data/toy/clip_global.h5") as one, h5py.File(folder / "data/toy/clip_global.h5") as two:
        assert one["image_id"][...].tolist() == two["image_id"][...].tolist()
        np.testing.assert_allclose(one["features"][...], two["features"][...], atol=1e-5)
    assert artifacts(folder).keys() == artifacts(project).keys()


@pytest.mark.slow
@pytest.mark.parametrize("each", [1, 2])
def test_two_nodes_train_as_one_process_does(each: int, project: Path, tmp_path: Path) -> None:
    """Batches of 4, 4 and 2: with two processes on each node two of them have nothing of the last one."""
    curves = []
    for name in ("one", "two"):
        folder = tmp_path / name
        shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".ccd"))
        if name == "one":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                run_stage("warmup")
        else:
            ended = on_two_nodes(folder, "warmup", each)
            assert ended.returncode == 0, ended.stderr
        curves.append(pd.read_csv(folder / "data/toy/warmup_curves.csv"))
    assert curves[0]["epoch"].tolist() == curves[1]["epoch"].tolist() == [1, 2]
    np.testing.assert_allclose(curves[0]["loss"], curves[1]["loss"], rtol=0.01)


@pytest.mark.slow
def test_a_mistake_on_the_second_node_is_said_once_and_ends_both(project: Path, tmp_path: Path) -> None:
    """Picture 4 is in the second batch of three, which is the second node's."""
    folder = tmp_path / "nodes"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".ccd"))
    (folder / "data/toy/clip_global.h5").unlink()
    with (folder / "pictures/4.png").open("ab") as file:
        file.write(b"more")
    before = artifacts(folder)
    ended = on_two_nodes(folder, "clip_global", 1)
    assert ended.returncode != 0
    assert len([line for line in ended.stderr.splitlines() if line.startswith("error: ")]) == 1, ended.stderr
    assert "4.png" in ended.stderr and artifacts(folder) == before
