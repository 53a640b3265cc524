"""Regions through the real stages: from the pass of clip_global to labels, with and without maps and tiles."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from ccd.artifacts import boxes_file
from ccd.errors import CcdError
from ccd.params.file import load
from ccd.params.sections import TeacherParams
from ccd.report.inspect import image_story
from ccd.report.inspect_text import story_text
from stages import cam_boxes, clip_local
from tests.toys.chain import COLOURS, artifacts, prepare, run_stage, write_pictures
from tests.toys.many_ranks import on_ranks, run_stages

TO_WARMUP = ("index", "text", "clip_global", "bias", "global_labels", "warmup")
DATA = Path("data/toy")


def change(old: str, new: str) -> None:
    path = Path("params.yaml")
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def run(*stages: str) -> None:
    for name in stages:
        run_stage(name)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("not needed here")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine pictures, six of them for training; up to three regions each."""
    prepare(tmp_path, monkeypatch, "vit", clip_global__regions="3", cam_boxes__views="dense")
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", tuple(COLOURS))
    return tmp_path


def test_dense_asks_no_student_and_encodes_nothing_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*TO_WARMUP)
    with h5py.File(DATA / "regions.h5") as file, h5py.File(DATA / "clip_global.h5") as whole:
        assert file.attrs["schema"] == "ccd.regions/1" and file.attrs["fingerprint"] == whole.attrs["fingerprint"]
        regions_px = file["boxes_px"][...]
        features = file["features"][...]
    assert regions_px.shape == (9, 3, 4) and features.shape == (9, 3, 16)
    exist = regions_px[..., 2] > 0
    assert exist.sum() > 9, "some image has two regions"
    np.testing.assert_allclose(np.linalg.norm(features[exist], axis=1), 1, atol=1e-6)
    assert regions_px[exist][:, 2].max() == 48, "pictures are 48 px wide"
    monkeypatch.setattr(cam_boxes, "restore_student", refuse)
    monkeypatch.setattr(clip_local, "load_teacher", refuse)
    run("cam_boxes", "clip_local", "aggregate")
    boxes = boxes_file.read(DATA / "boxes.parquet")
    train = pd.read_parquet(DATA / "images.parquet")["split"].to_numpy() == "train"
    assert boxes.metadata == {"views": "dense"} and set(boxes.classes) == {""} and np.isnan(boxes.scores).all()
    np.testing.assert_array_equal(boxes.boxes_px, regions_px[train][exist[train]])
    with h5py.File(DATA / "clip_local.h5") as file:
        np.testing.assert_array_equal(file["features"][...], features[train][exist[train]])
        assert file.attrs["teacher"] == "clip vit.pt, clip pixels, fp32" and file.attrs["image_size_px"] == "64"
    assert pd.read_parquet(DATA / "pseudo_labels.parquet")["local_prob"].notna().all()
    said = capsys.readouterr().out
    assert "[clip_local] 0 encoded" in said and f"[cam_boxes] {len(boxes.classes) / 6:.2f} regions" in said


def test_an_interrupted_pass_goes_on_and_other_prompts_encode_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("index", "clip_global")
    whole = artifacts(project)
    # the store lacks what a killed stage had not reached: here, of the third of three chunks
    (chunk,) = (project / ".ccd/store").glob("features-*/*.npz")
    with np.load(chunk) as content:
        known = {name: content[name][:6] for name in content}
    assert known["features"].shape == (6, 16 + 3 * (4 + 16))
    np.savez(chunk, **known)
    for name in ("clip_global.h5", "regions.h5"):
        (DATA / name).unlink()
    capsys.readouterr()
    run("clip_global")
    assert "3 encoded, 6 from the store" in capsys.readouterr().out
    with h5py.File(DATA / "regions.h5") as file:
        assert np.isfinite(file["features"][...]).all()
    change("a photo of the {}", "a picture of the {}")
    change("regions: 3 ", "regions: 2 ")
    run("clip_global")
    assert "9 encoded, 0 from the store" in capsys.readouterr().out, "another k"
    change("regions: 2 ", "regions: 3 ")
    run("clip_global")
    assert "0 encoded, 9 from the store" in capsys.readouterr().out
    assert artifacts(project).keys() == whole.keys()


