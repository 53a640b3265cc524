from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ccd.views.boxes as boxes_module
from ccd.errors import CcdError
from ccd.views.boxes import Boxes, Spans, cam_boxes, label_components, runs_of_pixels, start_boxes, view_threshold

# Tests of geometry use maps as large as the input, which upsampling leaves as they are.


def single(cam: Tensor, size_px: tuple[int, int] | None = None, **settings: object) -> Boxes:
    """Boxes of one square map of one class; without offset unless told."""
    side = cam.shape[-1]
    sizes = torch.tensor([size_px or (side, side)])
    asked = torch.ones(1, 1, dtype=torch.bool)
    return cam_boxes(cam.view(1, 1, side, side), asked, sizes, side, **{"offset": 0.0, **settings})  # type: ignore[arg-type]


def spots(side: int, *pixels: tuple[int, int, float]) -> Tensor:
    cam = torch.zeros(side, side)
    for row, column, value in pixels:
        cam[row, column] = value
    return cam


def test_tight_box_spans_all_pixels_above_the_threshold() -> None:
    """Not the first and last in row-major order, which here would be columns 5 and 2."""
    cam = spots(8, (1, 5, 10.0), (3, 1, 9.9), (4, 2, 9.6), (6, 6, 9.4))
    found = single(cam)
    assert found.boxes_px.tolist() == [[1, 1, 6, 5]]
    assert found.peaks.tolist() == [10]
    assert found.boxes_px.dtype == np.float32


def test_a_single_pixel_covers_its_square_and_a_whole_map_the_image() -> None:
    assert single(spots(8, (2, 3, 1.0))).boxes_px.tolist() == [[3, 2, 4, 3]]
    nearly = torch.ones(8, 8)
    nearly[4, 4] = 0.0
    assert single(nearly, (480, 640)).boxes_px.tolist() == [[0, 0, 640, 480]]


def test_scaled_to_the_original_image_with_unequal_sides() -> None:
    found = single(spots(8, (2, 3, 1.0)), size_px=(40, 160))
    assert found.boxes_px.tolist() == [[60, 10, 80, 15]]


def test_offset_is_a_share_of_the_images_side_and_is_clipped() -> None:
    found = single(spots(8, (0, 4, 1.0)), size_px=(80, 160), offset=0.125)
    assert found.boxes_px.tolist() == [[60, 0, 120, 20]]


def test_short_sides_are_widened_about_the_centre_and_moved_inside() -> None:
    assert single(spots(8, (4, 4, 1.0)), (80, 80), min_side_px=16.0).boxes_px.tolist() == [[37, 37, 53, 53]]
    assert single(spots(8, (0, 7, 1.0)), (80, 80), min_side_px=16.0).boxes_px.tolist() == [[64, 0, 80, 16]]
    assert single(spots(8, (4, 4, 1.0)), (80, 12), min_side_px=16.0).boxes_px.tolist() == [[0, 37, 12, 53]]
    assert single(spots(8, (4, 4, 1.0)), (80, 80), min_side_px=10.0).boxes_px.tolist() == [[40, 40, 50, 50]]


def test_flat_map_gives_no_box_whatever_its_value_and_size() -> None:
    for value in (0.0, 0.1, -3.7, 1e-30):
        cams = torch.full((1, 1, 7, 7), value)
        found = cam_boxes(cams, torch.ones(1, 1, dtype=torch.bool), torch.tensor([[100, 100]]), 224)
        assert len(found.rows) == 0
        assert found.boxes_px.shape == (0, 4)
    assert len(single(torch.ones(1, 1)).rows) == 0


def test_negative_maps_have_boxes_too() -> None:
    assert single(spots(8, (2, 3, 1.0)) - 5).peaks.tolist() == [-4]


def test_asked_maps_only_ordered_by_row_then_class() -> None:
    cams = torch.zeros(3, 4, 8, 8)
    for row in range(3):
        for c in range(4):
            cams[row, c, row, c] = 1 + row + 10 * c
    asked = torch.zeros(3, 4, dtype=torch.bool)
    asked[[0, 2, 2], [3, 0, 2]] = True
    sizes = torch.tensor([[8, 8], [8, 8], [16, 8]])
    found = cam_boxes(cams, asked, sizes, 8, offset=0.0)
    assert list(zip(found.rows.tolist(), found.classes.tolist(), strict=True)) == [(0, 3), (2, 0), (2, 2)]
    assert found.peaks.tolist() == [31, 3, 23]
    assert found.boxes_px.tolist() == [[3, 0, 4, 1], [0, 4, 1, 6], [2, 4, 3, 6]]


@pytest.mark.parametrize("components", [False, True])
def test_no_class_asked_and_an_empty_batch_give_no_boxes(components: bool) -> None:
    for images in (0, 2):
        cams = torch.rand(images, 3, 7, 7)
        asked = torch.zeros(images, 3, dtype=torch.bool)
        sizes = torch.full((images, 2), 50)
        found = cam_boxes(cams, asked, sizes, 64, connected_components=components)
        assert len(found.rows) == len(found.classes) == len(found.peaks) == len(found.boxes_px) == 0


