"""CAM boxes in one pass: the same views as with the threshold known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from benchmarks.photos import index_of
from ccd.artifacts.boxes_file import BoxTable
from ccd.artifacts.image_index import ImageIndex
from ccd.images.batches import ImageFiles
from ccd.runtime.hardware import Hardware, one_ahead
from ccd.student import inference, propose
from ccd.student.model import Student
from ccd.student.propose import RunningThreshold, ViewOptions, ViewQuota, choose_views, find_candidates, tiles
from ccd.views import boxes
from ccd.views.boxes import cam_boxes, view_count, view_threshold
from tests.toys.student import colour_patches, tiny_student

CLASSES = ("red", "green", "blue")
HOW = {"cam_threshold": 0.8, "offset": 0.125, "connected_components": True, "boxes_per_class": 2, "min_side_px": 2.0}


def pictures(folder: Path, count: int) -> tuple[torch.Tensor, list[Path]]:
    """Colour patches as uint8 (count, 3, 32, 32), and their files."""
    pixels, _ = colour_patches(count)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for image, path in zip(pixels, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return pixels, paths


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 9), st.floats(0.05, 12), st.integers(1, 7))
def test_the_bound_rises_towards_the_threshold_and_never_above(
    seed: int, images: int, classes: int, views: float, batch: int
) -> None:
    rng = np.random.default_rng(seed)
    probs = (rng.integers(0, 20, (images, classes)) / 20).astype(np.float32)  # with ties
    tau = view_threshold(torch.from_numpy(probs), views)
    bound = RunningThreshold(view_count(images, classes, views))
    for start in range(0, images, batch):
        before = bound.value
        rose = bound.add(probs[start : start + batch])
        assert rose == (bound.value > before) and before <= bound.value <= tau


def test_the_bound_by_hand() -> None:
    bound = RunningThreshold(4)
    assert not bound.add(np.asarray([[0.1, 0.9], [0.4, 0.3]], np.float32)) and bound.value == 0.0
    assert bound.add(np.asarray([[0.5]], np.float32)) and bound.value == np.float32(0.3)  # the fourth of five
    assert not bound.add(np.asarray([[0.2, 0.25]], np.float32)) and bound.value == np.float32(0.3)  # too small to count
    assert bound.add(np.asarray([[0.8]], np.float32)) and bound.value == np.float32(0.4)


def test_a_given_threshold_is_the_bound() -> None:
    bound = RunningThreshold(1, tau=0.25)
    assert not bound.add(np.full((3, 3), 0.9, np.float32)) and bound.value == 0.25


def test_most_of_the_classes_drop_out_early() -> None:
    """Of 80 classes with one view an image, 1 + ln 80 + a little of 80 maps are boxed, not all."""
    probs = np.random.default_rng(0).random((2000, 80), np.float32)
    bound = RunningThreshold(2000)
    boxed = 0
    for batch in np.split(probs, 100):
        bound.add(batch)
        boxed += int((batch >= bound.value).sum())
    assert 2000 < boxed < 2000 * 8


def test_tiles_cover_the_image() -> None:
    found = tiles(np.asarray([[60, 90], [2, 1]], np.int32), 3, min_side_px=4.0)
    assert found.shape == (2, 9, 4)
    np.testing.assert_allclose(
        found[0, [0, 1, 3, 8]], [[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [60, 40, 90, 60]]
    )
    np.testing.assert_allclose(found[1], np.broadcast_to([0, 0, 1, 2], (9, 4)))  # none smaller than asked, where it can
    areas = (found[..., 2] - found[..., 0]) * (found[..., 3] - found[..., 1])
    assert areas[0].sum() == pytest.approx(60 * 90)


def proposed(student: Student, paths: list[Path], index: ImageIndex, place: Hardware, options: ViewOptions) -> BoxTable:
    candidates = find_candidates(student, ImageFiles(paths), index, options, place)
    return choose_views(candidates, index, CLASSES, options)


def test_tiles_stand_behind_the_views_of_their_image(tmp_path: Path) -> None:
    _, paths = pictures(tmp_path, 5)
    index = index_of(paths)
    place = Hardware(torch.device("cpu"), 0, 2)
    student = tiny_student(len(CLASSES))
    plain, tiled = (
        proposed(student, paths, index, place, ViewOptions(ViewQuota(None, 1.0), 32, HOW, tiles=count))
        for count in (0, 2)
    )
    assert len(tiled.image_ids) == len(plain.image_ids) + 5 * 4 and tiled.image_ids == sorted(tiled.image_ids)
    for image_id in index.ids:
        names = [name for name, of in zip(tiled.classes, tiled.image_ids, strict=True) if of == image_id]
        assert names[-4:] == [""] * 4 and "" not in names[:-4]
    asked = tiled.requested
    assert [tiled.classes[row] for row in asked] == plain.classes and tiled.metadata == plain.metadata
    np.testing.assert_array_equal(tiled.boxes_px[asked], plain.boxes_px)
    np.testing.assert_array_equal(tiled.scores[asked], plain.scores)
    rest = np.setdiff1d(np.arange(len(tiled.classes)), asked)
    assert np.isnan(tiled.scores[rest]).all() and np.isnan(tiled.cam_peaks[rest]).all()
    np.testing.assert_allclose(tiled.boxes_px[rest], tiles(index.sizes_px, 2).reshape(-1, 4))


def test_regions_are_the_last_views_of_their_image(tmp_path: Path) -> None:
    _, paths = pictures(tmp_path, 2)
    index = index_of(paths)
    regions_px = np.asarray([[[0, 0, 9, 9], [0, 0, 0, 0]], [[1, 2, 3, 4], [5, 6, 7, 8]]], np.float32)
    options = ViewOptions(ViewQuota(None, 1.0), 32, HOW, tiles=1, kind="dense")
    dense = choose_views(None, index, CLASSES, options, regions_px)
    whole = [0, 0, 32, 32]  # one tile
    assert dense.boxes_px.tolist() == [whole, [0, 0, 9, 9], whole, [1, 2, 3, 4], [5, 6, 7, 8]]
    assert list(dense.image_ids) == [index.ids[row] for row in (0, 0, 1, 1, 1)]
    assert dense.classes == [""] * 5 and np.isnan(dense.scores).all() and dense.metadata == {"views": "dense"}
    student = tiny_student(len(CLASSES))
    place = Hardware(torch.device("cpu"), 0, 2)
    asked = replace(options, kind="both", tiles=0)
    candidates = find_candidates(student, ImageFiles(paths), index, asked, place)
    plain = choose_views(candidates, index, CLASSES, asked)
    both = choose_views(candidates, index, CLASSES, asked, regions_px)
    assert both.metadata == plain.metadata | {"views": "both"} and "views" not in plain.metadata
    np.testing.assert_array_equal(both.boxes_px[both.requested], plain.boxes_px)
    np.testing.assert_array_equal(both.boxes_px[-2:], regions_px[1])


def test_precision_is_recorded_where_it_is_not_fp32(tmp_path: Path) -> None:
    _, paths = pictures(tmp_path, 6)
    index = index_of(paths)
    place = Hardware(torch.device("cpu"), 0, 4)
    plain = ViewOptions(ViewQuota(0.0, 1.0), 32, HOW)
    full, half = (
        proposed(tiny_student(len(CLASSES)), paths, index, place, options)
        for options in (plain, replace(plain, precision="bf16"))
    )
    assert "precision" not in full.metadata and half.metadata["precision"] == "bf16"
    assert set(zip(full.image_ids, full.classes, strict=True)) == set(zip(half.image_ids, half.classes, strict=True))
    scores = [dict(zip(zip(one.image_ids, one.classes, strict=True), one.scores, strict=True)) for one in (full, half)]
    assert scores[0] != scores[1]
    assert all(scores[1][view] == pytest.approx(value, abs=0.02) for view, value in scores[0].items())


def test_on_a_gpu_the_next_pass_is_started_before_results_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p: a pass over a batch; r: its probabilities are read; b: the two tensors of its boxes."""
    _, paths = pictures(tmp_path, 8)
    events: list[str] = []
    student = tiny_student(len(CLASSES))
    student.register_forward_hook(lambda *_: events.append("p"))
    for module, letter in ((inference, "r"), (propose, "r"), (boxes, "b")):

        def noting(values: torch.Tensor, letter: str = letter) -> Callable[[], torch.Tensor]:
            return lambda: [events.append(letter), values][1]

        monkeypatch.setattr(module, "read_later", noting)
    for module in (inference, propose):
        monkeypatch.setattr(module, "one_ahead", lambda items, device: one_ahead(items, torch.device("cuda")))
    place = Hardware(torch.device("cpu"), 0, 2)
    find_candidates(student, ImageFiles(paths), index_of(paths), ViewOptions(ViewQuota(None, 1.0), 32, HOW), place)
    assert "".join(events) == "pp" + "rp" + "rbb" + "p" + "rbb" + "rbb" + "bb"
    events.clear()
    inference.score({"a": student}, ImageFiles(paths), 32, place)
    assert "".join(events) == "pp" + "rp" + "rp" + "rr"


