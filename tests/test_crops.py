"""Shapes of local views, and views cut from images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import ccd.images.batches
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles
from ccd.images.decode import read_image, squash
from ccd.views.crops import (
    CropPlan,
    crop_batches,
    crop_resized,
    plan_crops,
    side_lengths,
    squashed_boxes,
    target_sizes,
)

SIDES = st.floats(0.1, 5000)


def test_target_sizes_by_hand() -> None:
    boxes_px = np.array(
        [[0, 0, 100, 100], [10, 20, 210, 120], [0, 0, 30, 300], [0, 0, 1000, 1], [0, 0, 100, 70]], np.float32
    )
    # 70 of 100 at 640 px is 448 px, 14 strides
    expected = [[640, 640], [320, 640], [640, 64], [32, 640], [448, 640]]
    assert target_sizes(boxes_px, 640, 32).tolist() == expected
    assert target_sizes(np.zeros((0, 4)), 640, 32).shape == (0, 2)


def test_halves_of_a_stride_go_up() -> None:
    boxes_px = np.array([[0, 0, 20, 5], [0, 0, 20, 15]], np.float32)
    assert target_sizes(boxes_px, 20 * 2, 20).tolist() == [[20, 40], [40, 40]]


@given(SIDES, SIDES, st.integers(1, 40), st.sampled_from([14, 16, 32]))
def test_target_sizes_fit_the_teacher(width_px: float, height_px: float, strides: int, stride_px: int) -> None:
    longer_px = strides * stride_px + stride_px // 2
    height, width = target_sizes(np.array([[0, 0, width_px, height_px]]), longer_px, stride_px)[0]
    assert height % stride_px == 0 and width % stride_px == 0
    assert max(height, width) == strides * stride_px
    assert min(height, width) >= stride_px
    assert (width >= height) == (width_px >= height_px) or width == height


@pytest.mark.parametrize(
    ("longer_px", "stride_px", "count", "strides"),
    [
        (640, 32, 6, [1, 5, 9, 12, 16, 20]),  # 1 + 19 j / 5: 1, 4.8, 8.6, 12.4, 16.2, 20
        (448, 32, 6, [1, 4, 6, 9, 11, 14]),
        (224, 32, 6, [1, 2, 3, 5, 6, 7]),
        (84, 14, 5, [1, 2, 4, 5, 6]),  # 1, 2.25, 3.5, 4.75, 6
        (200, 32, 6, [1, 2, 3, 4, 5, 6]),
        (96, 32, 6, [1, 2, 3]),
        (640, 32, 2, [1, 20]),
        (640, 32, 1, [20]),
        (40, 32, 6, [1]),
        (40, 32, 1, [1]),
        (160, 32, None, [1, 2, 3, 4, 5]),
    ],
)
def test_side_lengths_by_hand(longer_px: int, stride_px: int, count: int | None, strides: list[int]) -> None:
    assert side_lengths(longer_px, stride_px, count).tolist() == [stride_px * each for each in strides]


def test_few_lengths_by_hand() -> None:
    # 6.98 and 7 of 20 strides lie about the middle of 5 and 9, 2.98 and 3 about that of 1 and 5
    boxes_px = np.array([[0, 0, 1000, 349], [0, 0, 350, 1000], [0, 0, 149, 1000], [0, 0, 1000, 150]])
    assert target_sizes(boxes_px, 640, 32, 6).tolist() == [[160, 640], [640, 288], [640, 32], [160, 640]]
    assert target_sizes(boxes_px, 640, 32, 1).tolist() == [[640, 640]] * 4


@given(SIDES, SIDES, st.integers(1, 40), st.integers(1, 40), st.sampled_from([14, 16, 32]))
def test_few_lengths_are_the_nearest(
    width_px: float, height_px: float, strides: int, count: int, stride_px: int
) -> None:
    """With as many lengths as strides it is the rule without a limit."""
    longer_px = strides * stride_px
    lengths = side_lengths(longer_px, stride_px, count)
    assert len(lengths) == min(count, strides) and lengths[-1] == longer_px
    assert (np.diff(lengths) >= stride_px).all() and not (lengths % stride_px).any()
    box_px = np.array([[0, 0, width_px, height_px]])
    shape = target_sizes(box_px, longer_px, stride_px, count)[0]
    assert shape.max() == longer_px
    exact_px = np.array([height_px, width_px]) * (longer_px / max(height_px, width_px))
    nearest_px = np.abs(exact_px[:, None] - lengths).min(axis=1)
    np.testing.assert_allclose(np.abs(exact_px - shape), nearest_px, atol=1e-6)
    if count >= strides:
        rounded = np.clip(np.floor(exact_px / stride_px + 0.5), 1, strides) * stride_px
        assert shape.tolist() == target_sizes(box_px, longer_px, stride_px)[0].tolist() == rounded.tolist()


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 0, 1, 9], [0, 0, np.nan, 9]])
def test_a_box_without_area_is_an_error(box: list[float]) -> None:
    with pytest.raises(CcdError, match="box 1"):
        target_sizes(np.array([[0, 0, 1, 1], box]), 64, 32)


def test_a_view_under_a_stride_is_an_error() -> None:
    with pytest.raises(CcdError, match="stride"):
        target_sizes(np.array([[0, 0, 1, 1]]), 16, 32)


def test_squashed_boxes_by_hand() -> None:
    boxes_px = np.array([[10, 20, 30, 40], [0, 0, 50, 50]], np.float32)
    sizes_px = np.array([[50, 100], [100, 50]])
    assert squashed_boxes(boxes_px, sizes_px, 200).tolist() == [[20, 80, 60, 160], [0, 0, 200, 100]]


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    """Three images of noise."""
    noise = np.random.default_rng(0)
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for place, path in enumerate(paths):
        Image.fromarray(noise.integers(0, 256, (40 + 10 * place, 60, 3), np.uint8)).save(path)
    return ImageFiles(paths)


# rows 0, 2, 5 share a shape, and image 1 has no box
ROWS = np.array([2, 0, 2, 0, 2, 0])
BOXES_PX = np.array(
    [[0, 0, 20, 20], [5.5, 1, 45.5, 21], [1, 2, 50, 51], [0, 0, 60, 40], [3, 0, 13, 40], [30, 10, 50, 30]], np.float32
)
SIZES = np.array([[32, 32], [16, 32], [32, 32], [16, 32], [32, 16], [32, 32]])
PLAN = CropPlan(np.arange(6), ROWS, BOXES_PX, SIZES)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_box_once_in_batches_of_one_shape(files: ImageFiles, workers: int) -> None:
    batches = list(crop_batches(files, PLAN, 2, workers))
    # full buckets as they fill, image by image; then what is left
    assert [rows.tolist() for rows, _ in batches] == [[1, 3], [5, 0], [2], [4]]
    for rows, pixels in batches:
        for row, view in zip(rows.tolist(), pixels.numpy(), strict=True):
            image = read_image(files.paths[ROWS[row]])
            height, width = SIZES[row].tolist()
            np.testing.assert_array_equal(view, crop_resized(image, tuple(BOXES_PX[row].tolist()), height, width))


def test_resized_views_come_from_the_squashed_image(files: ImageFiles) -> None:
    batches = list(crop_batches(files, replace(PLAN, squashed_px=80), 9, 0))
    views = {row: view for rows, pixels in batches for row, view in zip(rows.tolist(), pixels.numpy(), strict=True)}
    squashed = Image.fromarray(squash(read_image(files.paths[0]), 80, 80).transpose(1, 2, 0))
    scaled_px = (5.5 * 80 / 60, 1 * 80 / 40, 45.5 * 80 / 60, 21 * 80 / 40)
    np.testing.assert_array_equal(views[1], crop_resized(squashed, scaled_px, 16, 32))


@pytest.mark.parametrize("squashed_px", [None, 64])
def test_an_image_is_decoded_once(files: ImageFiles, squashed_px: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = ccd.images.batches.read_checked
    monkeypatch.setattr(
        ccd.images.batches, "read_checked", lambda path, *rest: decoded.append(path) or original(path, *rest)
    )
    list(crop_batches(files, replace(PLAN, squashed_px=squashed_px), 2, 0))
    assert decoded == [files.paths[0], files.paths[2]]


def test_no_boxes_and_a_box_outside(files: ImageFiles) -> None:
    nothing = crop_batches(files, PLAN.take(np.arange(0)), 2, 0)
    assert list(nothing) == []
    outside = np.array([[70, 0, 90, 20]], np.float32)
    with pytest.raises(CcdError, match=r"1\.png"):
        list(crop_batches(files, CropPlan(np.arange(1), np.array([1]), outside, SIZES[:1]), 2, 0))


def test_a_plan_names_its_views_and_takes_some_of_them(files: ImageFiles) -> None:
    sizes_px = np.array([[40, 60]] * len(files))
    plan = plan_crops(ROWS, BOXES_PX, sizes_px, longer_px=32, stride_px=16, source="resized", resized_px=80)
    np.testing.assert_array_equal(plan.shapes_px, target_sizes(squashed_boxes(BOXES_PX, sizes_px[ROWS], 80), 32, 16))
    few = plan_crops(
        ROWS, BOXES_PX, sizes_px, longer_px=32, stride_px=16, source="original", resized_px=80, shorter_sides=1
    )
    assert few.shapes_px.tolist() == [[32, 32]] * 6
    some = plan.take(np.array([4, 1]))
    ids = [view for rows, _ in crop_batches(files, some, 9, 0) for view in rows.tolist()]
    assert sorted(ids) == [1, 4] and plan.squashed_px == some.squashed_px == 80
