"""The open questions' parameters through the real stages, on coloured squares and a random tiny CLIP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ccd.params.presets import override
from ccd.report.answers import findings
from ccd.report.inspect import box_overlap, image_story
from ccd.report.inspect_text import story_data, story_text
from ccd.report.overlay import overlay
from ccd.report.run_data import RunFiles, read_run
from tests.toys.chain import COLOURS, artifacts, prepare, run_stage, write_pictures

pytestmark = pytest.mark.slow

TO_LABELS = ("index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local", "aggregate")


def set_params(**changed: str) -> None:
    path = Path("params.yaml")
    values = {key.replace("__", "."): value for key, value in changed.items()}
    path.write_text(override(path.read_text(), values))


def labels() -> pd.DataFrame:
    return pd.read_parquet("data/toy/pseudo_labels.parquet")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of six images, every class asking for a view of each."""
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch, "vit", cam_boxes__views_per_image="3.0")
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", tuple(COLOURS))
        for name in TO_LABELS:
            run_stage(name)
    return folder


@pytest.fixture
def toy(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `labelled`, as working directory."""
    folder = tmp_path / "toy"
    shutil.copytree(labelled, folder)
    monkeypatch.chdir(folder)
    return folder


def test_images_without_a_class_lose_their_labels_and_the_rest_keeps_its(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = artifacts(toy)
    plain = labels()
    entropy = (
        pd.read_parquet("data/toy/global_labels.parquet").groupby("image_id", observed=True)["entropy_nats"].first()
    )
    middle = float(entropy.median())
    set_params(
        global_labels__none_rule="entropy",
        global_labels__none_threshold=repr(middle),
        global_labels__none_weight="0.25",
    )
    run_stage("global_labels")
    assert "50.0% show no class (rule: entropy)" in capsys.readouterr().out
    run_stage("aggregate")
    gone = plain["image_id"].astype(str).map(entropy > middle).to_numpy()
    assert gone.sum() == 3 * 3
    factor = np.where(gone, 0.25, 1.0)
    for name in ("global_label", "label"):
        np.testing.assert_allclose(labels()[name], factor * plain[name], rtol=1e-6)
    said = pd.read_parquet("data/toy/none_images.parquet").set_index("image_id")
    assert said["none"].to_dict() == (entropy > middle).to_dict()
    np.testing.assert_allclose(said["score"], entropy[said.index], rtol=1e-6)
    for name in ("train", "head", "evaluate"):
        run_stage(name)
    found = [each for each in findings(read_run(RunFiles.in_folder(toy / "data/toy"))) if "none of" in each.question]
    assert [each.answer.split(",")[0] for each in found] == ["3 training images (50.0 %)"]
    set_params(global_labels__none_rule="'off'")
    for name in ("global_labels", "aggregate"):
        run_stage(name)
    after = artifacts(toy)
    assert {name: after[name] for name in before} == before, "off: as if the rule had never been"


def test_background_texts_touch_nothing_but_their_rule(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = artifacts(toy)
    set_params(global_labels__none_rule="background", global_labels__none_threshold="0.0")
    with pytest.raises(SystemExit) as stop:
        run_stage("global_labels")
    said = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and said.startswith("error: ")
        and "text.background_texts" in said
        and "text.background_words: true" in said
    )
    assert artifacts(toy) == before, "nothing half-written"
    set_params(text__background_texts="[a photo of a wall, a photo of the sky]")
    for name in ("text", "bias", "global_labels"):
        run_stage(name)
    assert artifacts(toy)["bias.json"] == before["bias.json"]
    found = pd.read_parquet("data/toy/none_images.parquet")
    assert found["none"].all() and found["score"].between(0, 1, inclusive="neither").all()
    run_stage("aggregate")
    assert (labels()["label"] == 0).all() and (labels()["global_prob"] > 0).all()
    set_params(global_labels__none_rule="'off'")
    for name in ("global_labels", "aggregate"):
        run_stage(name)
    assert {**artifacts(toy), "text.h5": ""} == {**before, "text.h5": ""}


def test_shared_views_are_merged_or_contested(toy: Path) -> None:
    plain = labels()
    views = pd.read_parquet("data/toy/boxes.parquet")
    set_params(aggregate__contest="true", aggregate__contest_iou="0.01")
    run_stage("aggregate")
    contested = labels()
    assert (contested["local_prob"] <= plain["local_prob"]).all()
    lower = contested["local_prob"] < plain["local_prob"]
    assert lower.any() and (contested["label"] <= plain["label"]).all()
    np.testing.assert_allclose(contested["global_label"], plain["global_label"])
    assert (contested["local_prob"] >= plain[["local_prob", "global_prob"]].min(axis=1) - 1e-7).all()
    set_params(aggregate__contest="false", cam_boxes__shared_views="merge", cam_boxes__shared_iou="0.01")
    for name in ("cam_boxes", "clip_local", "aggregate"):
        run_stage(name)
    merged = pd.read_parquet("data/toy/boxes.parquet")
    assert len(merged) < len(views) and set(merged["image_id"]) == set(views["image_id"])
    best = views.loc[views.groupby("image_id")["score"].idxmax()]
    first = merged.loc[merged.groupby("image_id")["score"].idxmax()]
    assert first["class"].tolist() == best["class"].tolist(), "the class with the largest score keeps its view"


def test_tiles_are_views_that_no_class_asked_for(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = labels()
    views = pd.read_parquet("data/toy/boxes.parquet")
    set_params(cam_boxes__tiles="2", aggregate__contest="true", aggregate__contest_iou="0.01")
    for name in ("cam_boxes", "clip_local", "aggregate"):
        run_stage(name)
    tiled = pd.read_parquet("data/toy/boxes.parquet")
    assert len(tiled) == len(views) + 6 * 4 and (tiled["class"] == "").sum() == 6 * 4
    set_params(aggregate__contest="false")
    for name in ("aggregate", "train", "head", "evaluate", "report"):
        run_stage(name)
    assert (labels()["local_prob"] >= plain["local_prob"] - 1e-6).all(), "a maximum over more views"
    assert (labels()["local_prob"] > plain["local_prob"] + 1e-6).any()
    assert "views an image" in capsys.readouterr().out
    story = image_story(toy / "data/toy", "0")
    said = story_text(story)
    data = story_data(story)
    assert said.count("- (no class)") == 4
    assert [each["asked_by"] for each in data["views"]].count(None) == 4
    json.dumps(data, allow_nan=False)
    overlay(story, toy / "pictures")
    named = {name for pair in box_overlap(toy / "data/toy", 5, 1) for name in (pair.first, pair.second)}
    assert named == set(COLOURS)
