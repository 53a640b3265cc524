"""Positional embeddings of image towers, for images of a size the tower was not trained on (method section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ccd.errors import CcdError


@dataclass(frozen=True)
class ImageTower:
    """An image tower and where its positional embedding is.

    ``position``: name of the parameter, ``None`` for a tower without one; ``grid``: rows and columns it was trained
    on; ``stride_px``: pixels per cell.
    """

    module: nn.Module
    stride_px: int
    position: str | None
    grid: tuple[int, int]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (b, 3, h, w) float -> features (b, D), not normalised.

        The interpolated embedding is passed in for this call alone: the tower never changes, so sizes may alternate.

        Raises:
            CcdError: h or w is not a positive multiple of the stride.
        """
        height_px, width_px = pixels.shape[-2:]
        if height_px % self.stride_px or width_px % self.stride_px or not height_px * width_px:
            raise CcdError(
                f"an image of {height_px} x {width_px} px does not fit the teacher's stride of {self.stride_px} px: "
                "use multiples of it"
            )
        swapped: dict[str, Tensor] = {}
        if self.position is not None:
            table = self.module.get_parameter(self.position)
            grid = (height_px // self.stride_px, width_px // self.stride_px)
            swapped[self.position] = interpolate_position(table, self.grid, grid)
        features = functional_call(self.module, swapped, (pixels,))
        # towers that also serve a captioning decoder return (pooled, tokens)
        pooled: Tensor = features[0] if isinstance(features, tuple) else features
        return pooled


def interpolate_position(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of a positional embedding over its grid; at its native size it is returned as it is.

    Args:
        table: (..., K + h * w, D), K class tokens first, then the grid row by row. Class tokens are kept apart.
        native: h, w of the table. grid: the h, w wanted, square or not.

    Returns:
        (..., K + grid cells, D), float32 unless native.
    """
    if grid == native:
        return table
    rows, columns = native
    class_tokens = table.shape[-2] - rows * columns
    width = table.shape[-1]
    head, cells = torch.split(table.float(), [class_tokens, rows * columns], dim=-2)
    maps = cells.reshape(-1, rows, columns, width).permute(0, 3, 1, 2)  # (n, D, h, w)
    resized = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False, antialias=False)
    tokens = resized.flatten(2).transpose(1, 2).reshape(*table.shape[:-2], grid[0] * grid[1], width)
    return torch.cat([head, tokens], dim=-2)
