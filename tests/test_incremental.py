"""Stages over the store: what is known is not encoded again, and the artifacts are those of a run from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from ccd.student import fit
from ccd.student.step import TrainingStep
from tests.toys.chain import COLOURS, artifacts, prepare, run_stage, write_pictures

IMAGE_STAGES = ("index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local")


def encoded(said: str, stage: str) -> tuple[int, int]:
    """(encoded, from the store) as the stage's finding tells."""
    words = next(line for line in said.splitlines() if line.startswith(f"[{stage}]") and " encoded, " in line).split()
    return int(words[1]), int(words[3])


def run(stages: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    for name in stages:
        run_stage(name)
    return capsys.readouterr().out


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    """A project whose folder of pictures holds the usual nine and ``extra`` more."""
    prepare(folder, monkeypatch, "resnet")
    (folder / "pictures").mkdir(exist_ok=True)
    write_pictures(folder / "pictures", tuple(COLOURS))
    for number in range(extra):
        Image.new("RGB", (50, 40), (20 * number, 200, 90)).save(folder / "pictures" / f"more{number}.png")


@pytest.mark.slow
def test_added_images_alone_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(tmp_path / "grown", monkeypatch, extra=0)
    assert encoded(run(IMAGE_STAGES, capsys), "clip_global") == (9, 0)
    assert encoded(run(("clip_global",), capsys), "clip_global") == (0, 9)
    project(tmp_path / "grown", monkeypatch, extra=2)
    assert encoded(run(IMAGE_STAGES, capsys), "clip_global") == (2, 9)
    grown = artifacts(tmp_path / "grown")
    project(tmp_path / "scratch", monkeypatch, extra=2)
    assert encoded(run(IMAGE_STAGES, capsys), "clip_global") == (11, 0)
    assert artifacts(tmp_path / "scratch") == grown


@pytest.mark.slow
def test_views_that_were_looked_at_are_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(tmp_path, monkeypatch, extra=0)
    count, known = encoded(run(IMAGE_STAGES, capsys), "clip_local")
    assert count > 0 and known == 0
    before = artifacts(tmp_path)["clip_local.h5"]
    assert encoded(run(("clip_local",), capsys), "clip_local") == (0, count)
    assert artifacts(tmp_path)["clip_local.h5"] == before
    chunks = sorted((tmp_path / ".ccd/store").glob("features-*/*.npz"))
    assert len(chunks) == 2  # whole images, views
    shutil.rmtree(tmp_path / ".ccd")
    assert encoded(run(("clip_local",), capsys), "clip_local") == (count, 0)
    assert artifacts(tmp_path)["clip_local.h5"] == before


@pytest.mark.slow
def test_a_finished_training_leaves_no_state_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(tmp_path, monkeypatch, extra=0)
    run((*IMAGE_STAGES, "aggregate", "train"), capsys)
    assert list((tmp_path / ".ccd/store").glob("training-*")) == []


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last epoch fails before its first step; the rerun has one epoch left and ends with the same bytes."""
    stages = (*IMAGE_STAGES, "aggregate")
    project(tmp_path, monkeypatch, extra=0)
    run((*stages, "train"), capsys)
    whole = artifacts(tmp_path)["student.pt"]
    begun: list[int] = []
    original = fit._train_epoch

    def dying(step: TrainingStep, batches: fit.Batches, targets: Tensor, epoch: int, *others: Any) -> object:
        begun.append(epoch)
        if begun == [0, 1, 2]:
            raise KeyboardInterrupt
        return original(step, batches, targets, epoch, *others)

    monkeypatch.setattr(fit, "_train_epoch", dying)
    with pytest.raises(SystemExit, match="130"):
        run_stage("train")
    run_stage("train")
    assert begun == [0, 1, 2, 2]
    assert artifacts(tmp_path)["student.pt"] == whole
