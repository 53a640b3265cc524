"""The overlay of ``ccd inspect``: boxes where they are, labels that cover no other and stay in the picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFont

from ccd.images import drawing
from ccd.images.drawing import Label, place_labels
from ccd.report.cards import train_card
from ccd.report.doubt import Choice
from ccd.report.inspect import ImageStory, View, image_story
from ccd.report.inspect_text import story_data, story_text
from ccd.report.overlay import OTHER, WON, overlay, write_overlay
from ccd.report.photos import Photos
from ccd.report.run_data import RunFiles, read_run
from tests.toys.finished_run import TRAIN, write_run

FONT = ImageFont.load_default(size=12)
LONG = "a class whose name is much longer than any picture is wide " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def crowded(story: ImageStory, corners: list[tuple[float, float, float, float]], names: tuple[str, ...]) -> ImageStory:
    """The story with a view at each of the ``corners``, asked for by the classes ``names`` in turn."""
    count = len(names)
    probs = np.full(count, 0.5, np.float32)
    views = [
        View(number, names[number % count], 0.5, box, probs, probs.astype(float)) for number, box in enumerate(corners)
    ]
    columns = {"box_id": np.zeros(count, int), "label": np.ones(count)}
    return replace(story, classes=names, views=tuple(views), columns=columns)


def drawn(story: ImageStory, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Image.Image, list[Label]]:
    """The overlay, and the labels that were really drawn on it."""
    labels: list[Label] = []
    draw = drawing.draw_label

    def spy(canvas: object, label: Label, colour: object, font: object) -> None:
        labels.append(label)
        draw(canvas, label, colour, font)  # type: ignore[arg-type]

    monkeypatch.setattr(drawing, "draw_label", spy)
    return overlay(story, root), labels


def check(labels: list[Label], size: tuple[int, int]) -> None:
    for label in labels:
        x0, y0, x1, y1 = label.area
        assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1], label
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in combinations([label.area for label in labels], 2):
        assert ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0


def test_boxes_are_drawn_on_the_image_in_its_own_size(folder: Path, tmp_path: Path) -> None:
    story = image_story(folder, "train/a")
    image = overlay(story, folder)
    assert image.size == (400, 300)
    assert image.getpixel((199, 120)) in (WON, OTHER)  # right edge of box 0
    write_overlay(story, folder, tmp_path / "story.png")
    assert (tmp_path / "story.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("names", [("cup", "lamp"), (LONG, LONG + "2"), ("茶碗" * 40,)])
@pytest.mark.parametrize(
    "corners",
    [
        [(10.0, 10.0, 200.0, 150.0)] * 6,
        [(0.0, 0.0, 400.0, 300.0)] * 3 + [(380.0, 280.0, 400.0, 300.0)] * 4,
        [(x, y, x + 60.0, y + 60.0) for x in range(0, 340, 48) for y in range(0, 240, 48)],
        [(399.0, 299.0, 400.0, 300.0), (0.0, 0.0, 1.0, 1.0)],
    ],
    ids=["one spot", "corner", "many", "specks"],
)
def test_drawn_labels_are_disjoint_and_inside(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    corners: list[tuple[float, float, float, float]],
    names: tuple[str, ...],
) -> None:
    story = crowded(image_story(folder, "train/a"), corners, names)
    image, labels = drawn(story, folder, monkeypatch)
    check(labels, image.size)
    assert [label.text.split()[0] for label in labels] == [str(number) for number in range(len(corners))]


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 24), (400, 3), (3, 400)])
def test_tiny_images_are_enlarged_and_labels_stay_disjoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    Image.new("RGB", size, (90, 120, 60)).save(tmp_path / "tiny.png")
    width = float(size[0])
    height = float(size[1])
    corners = [(0.0, 0.0, width, height), (0.0, 0.0, width / 2, height / 2), (width / 2, height / 2, width, height)]
    story = replace(image_story(folder, "train/a"), path="tiny.png", file_bytes=(tmp_path / "tiny.png").stat().st_size)
    image, labels = drawn(crowded(story, corners, ("cup", LONG)), tmp_path, monkeypatch)
    assert max(image.size) >= 320 and image.width % size[0] == image.height % size[1] == 0
    check(labels, image.size)
    assert min(size) < 8 or len(labels) == 3


areas = st.tuples(*[st.integers(-5, 700)] * 4).map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c), max(c)))


@settings(deadline=None, max_examples=60)
@given(st.lists(areas, max_size=30), st.tuples(st.integers(1, 640), st.integers(1, 640)))
def test_any_boxes_give_labels_that_are_disjoint_and_inside(
    boxes: list[tuple[int, int, int, int]], size: tuple[int, int]
) -> None:
    texts = [[f"{number} {LONG}", f"{number} cup 0.500", str(number)] for number in range(len(boxes))]
    found = place_labels(texts, boxes, size, FONT)
    assert len(found) == len(boxes)
    check([label for label in found if label is not None], size)


def test_a_view_has_one_number_in_the_overlay_the_tables_the_json_and_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """View 0 of train/a won cup, whose local label is 1.4; CLIP's own probability of it is 0.7."""
    story = image_story(folder, "train/a")
    _, labels = drawn(story, folder, monkeypatch)
    assert "0 cup 1.400" in [label.text for label in labels]
    table = story_text(story)
    cup = [line.split() for line in table.splitlines() if line.startswith("cup ")]
    assert [cup[0][4], cup[0][5]] == ["0.700", "1.400"] and cup[1][1] == "1.400"
    said = story_data(story)
    assert said["views"][0]["local_labels"]["cup"] == said["classes"]["cup"]["local_label"]
    run = read_run(RunFiles.in_folder(folder))
    card = train_card(run, Photos(folder, 10_000), Choice(TRAIN.index("train/a"), 0, ""), run.view_probs([0]))
    assert "cup 1.40" in card.views[0].says and card.bars[0].values[1] == pytest.approx(1.4)
