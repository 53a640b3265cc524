"""Positional embeddings at sizes the tower was not trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError
from ccd.teacher import clip_teacher
from ccd.teacher.clip_teacher import interpolate_position
from ccd.teacher.openai import image_tower
from tests.toys.tiny_clip import tiny_clip

CLASS_TOKEN = torch.tensor([[7.0, -7.0]])
# cells [[0, 1], [2, 3]], row by row, in the first channel
CELLS = torch.tensor([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0], [3.0, 40.0]])
TABLE = torch.cat([CLASS_TOKEN, CELLS])


@pytest.mark.parametrize(
    ("grid", "first_channel"),
    [
        ((3, 3), [0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3]),
        ((1, 2), [1, 2]),
        ((2, 1), [0.5, 2.5]),
        ((2, 4), [0, 0.25, 0.75, 1, 2, 2.25, 2.75, 3]),
    ],
)
def test_values_by_hand(grid: tuple[int, int], first_channel: list[float]) -> None:
    resized = interpolate_position(TABLE, (2, 2), grid)
    assert torch.equal(resized[:1], CLASS_TOKEN)
    assert resized[1:, 0].tolist() == first_channel


def test_a_batched_table_without_class_token() -> None:
    resized = interpolate_position(CELLS[None], (2, 2), (3, 3))
    assert torch.equal(resized, interpolate_position(TABLE, (2, 2), (3, 3))[None, 1:])


def test_native_size_is_bit_exact() -> None:
    assert interpolate_position(TABLE.half(), (2, 2), (2, 2)).dtype == torch.float16
    assert torch.equal(interpolate_position(TABLE, (2, 2), (2, 2)), TABLE)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_tower_equals_one_built_for_the_size(kind: str) -> None:
    small = tiny_clip(kind)
    large = tiny_clip(kind)
    tower = image_tower(small)
    holder = large.visual.attnpool if kind == "resnet" else large.visual
    maps = holder.positional_embedding[1:].T.reshape(1, -1, 2, 2)
    resized = F.interpolate(maps, size=(3, 3), mode="bilinear", align_corners=False).flatten(2)[0].T
    holder.positional_embedding = torch.nn.Parameter(torch.cat([holder.positional_embedding[:1], resized]))
    pixels = torch.randn(2, 3, 3 * tower.stride_px, 3 * tower.stride_px)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), large.visual(pixels), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_sizes_may_alternate(kind: str) -> None:
    tower = image_tower(tiny_clip(kind))
    sizes = [(2, 2), (1, 3), (3, 1), (2, 2), (1, 3)]
    noise = {grid: torch.randn(1, 3, grid[0] * tower.stride_px, grid[1] * tower.stride_px) for grid in sizes}
    with torch.no_grad():
        first = {grid: tower(noise[grid]) for grid in sizes}
        again = {grid: tower(noise[grid]) for grid in reversed(sizes)}
        native: Tensor = tower.module(noise[2, 2])
    assert all(torch.equal(first[grid], again[grid]) for grid in sizes)
    assert torch.equal(first[2, 2], native)


def test_an_embedding_is_interpolated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the four grids that are not native, three are kept: (1, 3) makes way for (4, 4), and (3, 1) for (1, 3)."""
    made = []

    def counted(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        made.append(grid)
        return interpolate_position(table, native, grid)

    monkeypatch.setattr(clip_teacher, "interpolate_position", counted)
    monkeypatch.setattr(clip_teacher, "POSITIONS_KEPT", 3)
    tower = image_tower(tiny_clip("vit"))
    for grid in [(1, 3), (3, 1), (1, 3), (2, 2), (3, 1), (1, 3), (3, 3), (3, 1), (4, 4), (3, 3), (1, 3), (3, 1)]:
        tower(torch.zeros(1, 3, grid[0] * tower.stride_px, grid[1] * tower.stride_px))
    assert made == [(1, 3), (3, 1), (3, 3), (4, 4), (1, 3), (3, 1)]


@pytest.mark.parametrize("size", [(65, 64), (64, 48), (0, 64)])
def test_a_size_off_the_stride_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(CcdError, match="stride of 32 px"):
        image_tower(tiny_clip("resnet"))(torch.zeros(1, 3, *size))