def test_an_asked_map_that_is_not_finite_names_the_image() -> None:
    cams = torch.rand(3, 2, 4, 4)
    cams[1, 0, 2, 2] = float("nan")
    cams[2, 1, 0, 0] = float("inf")
    asked = torch.tensor([[True, True], [True, False], [False, True]])
    sizes = torch.full((3, 2), 50)
    with pytest.raises(CcdError, match="for: b, c;"):
        cam_boxes(cams, asked, sizes, 16, names=["a", "b", "c"])
    with pytest.raises(CcdError, match="for: row 1 of the batch, row 2"):
        cam_boxes(cams, asked, sizes, 16)
    assert len(cam_boxes(cams, ~asked, sizes, 16).rows) == 2  # maps that nobody asked for do not matter


def test_components_are_ranked_by_peak_and_limited() -> None:
    cam = spots(12, (1, 1, 9.7), (1, 2, 9.7), (5, 5, 10.0), (6, 6, 9.6), (10, 2, 9.8), (10, 10, 9.0))
    every = single(cam, connected_components=True, boxes_per_class=10)
    assert every.peaks.tolist() == pytest.approx([10.0, 9.8, 9.7])
    assert every.boxes_px.tolist() == [[5, 5, 7, 7], [2, 10, 3, 11], [1, 1, 3, 2]]  # corners touch: one component
    two = single(cam, connected_components=True, boxes_per_class=2)
    assert two.boxes_px.tolist() == every.boxes_px.tolist()[:2]


def test_equal_peaks_are_taken_from_the_top_left() -> None:
    cam = spots(9, (6, 1, 1.0), (2, 7, 1.0), (2, 3, 1.0))
    found = single(cam, connected_components=True, boxes_per_class=3)
    assert found.boxes_px[:, :2].tolist() == [[3, 2], [7, 2], [1, 6]]


def test_one_box_around_everything_ignores_the_limit_of_components() -> None:
    found = single(spots(9, (6, 1, 1.0), (2, 7, 1.0)), boxes_per_class=5)
    assert found.boxes_px.tolist() == [[1, 2, 8, 7]]


def test_upsampling_is_bilinear_with_half_pixel_centres() -> None:
    """2 -> 4 cells: a column profile [0, 1] becomes [0, .25, .75, 1]."""
    cams = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    asked = torch.ones(1, 1, dtype=torch.bool)
    sizes = torch.tensor([[4, 4]])
    high = cam_boxes(cams, asked, sizes, 4, cam_threshold=0.8, offset=0.0)
    low = cam_boxes(cams, asked, sizes, 4, cam_threshold=0.5, offset=0.0)
    assert high.boxes_px.tolist() == [[3, 0, 4, 4]]
    assert low.boxes_px.tolist() == [[2, 0, 4, 4]]


@pytest.mark.parametrize("components", [False, True])
def test_chunks_do_not_change_the_result(components: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    cams = torch.randn(4, 6, 5, 5, generator=generator)
    asked = torch.rand(4, 6, generator=generator) < 0.7
    sizes = torch.randint(20, 90, (4, 2), generator=generator)

    def boxes() -> Boxes:
        return cam_boxes(cams, asked, sizes, 32, connected_components=components, boxes_per_class=3)

    whole = boxes()
    monkeypatch.setattr(boxes_module, "_PIXELS_AT_ONCE", 32 * 32 * 3)
    chunked = boxes()
    assert np.array_equal(whole.boxes_px, chunked.boxes_px)
    assert np.array_equal(whole.rows, chunked.rows)
    assert np.array_equal(whole.peaks, chunked.peaks)
    assert (whole.boxes_px[:, :2] >= 0).all()
    assert (whole.boxes_px[:, 2:] <= sizes.numpy()[whole.rows][:, ::-1]).all()
    assert (whole.boxes_px[:, 2:] > whole.boxes_px[:, :2]).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 0.95]), st.sampled_from([5, 16]))
def test_boxes_bound_the_pixels_of_a_mask_made_pixel_by_pixel(seed: int, threshold: float, side: int) -> None:
    """Of few values, so that maps are flat or have equal peaks; no result may differ by a bit."""
    cams = torch.from_numpy(np.random.default_rng(seed).integers(-3, 3, (4, 3, 2, 3)).astype(np.float32) / 7)
    cams[1] = cams[1, 0, 0, 0]
    found = cam_boxes(cams, torch.ones(4, 3, dtype=torch.bool), torch.full((4, 2), side), side,
                      cam_threshold=threshold, offset=0.0)  # fmt: skip
    expected = []
    for row, c in np.ndindex(4, 3):
        large = F.interpolate(cams[row : row + 1, c : c + 1], (side, side), mode="bilinear")[0, 0].numpy()
        y, x = np.nonzero((large - large.min()) / (large.max() - large.min() or np.inf) > threshold)
        if cams[row, c].max() > cams[row, c].min():
            expected.append((row, c, large[y, x].max(), [x.min(), y.min(), x.max() + 1, y.max() + 1]))
    values = (found.rows.tolist(), found.classes.tolist(), found.peaks.tolist(), found.boxes_px.tolist())
    assert list(zip(*values, strict=True)) == expected


