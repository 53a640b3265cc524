"""Regions of like patches, by hand; and their file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.artifacts import boxes_file
from ccd.artifacts.boxes_file import BoxTable, RegionFile, embedded_views, writing_regions
from ccd.errors import CcdError
from ccd.views.regions import group_cells, packed, region_views, unpacked
from tests.toys.artifacts import IDS, write_regions

COLOURS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


NOWHERE = torch.zeros(1, 3)


def cells_of(*grids: list[list[int]]) -> Tensor:
    """Cells (b, 3, h, w) of the colours that the grids number."""
    return COLOURS[torch.tensor(grids)].movedim(-1, 1)


def test_two_colours_are_two_regions() -> None:
    cells = cells_of([[0, 0, 1, 1], [0, 0, 0, 1]])
    labels = group_cells(cells, 4)
    assert labels.tolist() == [[[0, 0, 1, 1], [0, 0, 0, 1]]]
    boxes, features = region_views(cells, NOWHERE, labels, 4, context=0)
    assert boxes.tolist() == [[[0, 0, 0.75, 1], [0.5, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]]
    assert features.tolist() == [[[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]]


def test_one_region_is_the_normalised_mean_of_all() -> None:
    cells = cells_of([[0, 1]])
    boxes, features = region_views(cells, NOWHERE, group_cells(cells, 1), 1, context=0)
    assert boxes.tolist() == [[[0, 0, 1, 1]]]
    torch.testing.assert_close(features, torch.tensor([[[0.5, 0.5, 0]]]) * 2**0.5)


def test_the_most_typical_cell_is_first_and_the_least_alike_second() -> None:
    """Less their mean (.6, .53, 0), colours 0, 1 and 2 point to (.6, -.8), (-.79, .61) and (.95, .32).

    The third is most like the mean of these, (.25, .04); its cosines with the others are .32 and -.56.
    """
    labels = group_cells(cells_of([[0, 1, 2]]), 3, iterations=0)
    assert labels.tolist() == [[[2, 1, 0]]]
    assert group_cells(cells_of([[0, 1, 2]]), 2).tolist() == [[[0, 1, 0]]]


def test_the_larger_region_is_first_and_boxes_can_be_widened() -> None:
    cells = cells_of([[3, 1, 1, 1]])
    labels = torch.tensor([[[0, 1, 1, 1]]])
    boxes, features = region_views(cells, NOWHERE, labels, 2, context=0, widen=0.125)
    assert boxes.tolist() == [[[0.125, 0, 1, 1], [0, 0, 0.375, 1]]]
    assert features.tolist() == [[[0, 1, 0], [0, 0, 1]]]


def test_a_region_is_seen_in_the_context_of_its_image() -> None:
    cells = cells_of([[0, 1]])
    _, features = region_views(cells, torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[[0, 1]]]), 2, context=0.75)
    torch.testing.assert_close(features, torch.tensor([[[0.8, 0, 0.6], [0, 0.8, 0.6]]]))


@pytest.mark.parametrize("side", [3, 7, 20])
def test_equal_cells_are_never_parted(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    two = torch.nn.functional.normalize(torch.randn(2, 256, generator=generator), dim=1)
    plan = (torch.rand(side, side, generator=generator) < 0.3).long()
    labels = group_cells(two[plan].permute(2, 0, 1)[None], 9)[0]
    assert len(set(labels.flatten().tolist())) == 2 and len(set(labels[plan == 0].tolist())) == 1


def test_images_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.nn.functional.normalize(torch.randn(5, 8, 6, 7, generator=generator), dim=1)
    together = group_cells(cells, 4)
    assert torch.equal(together, torch.cat([group_cells(image[None], 4) for image in cells]))
    assert sorted(set(together.flatten().tolist())) == [0, 1, 2, 3]


def test_rows_of_the_store_are_parted_as_they_were_joined() -> None:
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    boxes = torch.tensor([[[0, 0.5, 1, 1], [0, 0, 0, 0]], [[0, 0, 0.25, 1], [0.5, 0, 1, 0.5]]])
    features = torch.tensor([[[1.0, 0], [0, 0]], [[0.6, 0.8], [0, 1]]])
    rows = packed(images, boxes, features)
    assert rows.shape == (2, 2 + 2 * (4 + 2))
    whole, boxes_px, parts = unpacked(rows.numpy(), 2, np.array([[10, 20], [8, 4]], np.int32))
    assert whole.tolist() == images.tolist() and parts.tolist() == features.tolist()
    assert boxes_px.tolist() == [[[0, 5, 20, 10], [0, 0, 0, 0]], [[0, 0, 1, 8], [2, 0, 4, 4]]]
    whole, boxes_px, parts = unpacked(images.numpy(), 0, np.ones((2, 2)))
    assert whole.tolist() == images.tolist() and boxes_px.shape == (2, 0, 4) and parts.shape == (2, 0, 2)


def views(rows: list[int], boxes_px: list[list[float]], kind: str | None = "both") -> BoxTable:
    """A table of views of the images at ``rows``."""
    nothing = np.full(len(rows), np.nan, np.float32)
    metadata = {} if kind is None else {"views": kind}
    corners = np.asarray(boxes_px, np.float32)
    return BoxTable([IDS[row] for row in rows], [""] * len(rows), nothing, nothing, corners, metadata)


def test_regions_are_found_among_the_views(tmp_path: Path) -> None:
    path = tmp_path / "regions.h5"
    write_regions(path)
    rows = [0, 0, 0, 1, 2]
    table = views(rows, [[9, 9, 10, 10], [0, 0, 2, 3], [1, 0, 4, 3], [0, 0, 6, 5], [1, 1, 2, 2]])
    known = embedded_views(path, tmp_path / "boxes.parquet", table, np.array(rows), IDS)
    assert known.rows.tolist() == [1, 2, 3] and known.others.tolist() == [0, 4] and not known.all_views
    written = np.zeros((5, 2))
    known.copy(lambda at, values: written.__setitem__(at, values))
    np.testing.assert_allclose(written, [[0, 0], [1, 0], [0, 1], [0.6, 0.8], [0, 0]])
    known.check_teacher({"teacher": "t", "fingerprint": "f"})
    with pytest.raises(CcdError, match=r"regions\.h5: its teacher is not other.*clip_global"):
        known.check_teacher({"teacher": "other", "fingerprint": "g"})


def test_an_image_without_views_has_none_to_match_and_cam_views_need_no_file(tmp_path: Path) -> None:
    path = tmp_path / "regions.h5"
    write_regions(path)
    known = embedded_views(path, path, views([1], [[0, 0, 6, 5]]), np.array([1]), IDS)
    assert known.all_views and known.width == 2 and known.teacher == {"teacher": "t", "fingerprint": "f"}
    written: list[list[float]] = []
    known.copy(lambda at, values: written.extend(values.tolist()))
    np.testing.assert_allclose(written, [[0.6, 0.8]], atol=1e-7)
    absent = embedded_views(tmp_path / "absent", path, views([1], [[0, 0, 1, 1]], None), np.array([1]), IDS)
    assert absent.others.tolist() == [0] and not absent.all_views and absent.teacher == {}


@pytest.mark.parametrize(
    ("rows", "boxes_px"),
    [
        ([0, 0], [[0, 0, 2, 3], [1, 0, 4, 2]]),  # another box
        ([0, 0], [[1, 0, 4, 3], [0, 0, 2, 3]]),  # another order
        ([0], [[1, 0, 4, 3]]),  # one is missing
        ([1, 0, 0], [[0, 0, 6, 5], [0, 0, 2, 3], [1, 0, 4, 3]]),  # the images are not in order
    ],
)
def test_views_of_other_regions_are_refused(rows: list[int], boxes_px: list[list[float]], tmp_path: Path) -> None:
    write_regions(tmp_path / "regions.h5")
    with pytest.raises(CcdError, match=r"boxes\.parquet: its regions were made from another .*regions\.h5.*cam_boxes"):
        embedded_views(tmp_path / "regions.h5", tmp_path / "boxes.parquet", views(rows, boxes_px), np.array(rows), IDS)


def test_no_regions_at_all_is_a_file_that_no_views_can_be_made_from(tmp_path: Path) -> None:
    """Every second image and then the others: HDF5 cannot select many rows of nothing."""
    path = tmp_path / "regions.h5"
    ids = [f"image {row:03}" for row in range(200)]
    with writing_regions(path, ids, 0, 5, {"fingerprint": "f"}) as writer:
        for first in (0, 1):
            rows = np.arange(first, 200, 2)
            writer.write(rows, np.zeros((100, 0, 4), np.float32), np.zeros((100, 0, 5), np.float32))
    with pytest.raises(CcdError, match=r"regions\.h5: it holds no regions.*clip_global"):
        RegionFile(path, ids)


def test_a_file_of_other_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "regions.h5"
    write_regions(path)
    with pytest.raises(CcdError, match="not the 2 expected images"):
        RegionFile(path, IDS[:2])
    found = RegionFile(path, IDS)
    assert found.exist.tolist() == [[True, True], [True, False], [False, False]]


def test_an_image_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    zeros = np.zeros((1, 1, 4), np.float32)
    with (
        pytest.raises(CcdError, match="2 of 3 rows"),
        boxes_file.writing_regions(tmp_path / "regions.h5", IDS, 1, 4, {}) as writer,
    ):
        writer.write(np.array([0]), zeros, zeros)
    assert list(tmp_path.iterdir()) == []