def test_an_image_has_the_same_embedding_with_and_without_regions(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("index", "clip_global")
    with_regions = artifacts(project)["clip_global.h5"]
    change("regions: 3 ", "regions: 0 ")
    change("views: dense ", "views: cam ")
    capsys.readouterr()
    run("clip_global")
    assert "9 encoded" in capsys.readouterr().out
    assert artifacts(project)["clip_global.h5"] == with_regions
    with h5py.File(DATA / "regions.h5") as file:
        assert file["features"].shape == (9, 0, 16) and file["boxes_px"].shape == (9, 0, 4)


def test_regions_by_the_refined_attention(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("index", "clip_global")
    plain = artifacts(project)
    change("region_attention: sclip ", "region_attention: sc_clip ")
    capsys.readouterr()
    run("clip_global")
    assert "9 encoded, 0 from the store" in capsys.readouterr().out
    refined = artifacts(project)
    assert [name for name in plain if refined[name] != plain[name]] == ["regions.h5"]
    with h5py.File(DATA / "regions.h5") as file:
        exist = file["boxes_px"][...][..., 2] > 0
        np.testing.assert_allclose(np.linalg.norm(file["features"][...][exist], axis=1), 1, atol=1e-6)
    assert exist[:, 0].all() and exist.sum() > 9
    change("region_attention: sc_clip ", "region_attention: sclip ")
    run("clip_global")
    assert "0 encoded, 9 from the store" in capsys.readouterr().out and artifacts(project) == plain


@pytest.mark.slow
def test_both_and_tiles(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Views of maps first, then tiles, then regions; crops are encoded, regions are not."""
    change("views: dense ", "views: cam ")
    run(*TO_WARMUP, "cam_boxes", "clip_local")
    plain = pd.read_parquet(DATA / "boxes.parquet")
    with h5py.File(DATA / "clip_local.h5") as file:
        crops = file["features"][...]
    change("views: cam ", "views: both ")
    change("tiles: 0 ", "tiles: 2 ")
    capsys.readouterr()
    run("cam_boxes", "clip_local")
    assert f"24 encoded, {len(plain)} from the store" in capsys.readouterr().out
    both = boxes_file.read(DATA / "boxes.parquet")
    assert both.metadata["views"] == "both" and float(both.metadata["tau"]) > 0
    with h5py.File(DATA / "clip_local.h5") as file, h5py.File(DATA / "regions.h5") as of_pass:
        features = file["features"][...]
        first = of_pass["features"][0]
        count = int((of_pass["boxes_px"][0][:, 2] > 0).sum())
    np.testing.assert_array_equal(features[both.requested], crops)
    of_first = [row for row, image in enumerate(both.image_ids) if image == both.image_ids[0]]
    np.testing.assert_array_equal(features[of_first[-count:]], first[:count])
    assert [both.classes[row] for row in of_first[-count - 4 :]] == [""] * (count + 4)
    run("aggregate", "train", "head", "evaluate", "report")
    story = image_story(project / DATA, both.image_ids[0])
    assert story_text(story).count("- (no class)") == count + 4


@pytest.mark.slow
def test_two_ranks_find_what_one_does(project: Path) -> None:
    change("inference_batch_size: 64", "inference_batch_size: 2")
    run("index", "clip_global", "text", "bias", "global_labels", "warmup")
    one = artifacts(project)
    for name in ("clip_global.h5", "regions.h5"):
        (DATA / name).unlink()
    for path in (project / ".ccd/store").glob("features-*/*.npz"):
        path.unlink()
    for name in ("clip_global", "cam_boxes", "clip_local"):
        for rank, ended in enumerate(on_ranks(2, project, run_stages, name)):
            assert ended.status == 0, ended.said
            assert (f"[{name}] wrote" in ended.said) == (rank == 0)
    two = artifacts(project)
    assert {name: two[name] for name in one} == one


def test_other_regions_than_those_of_the_boxes_are_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TO_WARMUP, "cam_boxes")
    change("regions: 3 ", "regions: 2 ")
    run("clip_global")
    with pytest.raises(SystemExit):
        run("clip_local")
    said = capsys.readouterr().err
    assert "boxes.parquet: its regions were made from another" in said and "dvc repro -f -s cam_boxes" in said


@pytest.mark.parametrize("kind", ["dense", "both"])
def test_views_of_no_regions_are_found_before_anything_runs(kind: str, project: Path) -> None:
    change("regions: 3 ", "regions: 0 ")
    change("views: dense ", f"views: {kind} ")
    with pytest.raises(CcdError, match=rf"cam_boxes\.views = {kind}.*clip_global\.regions = 0.*e\.g\. to 6") as error:
        load(TeacherParams)
    assert "\n" not in str(error.value)