class Waits(TorchDispatchMode):
    """Counts the operations whose result the CPU would have to wait for, if the tensors were on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        if masks or name in ("nonzero", "_local_scalar_dense", "masked_select", "equal", "unique_dim", "_unique2"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("maps_at_once", [1, 4, 400])
def test_boxes_make_a_gpu_wait_for_nothing_but_the_request(maps_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With components it also waits for the number of pixels and of runs in every piece."""
    monkeypatch.setattr(boxes_module, "_PIXELS_AT_ONCE", maps_at_once * 32**2)
    for classes in (2, 40):
        cams = torch.rand(2, classes, 4, 4, generator=torch.Generator().manual_seed(0))
        asked = torch.ones(2, classes, dtype=torch.bool)
        for components in (False, True):
            with Waits() as waits:
                finish = start_boxes(cams, asked, torch.full((2, 2), 40), 32, connected_components=components)
            pieces = -(-2 * classes // maps_at_once) if components else 0
            assert waits.counts == {"nonzero": 1 + 2 * pieces}
            assert len(finish().rows) == 2 * classes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("components", [False, True])
def test_a_gpu_finds_the_boxes_of_the_cpu(components: bool) -> None:
    """To a pixel of the input, whose value may be rounded to the other side of the threshold."""
    cams = torch.randn(8, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    asked = torch.rand(8, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    sizes = torch.full((8, 2), 224)
    here, there = (
        cam_boxes(maps, asked, sizes, 224, connected_components=components, offset=0.0)
        for maps in (cams, cams.to("cuda"))
    )
    assert np.array_equal(here.rows, there.rows) and np.array_equal(here.classes, there.classes)
    np.testing.assert_allclose(there.boxes_px, here.boxes_px, atol=1)
    np.testing.assert_allclose(there.peaks, here.peaks, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.7))
def test_components_agree_with_a_flood_fill(seed: int, density: float) -> None:
    masks = np.random.default_rng(seed).random((3, 7, 6)) < density
    pixels = torch.from_numpy(np.flatnonzero(masks))
    runs = Spans.of(runs_of_pixels(pixels, torch.ones(len(pixels)), (7, 6)).numpy())
    labels = label_components(runs)
    found = np.full(masks.shape, -1)
    for m, row, start, end, label in zip(runs.maps, runs.y0, runs.x0, runs.x1, labels, strict=True):
        found[m, row, start:end] = label
    assert np.array_equal(found, _flood_fill(masks))


def _flood_fill(masks: np.ndarray) -> np.ndarray:
    labels = np.full(masks.shape, -1)
    count = 0
    for seed in zip(*np.nonzero(masks), strict=True):
        if labels[seed] >= 0:
            continue
        stack = [seed]
        while stack:
            m, row, column = stack.pop()
            inside = 0 <= row < masks.shape[1] and 0 <= column < masks.shape[2]
            if not inside or not masks[m, row, column] or labels[m, row, column] >= 0:
                continue
            labels[m, row, column] = count
            stack += [(m, row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        count += 1
    return labels


def asked_per_image(probs: Tensor, tau: float) -> float:
    return float((probs >= tau).sum()) / len(probs)


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 8), st.floats(0.05, 8))
def test_threshold_asks_for_the_wanted_mean_number_of_views(
    seed: int, images: int, classes: int, wanted: float
) -> None:
    probs = torch.rand(images, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tau = view_threshold(probs, wanted)
    expected = min(max(1, round(wanted * images)), images * classes)
    assert asked_per_image(probs, tau) * images == pytest.approx(expected)


def test_threshold_by_hand() -> None:
    probs = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.3, 0.2]])
    assert view_threshold(probs, 1) == pytest.approx(0.8)
    assert view_threshold(probs, 1.5) == pytest.approx(0.5)
    assert view_threshold(probs, 3) == pytest.approx(0.1)
    assert view_threshold(probs, 100) == pytest.approx(0.1)  # more than there are classes: all
    assert view_threshold(probs, 0.01) == pytest.approx(0.9)  # at least one view


def test_threshold_with_ties_takes_the_nearest_possible_number() -> None:
    probs = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.5, 0.1]])
    assert asked_per_image(probs, view_threshold(probs, 2)) == 1  # 1 or 5 are possible
    assert asked_per_image(probs, view_threshold(probs, 3)) == 1
    assert asked_per_image(probs, view_threshold(probs, 4)) == 5
    assert asked_per_image(torch.full((2, 3), 0.5), view_threshold(torch.full((2, 3), 0.5), 1)) == 3


def test_threshold_errors() -> None:
    with pytest.raises(CcdError, match="not finite"):
        view_threshold(torch.tensor([[0.5, float("nan")]]), 1)
    with pytest.raises(CcdError, match="empty"):
        view_threshold(torch.empty(0, 3), 1)
    with pytest.raises(CcdError, match="positive"):
        view_threshold(torch.rand(2, 2), 0)
