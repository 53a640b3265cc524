"""Stages in several processes: the same artifacts, one message, no process left waiting."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ccd.errors import CcdError
from ccd.runtime import launch
from tests.toys.chain import COLOURS, ROOT, STAGES, artifacts, prepare, run_stage, write_pictures
from tests.toys.many_ranks import on_ranks, run_stages

LABEL_STAGES = ("index", "text", "clip_global", "bias", "global_labels")
IMAGE_STAGES = ("clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate")


def copied(project: Path, folder: Path) -> Path:
    """A copy of a project without its store."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".ccd"))
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to its labels, made by one process."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        rates = {"warmup__lr": "1.0e-4", "train__lr": "1.0e-4"}
        prepare(folder, patch, "resnet", runtime__inference_batch_size="3", warmup__epochs="2", **rates)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", tuple(COLOURS), train_count=10)  # batches of 4, 4 and 2
        for name in LABEL_STAGES:
            run_stage(name)
    return folder


def command(name: str) -> list[str]:
    return [sys.executable, *STAGES[name]["cmd"].replace("${dataset.name}", "toy").split()[1:]]


def environment(**changed: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changed}


def ask_for(folder: Path, processes: int) -> None:
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("processes: 1 ", f"processes: {processes} "))


def same_features(one: Path, other: Path) -> None:
    with h5py.File(one) as first, h5py.File(other) as second:
        assert dict(first.attrs).keys() == dict(second.attrs).keys() and first.attrs["schema"] == second.attrs["schema"]
        ids = "image_id" if "image_id" in first else "box_id"
        assert first[ids][...].tolist() == second[ids][...].tolist()
        np.testing.assert_allclose(first["features"][...], second["features"][...], atol=1e-5)


@pytest.mark.slow
def test_two_processes_encode_what_one_does(project: Path, tmp_path: Path) -> None:
    """Batches of 3 of 13 images: three for one rank, two for the other."""
    folder = copied(project, tmp_path / "two")
    (folder / "data/toy/clip_global.h5").unlink()
    for rank, ended in enumerate(on_ranks(2, folder, run_stages, "clip_global")):
        assert ended.status == 0, ended.said
        assert ("[clip_global] 13 encoded" in ended.said) == (rank == 0)
        assert rank == 0 or ended.said == ""
    same_features(folder / "data/toy/clip_global.h5", project / "data/toy/clip_global.h5")
    assert len(list((folder / ".ccd/store").glob("features-*/*.npz"))) == 1


@pytest.mark.slow
def test_two_processes_train_as_one_does(project: Path, tmp_path: Path) -> None:
    """Losses within 1 %; see docs/many_gpus.md for what was seen."""
    one = copied(project, tmp_path / "one")
    two = copied(project, tmp_path / "two")
    for world, folder in ((1, one), (2, two)):
        for ended in on_ranks(world, folder, run_stages, "warmup"):
            assert ended.status == 0, ended.said
    same_curves(one / "data/toy/warmup_curves.csv", two / "data/toy/warmup_curves.csv")
    assert artifacts(two).keys() == artifacts(one).keys()
    assert list((two / ".ccd/store").glob("training-*")) == []


def same_curves(one: Path, other: Path) -> None:
    first = pd.read_csv(one)
    second = pd.read_csv(other)
    assert list(first) == list(second) and first["epoch"].tolist() == second["epoch"].tolist()
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_heavy_stage_in_several_processes(world: int, project: Path, tmp_path: Path) -> None:
    """Each stage reads what one process made, so that differences do not add up. Of the last batch of two images, two
    of four ranks have none."""
    one = copied(project, tmp_path / "one")
    many = tmp_path / "many"
    for name in ("clip_global", "warmup", "cam_boxes", "clip_local", "aggregate", "train", "head", "evaluate"):
        assert on_ranks(1, one, run_stages, name)[0].status == 0
    copied(one, many)
    for name in IMAGE_STAGES:
        for ended in on_ranks(world, many, run_stages, name):
            assert ended.status == 0, ended.said
        if name in ("cam_boxes", "evaluate"):
            assert artifacts(many) == artifacts(one), "inference of the same weights on the same batches"
        for out in STAGES[name]["outs"]:
            made = Path(out).name
            if made.endswith(".h5"):
                same_features(one / "data/toy" / made, many / "data/toy" / made)
            elif made.endswith("curves.csv"):
                same_curves(one / "data/toy" / made, many / "data/toy" / made)
            shutil.copy(one / "data/toy" / made, many / "data/toy" / made)
    assert artifacts(many).keys() == artifacts(one).keys()


