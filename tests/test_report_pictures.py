"""The report's pictures: what a card shows is what the artifacts hold; however many images, the page stays small."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ccd.artifacts import features_file
from ccd.labels.scores import clip_probs
from ccd.report.cards import pair_boxes, pair_card, train_card, views_shown
from ccd.report.doubt import Choice, Pair, coinciding_pairs
from ccd.report.overview import write_overview
from ccd.report.page import PHOTO_BUDGET_BYTES, render
from ccd.report.photos import Photos, frames
from ccd.report.run_data import Run, RunFiles, read_run
from tests.finished_run import CLASSES, EVIL, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(RunFiles.in_folder(folder))


def test_card_of_an_image_with_three_boxes(run: Run, folder: Path) -> None:
    """train/a: view 0 is the best of cup and of the third class, view 1 of the lamp; only cup has a label."""
    choice = Choice(0, 0, "best")
    assert views_shown(run, choice) == [(0, "cup")]
    assert views_shown(run, Choice(0, 1, "")) == [(1, "tall lamp"), (0, "cup")]
    card = train_card(run, Photos(folder, 1_000_000), choice, run.view_probs([0]))
    looks = features_file.read(folder / "clip_local.h5", features_file.LOCAL_SCHEMA).values
    probs = clip_probs(looks, run.text.values, run.text.logit_scale)[0]
    lamp = f"tall lamp {probs[1] / 0.5:.2f}"  # not won by this view: p / b
    assert card.views[0].says == f"{lamp}, cup 1.40"  # won: the local label itself
    assert (card.bars[0].name, card.bars[0].values) == ("cup", pytest.approx((1.0, 1.4, 1.0)))
    assert all(part in card.story for part in ("cup", "0.60", "0.70"))  # the whole image, its best view
    assert "train/a" in card.alt and card.alt.endswith("cup")
    frame = card.frames[0]  # corners 0, 0, 200, 150 of 400 x 300
    assert (frame.left, frame.top, frame.width, frame.height) == (0, 0, 50, 50)


def test_card_of_an_image_without_views(run: Run, folder: Path) -> None:
    card = train_card(run, Photos(folder, 1_000_000), Choice(3, 0, ""), {})
    assert card.views == card.frames == () and card.story.endswith("there is no local view.")
    assert run.view_probs([]) == {}


@pytest.mark.parametrize("labelled", [True, False])
def test_page_and_overview_of_a_run_without_test_images_and_views(labelled: bool, tmp_path: Path) -> None:
    run = read_run(RunFiles.in_folder(write_run(tmp_path, labelled=labelled)))
    none = features_file.Features(np.arange(0), np.zeros((0, 3), np.float32), {"teacher": "toy clip"})
    features_file.write(tmp_path / "clip_local.h5", features_file.LOCAL_SCHEMA, none)
    index = {name: getattr(run.test, name)[:0] for name in ("ids", "paths", "is_train", "sizes_px", "file_bytes")}
    bare = replace(
        run,
        test=replace(run.test, **index, digests=[]),
        predictions={name: values[:0] for name, values in run.predictions.items()},
        test_truth=run.test_truth[:0],
        boxes=replace(run.boxes, image_ids=[], classes=[], boxes_px=run.boxes.boxes_px[:0]),
        box_rows=run.box_rows[:0],
        box_classes=run.box_classes[:0],
        pseudo_labels=run.pseudo_labels
        | dict.fromkeys(("local_label", "label"), run.pseudo_labels["global_label"])
        | {
            "box_id": np.full_like(run.pseudo_labels["box_id"], -1),
            "local_prob": np.full_like(run.pseudo_labels["local_prob"], np.nan),
        },
    )
    page = render(bare, "toy", tmp_path, {}, {})
    assert "None stands out: no two views disagree." in page and "No two views disagree." in page
    assert "Test images: CLIP against the student" not in page and "light up at the same place" not in page
    write_overview(bare, "toy", tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 5000


def test_names_of_coinciding_boxes_do_not_cover_each_other(run: Run) -> None:
    """Boxes 0 and 1 of train/a nearly coincide at the upper left."""
    drawn = frames(run, 0, [(0, "cup"), (1, "lamp")])
    assert [(frame.name, frame.tone) for frame in drawn] == [("lamp", 1), ("cup", 0)]
    assert [frame.corner for frame in drawn] == ["bottom left", "top left"]


def test_a_long_name_grows_into_the_photo(run: Run) -> None:
    """Box 2 ends at the right edge: 360 of 400 pixels wide it has room; a narrow one there has not."""
    boxes = replace(run.boxes, boxes_px=np.array([[380, 100, 400, 200]], np.float32))
    assert frames(replace(run, boxes=boxes), 0, [(0, "a long name")])[0].corner == "top right"


def test_pairs_side_by_side_and_no_example_twice(run: Run, folder: Path) -> None:
    pair = Pair(0, 1, np.array([0]), 0.9, 0)
    assert pair_boxes(run, pair) == (0, 1)
    card = pair_card(run, Photos(folder, 1_000_000), pair, run.view_probs([0, 1]))
    assert [side.title for side in card.sides] == ["cup", "tall lamp"]
    assert [side.frames[0].left for side in card.sides] == [0, 2.5]
    assert card.facts.endswith("mean overlap (IoU) 0.90. Really there: both on 0, one on 1, neither on 0.")
    # Three classes on the same two images, boxes all alike: each pair takes another image while there is one.
    rows = np.repeat([0, 1], 3)
    names = np.tile([0, 1, 2], 2)
    found = coinciding_pairs(rows, names, np.tile(np.float32([[0, 0, 4, 4]]), (6, 1)), 5, min_images=2)
    assert [each.example for each in found] == [0, 1, 0]


def test_overview_is_repeatable_whatever_the_users_matplotlib_says(run: Run, tmp_path: Path) -> None:
    digests = set()
    for size in (4.0, 20.0):
        with matplotlib.rc_context({"font.size": size, "savefig.transparent": size > 5}):
            write_overview(run, "toy", tmp_path / "overview.png")
        digests.add(hashlib.md5((tmp_path / "overview.png").read_bytes()).hexdigest())
    assert len(digests) == 1
    with Image.open(tmp_path / "overview.png") as image:
        assert image.format == "PNG" and image.width == 1210 and "Software" not in image.info


@pytest.mark.parametrize("labelled", [True, False])
def test_overview_takes_odd_names_and_any_number_of_classes(labelled: bool, tmp_path: Path) -> None:
    names = ("cup", "$x^$ \\frac", EVIL, "Straße 茶", "x" * 300, *(f"class {number}" for number in range(200)))
    run = read_run(RunFiles.in_folder(write_run(tmp_path, labelled=labelled, classes=names)))
    write_overview(run, "a $ name", tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.height < 1600


def enlarged(run: Run, folder: Path, images: int) -> Run:
    """The same photos as ``images`` training images, with random labels; a view of each for a random class."""
    rng = np.random.default_rng(0)
    source = np.arange(images) % len(run.train)
    shape = (images, len(run.classes))
    index = replace(
        run.train,
        ids=[f"image {number}" for number in range(images)],
        paths=[run.train.paths[row] for row in source],
        is_train=np.ones(images, bool),
        sizes_px=run.train.sizes_px[source],
        file_bytes=run.train.file_bytes[source],
        digests=[""] * images,
    )
    looks = rng.normal(size=(images, 3)).astype(np.float32)
    values = features_file.Features(np.arange(images), looks, {"teacher": "toy clip"})
    features_file.write(folder / "clip_local.h5", features_file.LOCAL_SCHEMA, values)
    made = {name: rng.random(shape, np.float32) for name in run.pseudo_labels}
    made["box_id"] = np.repeat(np.arange(images)[:, None], shape[1], axis=1)
    return replace(
        run,
        train=index,
        boxes=replace(run.boxes, boxes_px=np.tile(np.float32([[0, 0, 250, 250]]), (images, 1))),
        box_rows=np.arange(images),
        box_classes=rng.integers(0, shape[1], images),
        pseudo_labels=made,
        train_truth=rng.integers(0, 2, shape).astype(np.int8),
    )


@pytest.mark.slow
def test_thousands_of_images_of_a_thousand_classes_stay_below_15_mb(tmp_path: Path) -> None:
    names = (*CLASSES, *(f"a class of number {number}" for number in range(997)))
    folder = write_run(tmp_path, classes=names)
    small = read_run(RunFiles.in_folder(folder))
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    for path in small.train.paths:  # noise: the largest JPEG there can be
        Image.fromarray(noise).save(folder / path, quality=80)
    bytes_ = np.array([(folder / path).stat().st_size for path in small.train.paths])
    sizes = np.full_like(small.train.sizes_px, 300)
    run = enlarged(replace(small, train=replace(small.train, file_bytes=bytes_, sizes_px=sizes)), folder, 4000)
    many = {"text": {"class_texts": {name: [name] for name in names}}}
    text = render(run, "toy", folder, many, {})
    assert PHOTO_BUDGET_BYTES < len(text.encode()) < 15_000_000
    assert "photo left out to keep this file small" in text and "characters)" in text
