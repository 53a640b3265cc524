"""``ccd inspect`` and ``ccd artifacts``: what they say is what the artifacts hold."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ccd.artifacts import (
    bias_file,
    boxes_file,
    class_table,
    features_file,
    text_file,
)
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.image_index import rows_of
from ccd.errors import CcdError
from ccd.labels.debias import LocalViews, WholeImages, global_label, nobody_decided, pseudo_labels as make_labels
from ccd.labels.scores import clip_probs
from ccd.report.inspect import box_overlap, doubtful, image_story, worst
from ccd.report.inspect_text import (
    artifacts_text,
    as_json,
    display_width,
    doubts_text,
    examples_text,
    overlaps_text,
    story_data,
    story_text,
)
from ccd.runtime.console import record_timing
from ccd.runtime.listing import artifact_list
from tests.toys.finished_run import ALPHA, CLASSES, TRAIN, write_run

FLOOR = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, its pseudo-labels really made from its views."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    words = text_file.read(folder / "text.h5")
    debias = bias_file.read(folder / "bias.json").bias
    views = boxes_file.read(folder / "boxes.parquet")
    looks = features_file.read(folder / "clip_local.h5", features_file.LOCAL_SCHEMA)
    whole = np.random.default_rng(2).dirichlet(np.ones(3), len(TRAIN)).astype(np.float32)
    rows = rows_of(folder / "boxes.parquet", "cam_boxes", views.image_ids, TRAIN)
    probs = clip_probs(looks.values, words.values, words.logit_scale)
    images = WholeImages(whole, global_label(whole, debias, FLOOR))
    columns = make_labels(images, LocalViews(probs, rows), debias, FLOOR, ALPHA)
    columns |= nobody_decided(whole.shape)
    table = class_table.ClassTable(TRAIN, CLASSES, columns, {"alpha": repr(ALPHA)})
    class_table.write(folder / "pseudo_labels.parquet", PSEUDO_LABELS, table)
    return folder


def test_story_of_an_image_with_three_boxes_is_the_artifacts_to_the_last_digit(folder: Path) -> None:
    story = image_story(folder, "train/a")
    rows = pd.read_parquet(folder / "pseudo_labels.parquet").query("image_id == 'train/a'")
    for name, values in story.columns.items():
        known = rows[name].notna().to_numpy()
        assert values[known].tolist() == rows[name][known].tolist(), name
    assert [view.box_id for view in story.views] == [0, 1, 2]
    found = pd.read_parquet(folder / "boxes.parquet").query("image_id == 'train/a'")
    assert [view.requested_by for view in story.views] == found["class"].tolist() == list(CLASSES)
    assert [view.corners_px[0] for view in story.views] == found["x0_px"].tolist()
    # The best of the shown scores is the stored one, and the stored winner is the view that has it.
    scores = np.stack([view.probs for view in story.views])
    assert scores.max(axis=0).tolist() == rows["local_prob"].tolist()
    assert scores.argmax(axis=0).tolist() == rows["box_id"].tolist()
    assert story.truth.tolist() == [1, 0, 0]


def test_printed_numbers_are_those_of_the_file(folder: Path) -> None:
    printed = story_text(image_story(folder, "train/a"))
    rows = pd.read_parquet(folder / "pseudo_labels.parquet").query("image_id == 'train/a'")
    cup = next(line for line in printed.splitlines() if line.startswith("cup ")).split()
    expected = rows[rows["class"] == "cup"].iloc[0]
    columns = ("global_prob", "global_label", "local_prob", "local_label", "label")
    assert [cup[1], cup[3], cup[4], cup[5], cup[8]] == [f"{expected[name]:.3f}" for name in columns]
    assert cup[2] == "0.500" and " ".join(cup[6:8]) == f"box {int(expected['box_id'])}"
    assert "box 0" in printed and "train/a (train), train/a.jpg, 400 x 300 px" in printed
    corners = printed.splitlines()[5].split()[-4:]
    assert corners == [f"{side:.3f}" for side in boxes_file.read(folder / "boxes.parquet").boxes_px[2]]


def test_json_of_an_image_with_three_boxes_is_the_artifacts_to_the_last_bit(folder: Path) -> None:
    said = json.loads(as_json(story_data(image_story(folder, "train/a"))))
    rows = pd.read_parquet(folder / "pseudo_labels.parquet").query("image_id == 'train/a'").set_index("class")
    for name in CLASSES:
        for column in rows.columns.drop("image_id"):
            wanted = rows.loc[name, column]
            assert said["classes"][name][column] == (None if pd.isna(wanted) else wanted), (name, column)
    found = pd.read_parquet(folder / "boxes.parquet").query("image_id == 'train/a'")
    for column in ("box_id", "x0_px", "y0_px", "x1_px", "y1_px"):
        assert [view[column] for view in said["views"]] == found[column].tolist()
    assert [view["student_score"] for view in said["views"]] == found["score"].tolist()
    best = {name: max(view["clip_probs"][name] for view in said["views"]) for name in CLASSES}
    assert best == rows["local_prob"].to_dict()
    assert said["classes"]["cup"]["truth"] is True and said["classes"]["tall lamp"]["truth"] is False


def test_json_has_null_where_the_file_has_null_and_nothing_else_missing(folder: Path) -> None:
    said = json.loads(as_json(story_data(image_story(folder, "train/d"))))
    cup = said["classes"]["cup"]
    assert said["views"] == [] and cup["local_prob"] is None and cup["box_id"] is None
    assert isinstance(cup["label"], float)
    listed = json.loads(as_json(worst(folder, "cup", 2)))
    assert set(listed[0]) == {"image_id", "class_name", "global_label", "local_label", "label", "truth", "why"}


def test_image_without_views_and_test_image(folder: Path) -> None:
    story = image_story(folder, "d")  # a file name without folder and ending will do
    assert story.image_id == "train/d" and story.views == () and " -  " in story_text(story)
    story = image_story(folder, "test/f.jpg")
    rows = pd.read_parquet(folder / "predictions.parquet").query("image_id == 'test/f'")
    assert story.columns["student_prob"].tolist() == rows["student_prob"].tolist()
    assert story_text(story, 1).splitlines()[3].split()[:3] == ["tall", "lamp", "0.100"]
    assert "2 more classes" in story_text(story, 1)
    with pytest.raises(CcdError, match="no image of this data set"):
        image_story(folder, "nowhere")


def test_every_table_fits_100_columns_and_numbers_have_three_digits(tmp_path: Path) -> None:
    """Names and paths far too long, in a wide script, and more views than fit on a line."""
    names = ("杯子" * 60, "lamp " * 40, "cup")
    folder = write_run(tmp_path, classes=names)
    story = image_story(folder, "train/a")
    long = replace(story, image_id="folder/" * 30 + "a", path="folder/" * 30 + "a.jpg")
    many = replace(long, views=tuple(replace(story.views[0], box_id=1000 + number) for number in range(30)))
    found = worst(folder, names[0], 2)
    doubts = doubtful(folder, 2)
    ids = [replace(each, image_id="folder/" * 30 + each.image_id) for each in doubts.train]
    texts = [
        story_text(many),
        story_text(image_story(folder, "test/f")),
        examples_text(found),
        doubts_text(replace(doubts, train=ids)),
        overlaps_text(box_overlap(folder, 5, min_images=1)),
    ]
    for said in texts:
        lines = said.splitlines()
        assert max(map(display_width, lines)) <= 100
        assert not re.search(r"\d\.\d{4}", said) and "…" in said
    assert all(f"box {1000 + number}" in texts[0] for number in range(30))


def test_inspect_says_that_images_without_any_class_were_not_looked_for(folder: Path, tmp_path: Path) -> None:
    story = image_story(folder, "train/a")
    assert "not looked for (global_labels.none_rule: off)" in story_text(story)
    assert story_data(story)["none_images_looked_for"] is False
    path = write_run(tmp_path) / "pseudo_labels.parquet"
    table = class_table.read(path, PSEUDO_LABELS)
    class_table.write(path, PSEUDO_LABELS, replace(table, metadata={"alpha": "0.4", "none_images": "0"}))
    story = image_story(tmp_path, "train/a")
    assert "not looked for" not in story_text(story) and story_data(story)["none_images_looked_for"] is True
    assert "not looked for" not in story_text(image_story(folder, "test/f")), "of a test image nothing is trained on"


def test_inspect_tells_each_classs_own_middle_of_sharpening(folder: Path, tmp_path: Path) -> None:
    story = image_story(folder, "train/a")
    assert story.middles is None and "sharpen_at" not in story_data(story)["classes"]["cup"]
    path = write_run(tmp_path) / "pseudo_labels.parquet"
    table = class_table.read(path, PSEUDO_LABELS)
    told = class_table.middles_metadata(CLASSES, np.array([0.25, 0.5, 0.125]))
    class_table.write(path, PSEUDO_LABELS, replace(table, metadata={"alpha": "0.4", **told}))
    story = image_story(tmp_path, "train/a")
    assert [story_data(story)["classes"][name]["sharpen_at"] for name in CLASSES] == [0.25, 0.5, 0.125]
    rows = [line.split() for line in story_text(story).splitlines() if line]
    assert ["label", "truth", "t"] in [row[-3:] for row in rows]
    assert [(row[0], row[-1]) for row in rows if (row[0], row[-1]) == (CLASSES[2], "0.125")] == [(CLASSES[2], "0.125")]


def test_inspect_names_the_probabilities_of_training_images_by_what_shares_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert "CLIP p   CLIP zero-shot probability of the whole image" in story_text(image_story(tmp_path, "train/a"))
    words = text_file.read(tmp_path / "text.h5")
    one = {"background_texts": ("a wall",), "background": words.values[:1], "background_in_softmax": True}
    text_file.write(tmp_path / "text.h5", replace(words, **one))
    told = story_text(image_story(tmp_path, "train/a"))
    assert "CLIP p   CLIP probability with background words of the whole image" in told
    assert "CLIP p     CLIP zero-shot probability" in story_text(image_story(tmp_path, "test/f")), (
        "always the plain one"
    )


def test_worst_doubtful_and_overlap(folder: Path) -> None:
    table = class_table.read(folder / "pseudo_labels.parquet", PSEUDO_LABELS).columns
    errors = np.abs(table["label"][:, 0] - [1, 1, 0, 1])
    found = worst(folder, "cup", 2)
    assert [example.image_id for example in found] == [TRAIN[row] for row in np.argsort(-errors)[:2]]
    assert found[0].label == table["label"][np.argmax(errors), 0]
    gap = np.abs(table["global_label"] - table["local_label"].clip(0, 1)).max(axis=1)
    doubts = doubtful(folder, 1)
    assert gap[TRAIN.index(doubts.train[0].image_id)] == pytest.approx(gap.max(), abs=1e-3)
    # tall lamp on test/f: CLIP 0.1 / 0.5 against the student's 0.9
    assert [(doubt.image_id, doubt.class_name) for doubt in doubts.test] == [("test/f", "tall lamp")]
    assert doubts.test[0].debiased == pytest.approx(0.2) and doubts.test[0].student == pytest.approx(0.9)
    assert "test/f" in doubts_text(doubts) and doubts.train[0].image_id in doubts_text(doubts)
    assert "train/" in examples_text(found) and examples_text([]) == "no image to show"
    pairs = box_overlap(folder, 5, min_images=1)
    assert {(pairs[0].first, pairs[0].second)} == {("cup", "tall lamp")} and "train/a" in overlaps_text(pairs)
    with pytest.raises(CcdError, match="no class of this data set"):
        worst(folder, "sheep", 1)


def test_artifacts_are_listed_with_rows_schema_hash_and_stage(folder: Path, tmp_path: Path) -> None:
    path = folder / "boxes.parquet"
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  cam_boxes:\n    params: {params.yaml: {cam_boxes.offset: 0.125}}\n"
        f"    outs:\n    - {{path: {path}, md5: {md5}}}\n"
        f"  bias:\n    outs:\n    - {{path: {folder / 'bias.json'}, md5: of-other-bytes}}\n"
    )
    log = tmp_path / "tmp/timings.jsonl"
    record_timing("cam_boxes", 12.34, [path], log)
    record_timing("bias", 5.0, [folder / "bias.json"], log)
    with log.open("a") as file:
        file.write('{"stage": "cam_boxes", "seco')  # cut off
    found = {entry.path.name: entry for entry in artifact_list(folder, tmp_path / "dvc.lock", log)}
    entry = found["boxes.parquet"]
    assert (entry.rows, entry.schema, entry.md5, entry.made_by) == (5, "ccd.boxes/1", md5, "cam_boxes")
    assert entry.parameters == {"cam_boxes.offset": 0.125} and entry.size_bytes == path.stat().st_size
    assert entry.timing is not None and entry.timing.seconds == 12.3 and "numpy" in entry.timing.versions
    assert found["bias.json"].timing is None, "the lock does not know these bytes"
    said = artifacts_text(list(found.values()))
    assert re.search(rf"boxes.parquet +5 +0.00 +ccd.boxes/1 +{md5[:8]} +cam_boxes +12.3\n", said)
    assert "cam_boxes      offset=0.125" in said
    assert {row["path"] for row in json.loads(as_json(list(found.values())))} == {str(folder / name) for name in found}
    assert found["bias.json"].made_by == "" and found["bias.json"].rows == 3
    assert found["clip_local.h5"].rows == 5 and found["train_curves.csv"].rows == 2
    (folder / "text.h5").write_bytes(b"cut off")
    (folder / "copies.parquet").mkdir()
    (folder / "notes.txt").write_text("no artifact")
    assert not {"copies.parquet", "notes.txt"} & {entry.path.name for entry in artifact_list(folder)}
    found = {entry.path.name: entry for entry in artifact_list(folder, tmp_path / "none.lock")}
    assert found["text.h5"].schema == "damaged" and found["boxes.parquet"].made_by == ""
    with pytest.raises(CcdError, match="no such folder"):
        artifact_list(tmp_path / "none")


def test_a_time_that_cannot_be_kept_is_said_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "tmp/timings.jsonl"
    log.mkdir(parents=True)
    record_timing("bias", 5.0, [], log)
    assert "timings.jsonl: the time of bias is not kept (Is a directory)" in capsys.readouterr().err
    record_timing("bias", 5.0, [], tmp_path / "no project/tmp/timings.jsonl")
    assert capsys.readouterr().err == "" and not (tmp_path / "no project").exists()