@pytest.mark.slow
def test_a_stage_starts_its_processes_itself_and_names_a_mistake_once(project: Path, tmp_path: Path) -> None:
    """Image 7 is in the third batch of three, which is the first rank's; image 4 in the second rank's first."""
    folder = copied(project, tmp_path / "two")
    (folder / "data/toy/clip_global.h5").unlink()
    ask_for(folder, 2)
    before = artifacts(folder)
    whole = (folder / "pictures/4.png").read_bytes()
    (folder / "pictures/4.png").write_bytes(whole + b"more")
    ended = subprocess.run(
        command("clip_global"), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 2, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "4.png" in errors[0] and "Traceback" not in ended.stderr
    assert artifacts(folder) == before, "nothing new, nothing half-written"
    (folder / "pictures/4.png").write_bytes(whole)
    subprocess.run(command("clip_global"), cwd=folder, env=environment(), capture_output=True, timeout=300, check=True)
    same_features(folder / "data/toy/clip_global.h5", project / "data/toy/clip_global.h5")


@pytest.mark.slow
def test_torchrun_starts_a_stage_through_ccd_launch(project: Path, tmp_path: Path) -> None:
    folder = copied(project, tmp_path / "two")
    (folder / "data/toy/clip_global.h5").unlink()
    torchrun = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    ended = subprocess.run(
        command("clip_global"),
        cwd=folder,
        env=environment(CCD_LAUNCH=torchrun),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("[clip_global] wrote data/toy/clip_global.h5") == 1
    same_features(folder / "data/toy/clip_global.h5", project / "data/toy/clip_global.h5")


@pytest.mark.slow
def test_ccd_launch_gets_the_stages_own_command(project: Path, tmp_path: Path) -> None:
    folder = copied(project, tmp_path / "two")
    for launcher, status, said in [
        (f"{sys.executable} -c 'import sys; print(sys.argv[1:])' --nodes=2", 0, ""),
        ("no-such-launcher", 2, "error: CCD_LAUNCH: no-such-launcher was not found"),
    ]:
        ended = subprocess.run(
            command("clip_global"),
            cwd=folder,
            env=environment(**{launch.LAUNCHER: launcher}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == status and ended.stderr.startswith(said)
        assert status or ended.stdout == f"{['--nodes=2', *command('clip_global')[1:]]}\n"


def test_light_stages_run_on_the_first_rank_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch, "vit")
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", tuple(COLOURS))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run_stage("index")
    assert not (tmp_path / "data").exists() and capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    run_stage("index")
    assert (tmp_path / "data/toy/images.parquet").is_file() and "[index] wrote" in capsys.readouterr().out


def processes_waiting(folder: Path) -> subprocess.Popen[str]:
    """A stage of two ranks, which have met, one of them inside a collective; its ranks' ids are names in ``ids``."""
    ask_for(folder, 2)
    (folder / "ids").mkdir()
    # a suite that runs in the background ignores Ctrl-C, and what it starts would too
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [sys.executable, "-c", f"{heeding}; from tests.toys.waiting_stage import main; main()", "--out", "ids"]
    process = subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "[waiting] reads nothing\n"
    return process


def ended_ids(folder: Path) -> list[int]:
    """The ids of the ranks, once none of them runs any more."""
    ids = [int(path.name) for path in (folder / "ids").iterdir()]
    latest_s = time.monotonic() + 60
    while any(is_running(each) for each in ids) and time.monotonic() < latest_s:
        time.sleep(0.1)
    assert not any(is_running(each) for each in ids)
    return ids


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_others_are_ended(project: Path, tmp_path: Path) -> None:
    folder = copied(project, tmp_path / "two")
    with processes_waiting(folder) as process:
        os.kill(int(next((folder / "ids").iterdir()).name), signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "of 2 was killed (SIGKILL)" in said and "runtime.processes" in said and "Traceback" not in said
    assert len(ended_ids(folder)) == 2


def fail(rank_that_fails: int) -> None:
    """A stage whose other ranks wait for one that makes a mistake."""
    from ccd.runtime.hardware import all_gather, this_rank
    from ccd.runtime.launch import shared_stage

    def main(out: Path) -> None:
        if this_rank() == rank_that_fails:
            raise CcdError(f"{out}: a mistake of one")
        if rank_that_fails < 0:
            raise CcdError(f"{out}: a mistake of all")
        all_gather(None)

    launch._CLEAN_UP_S = 1.0
    shared_stage(main).main(["--out", "x"], standalone_mode=False)


@pytest.mark.parametrize(
    "rank_that_fails", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(-1, marks=pytest.mark.slow)]
)
def test_one_rank_speaks_for_all(rank_that_fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch, "vit")
    ended = on_ranks(2, tmp_path, fail, rank_that_fails)
    assert [each.status for each in ended] == [2, 2]
    assert "".join(each.said for each in ended).count("error: ") == 1, ended
    assert not any("Traceback" in each.said for each in ended)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_all(sent: signal.Signals, status: int, project: Path, tmp_path: Path) -> None:
    """It is sent to the process that waits for the ranks, alone; one rank is inside a collective."""
    folder = copied(project, tmp_path / "two")
    with processes_waiting(folder) as process:
        process.send_signal(sent)
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in said and said.count("interrupted") == (sent == signal.SIGINT)
    assert len(ended_ids(folder)) == 2


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