@pytest.mark.parametrize(
    "quota",
    [ViewQuota(None, 1.2), ViewQuota(None, 0.1), ViewQuota(None, 3.0), ViewQuota(0.5, 1.0), ViewQuota(0.999, 1.0)],
)
@pytest.mark.parametrize("batch_size", [4, 30])
def test_one_pass_finds_what_two_would(quota: ViewQuota, batch_size: int, tmp_path: Path) -> None:
    pixels, paths = pictures(tmp_path, 30)
    index = index_of(paths)
    student = tiny_student(len(CLASSES))
    place = Hardware(torch.device("cpu"), 0, batch_size)
    found = proposed(student, paths, index, place, ViewOptions(quota, 32, HOW))

    with torch.inference_mode():
        outs = [student.eval()(part / 255.0) for part in pixels.split(batch_size)]
    probs, cams = (torch.cat(parts) for parts in zip(*((logits.sigmoid(), cam) for logits, cam in outs), strict=True))
    tau = view_threshold(probs, quota.views_per_image) if quota.tau is None else quota.tau
    expected = cam_boxes(cams, probs >= tau, torch.from_numpy(index.sizes_px), 32, **HOW)
    assert found.metadata == {"tau": repr(tau)}
    assert found.image_ids == [index.ids[row] for row in expected.rows]
    assert found.classes == [CLASSES[place] for place in expected.classes]
    np.testing.assert_array_equal(found.scores, probs.numpy()[expected.rows, expected.classes])
    np.testing.assert_array_equal(found.cam_peaks, expected.peaks)
    np.testing.assert_array_equal(found.boxes_px, expected.boxes_px)
    assert len(found.image_ids) > 0 or quota.tau == 0.999
