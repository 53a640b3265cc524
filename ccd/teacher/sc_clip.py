"""The refinements of SC-CLIP (Bai et al., 2024, arXiv:2411.15869) of a ViT's patches; its last block is in `dense`.

Outlier patches, which draw attention without showing anything, become the mean of their neighbours. Patches that are
alike in the middle of the tower are made more alike before and after the last block, which attends by that likeness.
Earlier layers are sent through the same block and added. The constants are those of the published code for a ViT of
12 blocks (SuleBai/SC-CLIP, configs and clip/model.py); other depths take the layers at the same share of their depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 30  # of the local outlier factor: n_neighbors
OUTLIER_SHARE = 0.05  # of the patches, those with the largest factor: contamination
LEAST_COSINE = 0.4  # less like patches are not averaged: beta
SHARPNESS = 3.0  # of the attention by likeness
CLASS_WEIGHT = 0.3  # of the class token in every patch: res_cls
DEPTH = 12  # blocks of the tower that the numbers of layers are for
SMOOTHING_LAYER = 4  # averages what the last block gives: post_adjust_idx; also the first of the layers between
LIKENESS_LAYER = 9  # averages what the last block takes, and steers its attention: pre_adjust_idx
LAST_LAYER_BETWEEN = 10  # multi_end_idx

Attend = Callable[[Tensor, Tensor], Tensor]
"""The last block's attention of patches (b, n, E) by weights (b, n, n), without residual and feed-forward."""


def layer_of(number: int, depth: int) -> int:
    """Return the layer of a tower of ``depth`` blocks that stands for layer ``number`` of 12.

    Layer l is what block l gives, and block l + 1 takes; 0, what the first block takes, only where there is no other.
    """
    nearest = (2 * number * depth + DEPTH) // (2 * DEPTH)
    return min(max(nearest, 1), depth - 1)


def first_layer(depth: int) -> int:
    """Return the first layer that `refined` needs."""
    return layer_of(SMOOTHING_LAYER, depth)


def refined(attend: Attend, layers: Sequence[Tensor], depth: int, grid: tuple[int, int]) -> Tensor:
    """Refine the patches of the last block.

    Args:
        attend: see `Attend`.
        layers: tokens (b, 1 + n, E) of the layers `first_layer` to ``depth - 1``, the class token first.
        depth: blocks of the tower.
        grid: rows and columns of patches, n in all.

    Returns:
        (b, n, E), for the last norm and the projection.
    """
    first = depth - len(layers)
    classes, patches = layers[-1][:, :1], layers[-1][:, 1:]
    outliers = find_outliers(patches)
    middle = layers[layer_of(LIKENESS_LAYER, depth) - first][:, 1:]
    likeness = cosines(replaced(middle, outliers, grid))
    weights = likeness_weights(likeness)
    x = averaged(replaced(patches, outliers, grid), likeness)
    x = attend(x, weights) + CLASS_WEIGHT * classes
    between = sum(layers[1 : layer_of(LAST_LAYER_BETWEEN, depth) - first + 1], start=layers[0])
    x = x + attend(between[:, 1:], weights) + CLASS_WEIGHT * between[:, :1]
    return averaged(x, cosines(layers[0][:, 1:]))


def find_outliers(patches: Tensor) -> Tensor:
    """Return (b, n) bool: patches of (b, n, E) whose local outlier factor is above the image's 95 % quantile.

    Patches that are all alike have none.
    """
    factors = outlier_factors(patches.float(), NEIGHBOURS)
    return factors > factors.quantile(1 - OUTLIER_SHARE, dim=1, keepdim=True)


def outlier_factors(points: Tensor, neighbours: int) -> Tensor:
    """Return the local outlier factor (Breunig et al., SIGMOD 2000), about 1 inside a cluster, larger outside.

    The published code takes squared distances, and a point's own k-distance as every reach distance; this is the
    factor as defined.

    Args:
        points: (b, n, E) float32.
        neighbours: k, at least 1; n - 1 where there are fewer others.

    Returns:
        (b, n) float32; 1 for a point without others.
    """
    count = min(neighbours, points.shape[1] - 1)
    if count == 0:
        return points.new_ones(points.shape[:2])
    # the way by products of matrices would take equal points for different ones
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)  # no point is its own neighbour
    near, nearest = distances.topk(count, dim=2, largest=False)
    reach = torch.maximum(near, _of_neighbours(near[:, :, -1], nearest))
    density = 1 / (reach.mean(dim=2) + 1e-10)  # finite for points that coincide
    return _of_neighbours(density, nearest).mean(dim=2) / density


def _of_neighbours(values: Tensor, nearest: Tensor) -> Tensor:
    """Return the values (b, n) of each point's neighbours (b, n, k) int64, as (b, n, k)."""
    return values[:, None].expand(-1, nearest.shape[1], -1).gather(2, nearest)


def replaced(patches: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return patches (b, n, E), outliers as the mean of those of their 3 x 3 neighbours that are none.

    An outlier among outliers stays as it is.
    """
    kept = (~outliers).to(patches.dtype)[:, :, None]
    share = _pooled(kept, grid)  # of the nine cells, which the outlier itself is no part of
    means = _pooled(patches * kept, grid) / share.clamp(min=0.1)  # 1/9 at least, or 0
    return torch.where(outliers[:, :, None] & (share > 0), means, patches)


def _pooled(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a ninth of the sum of the 3 x 3 cells around each patch of (b, n, E); outside the grid are zeros."""
    maps = patches.transpose(1, 2).reshape(len(patches), -1, *grid)
    return F.avg_pool2d(maps, 3, stride=1, padding=1).flatten(2).transpose(1, 2)


def cosines(patches: Tensor) -> Tensor:
    """Return the likeness (b, n, n) float32 of patches (b, n, E), at full precision in an autocast pass too."""
    with torch.autocast(patches.device.type, enabled=False):
        units = F.normalize(patches.float(), dim=2)
        return units @ units.transpose(1, 2)


def averaged(patches: Tensor, likeness: Tensor) -> Tensor:
    """Return patches (b, n, E) float32 as means of those with a likeness of at least 0.4, weighted with it."""
    with torch.autocast(patches.device.type, enabled=False):
        weights = likeness.where(likeness >= LEAST_COSINE, 0)
        return (weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)) @ patches.float()


def likeness_weights(likeness: Tensor) -> Tensor:
    """Return the softmax (b, n, n) of 3 (S - mean S) over patches that are no less like than the image's mean S."""
    above = likeness - likeness.mean(dim=(1, 2), keepdim=True)
    left_out = above < 0
    left_out.diagonal(dim1=1, dim2=2).fill_(False)  # where all are alike, the mean may round to more than each
    return (SHARPNESS * above).masked_fill(left_out, -torch.inf).softmax(dim=2)
