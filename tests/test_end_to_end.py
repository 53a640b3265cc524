"""The whole chain through its real entry points, on coloured squares, a random tiny CLIP and a small ResNet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ccd.artifacts import features_file, head_file, image_index, text_file
from ccd.evaluation.metrics import average_precision
from ccd.labels.scores import sigmoid
from tests.toys.chain import CHAIN, COLOURS, STAGES, artifacts, prepare, run_stage, write_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, tuple(COLOURS))
    return folder


def run_chain(folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, tower: str) -> dict[str, str]:
    """Run every stage; the digests of what they wrote."""
    prepare(folder, monkeypatch, tower)
    (folder / "pictures").symlink_to(pictures)
    for name in CHAIN:
        run_stage(name)
    return artifacts(folder)


def test_the_whole_chain_writes_exactly_its_artifacts(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run_chain(tmp_path, pictures, monkeypatch, "vit")
    made = [Path(out).name for stage in STAGES.values() for out in [*stage["outs"], *stage.get("metrics", [])]]
    assert sorted(written) == sorted(made)
    said = capsys.readouterr().out
    for name in CHAIN:
        assert f"[{name}] reads" in said and f"[{name}] wrote" in said
    check_story(tmp_path / "data/toy")


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_the_whole_chain_repeats(tower: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_chain(tmp_path / "first", pictures, monkeypatch, tower)
    assert run_chain(tmp_path / "second", pictures, monkeypatch, tower) == first
    check_story(tmp_path / "first/data/toy")


def check_story(folder: Path) -> None:
    """The files agree with each other and with the formulas."""
    labels = pd.read_parquet(folder / "pseudo_labels.parquet")
    assert len(labels) == 6 * 3
    bias_of = {name: row["bias"] for name, row in json.loads((folder / "bias.json").read_text())["classes"].items()}
    b = labels["class"].astype(str).map(bias_of)
    q = (labels["global_prob"].clip(lower=0.05) / b).clip(0, 1)
    np.testing.assert_allclose(labels["global_label"], q, rtol=1e-5)
    local = (labels["local_prob"].clip(lower=0.05) / b).fillna(q)
    np.testing.assert_allclose(labels["label"], (0.4 * q + 0.6 * local).clip(0, 1), rtol=1e-5)
    boxes = pd.read_parquet(folder / "boxes.parquet")
    assert len(boxes) == 9 and set(labels["box_id"].dropna()) <= set(boxes["box_id"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train"]["labelled_images"] == 6 and metrics["test"]["labelled_images"] == 3
    assert 0 <= metrics["test"]["mAP"]["student"] <= 100
    rows = pd.read_csv(folder / "per_class.csv")
    for name in ("student", "head"):
        assert rows[f"test_{name}"].mean() == pytest.approx(metrics["test"]["mAP"][name], abs=0.02)
    every = image_index.read(folder / "images.parquet")
    teacher = text_file.read(folder / "text.h5").attributes
    embedded = features_file.open_global(folder / "clip_global.h5", every.ids, teacher)
    probs = sigmoid(head_file.read(folder / "head.h5").linear.logits(embedded.take(every.test_rows)))
    truth = pd.read_parquet(folder / "labels.parquet").set_index(["image_id", "class"])["label"]
    there = [[truth[image, name] == 1 for name in COLOURS] for image in every.test().ids]
    np.testing.assert_allclose(rows["test_head"], 100 * average_precision(probs, np.asarray(there)), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 80, 1000])
def test_any_number_of_classes(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch, "vit", clip_global__image_size_px="32", clip_local__image_size_px="32")
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", tuple([*COLOURS, *(f"thing {number}" for number in range(997))][:count]))
    for name in CHAIN:
        run_stage(name)
    assert len(pd.read_parquet(tmp_path / "data/toy/pseudo_labels.parquet")) == 6 * count


@pytest.mark.slow
def test_images_without_boxes_keep_their_global_label(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch, "vit", cam_boxes__tau="1.0")
    (tmp_path / "pictures").symlink_to(pictures)
    for name in CHAIN:
        run_stage(name)
    labels = pd.read_parquet(tmp_path / "data/toy/pseudo_labels.parquet")
    assert labels["box_id"].isna().all() and labels["local_prob"].isna().all()
    np.testing.assert_array_equal(labels["label"], labels["global_label"])


@pytest.mark.slow
def test_without_any_label_nothing_is_missing_but_the_figures(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch, "vit", index__test_split="null")
    (tmp_path / "pictures").mkdir()
    for name in ("0.png", "1.png", "classes.txt"):
        (tmp_path / "pictures" / name).write_bytes((pictures / name).read_bytes())
    for name in CHAIN:
        run_stage(name)
    metrics = json.loads((tmp_path / "data/toy/metrics.json").read_text())
    assert metrics["test"]["mAP"] == {} and metrics["train"]["labelled_images"] == 0
    assert "no image has known labels" in capsys.readouterr().out


def test_a_users_mistake_is_one_line_and_leaves_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch, "vit")
    (tmp_path / "pictures").symlink_to(pictures)
    with pytest.raises(SystemExit) as stop:
        run_stage("text")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "run: dvc repro" in said and "Traceback" not in said
    assert not (tmp_path / "data").exists()


def test_an_image_that_changed_since_index_is_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch, "vit")
    (tmp_path / "pictures").mkdir()
    for path in pictures.iterdir():
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    run_stage("index")
    with (tmp_path / "pictures/4.png").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SystemExit):
        run_stage("clip_global")
    assert "4.png" in capsys.readouterr().err
    assert not (tmp_path / "data/toy/clip_global.h5").exists()


@pytest.mark.slow
def test_odd_images_go_through_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch, "vit", cam_boxes__views_per_image="3.0")
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    noise = np.random.default_rng(0).integers(0, 255, (30, 20, 3), np.uint8)
    colour = Image.fromarray(noise)
    colour.crop((0, 0, 1, 1)).save(folder / "1x1.png")
    colour.resize((6000, 4000)).save(folder / "large.jpg", quality=30)
    colour.resize((2000, 10)).save(folder / "wide.png")
    colour.convert("L").save(folder / "grey.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.convert("P").save(folder / "palette.gif")
    colour.convert("RGBA").save(folder / "alpha.webp")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "16bit.png")
    exif = Image.Exif()
    exif[274] = 6
    colour.save(folder / "turned.jpg", exif=exif)
    for name in CHAIN:
        run_stage(name)
    index_of = pd.read_parquet(tmp_path / "data/toy/images.parquet").set_index("image_id")
    assert tuple(index_of.loc["turned.jpg", ["width_px", "height_px"]]) == (30, 20)
    boxes = pd.read_parquet(tmp_path / "data/toy/boxes.parquet").join(index_of, on="image_id")
    assert set(boxes["image_id"]) == set(index_of.index)
    assert (boxes["x0_px"] >= 0).all() and (boxes["x1_px"] <= boxes["width_px"]).all()
    assert (boxes["y0_px"] >= 0).all() and (boxes["y1_px"] <= boxes["height_px"]).all()
    assert ((boxes["x1_px"] > boxes["x0_px"]) & (boxes["y1_px"] > boxes["y0_px"])).all()
    labels = pd.read_parquet(tmp_path / "data/toy/pseudo_labels.parquet")
    assert labels["label"].between(0, 1).all() and len(labels) == 9 * 3
