"""Regions of an image: groups of like patches, as local views that need no second pass of CLIP.

Not in the paper.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 10
CONTEXT = 0.5
_SAME = 1 - 1e-5  # cosine from which on two vectors count as one


def group_cells(cells: Tensor, count: int, iterations: int = ITERATIONS) -> Tensor:
    """Group the cells of each image by spherical k-means of how they differ from the image's mean cell.

    The first centre is the most typical cell, each further one the cell least like the centres so far; of equal cells
    the first, row by row.

    Args:
        cells: (b, D, h, w) float32, unit vectors along D.
        count: the largest number of groups of an image, k >= 1.

    Returns:
        (b, h, w) int64 in 0..k - 1, on the device of ``cells``; a group may be empty.
    """
    vectors = cells.flatten(2).transpose(1, 2)  # (b, n, D)
    vectors = F.normalize(vectors - vectors.mean(dim=1, keepdim=True), dim=2)
    centres, unused = _spread(vectors, count)
    labels = _nearest(vectors, centres, unused)
    for _ in range(iterations):
        members = _members(labels, count)  # (b, k, n)
        means = F.normalize(members @ vectors, dim=2)
        centres = torch.where(members.any(dim=2, keepdim=True), means, centres)
        labels = _nearest(vectors, centres, unused)
    return labels.view(len(cells), *cells.shape[2:])


def _spread(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` of the vectors (b, n, D) as first centres (b, k, D); (b, k) bool: which repeat another one."""
    images = torch.arange(len(vectors), device=vectors.device)
    first = (vectors @ vectors.mean(dim=1)[:, :, None])[:, :, 0].argmax(dim=1)
    centres = [vectors[images, first]]
    unused = [torch.zeros_like(images, dtype=torch.bool)]
    likeness = (vectors @ centres[0][:, :, None])[:, :, 0]  # with the nearest centre
    while len(centres) < count:
        least, cell = likeness.min(dim=1)
        centres.append(vectors[images, cell])
        unused.append(least >= _SAME)
        likeness = torch.maximum(likeness, (vectors @ centres[-1][:, :, None])[:, :, 0])
    return torch.stack(centres, dim=1), torch.stack(unused, dim=1)


def _nearest(vectors: Tensor, centres: Tensor, unused: Tensor) -> Tensor:
    """Return the used centre (b, n) int64 most like each vector."""
    likeness = vectors @ centres.transpose(1, 2)
    return likeness.masked_fill(unused[:, None], -torch.inf).argmax(dim=2)


def _members(labels: Tensor, count: int) -> Tensor:
    """Return (b, k, n) float32: 1 where cell n of an image has label k."""
    return (labels[:, None] == torch.arange(count, device=labels.device)[:, None]).float()


def region_views(
    cells: Tensor, images: Tensor, labels: Tensor, count: int, *, context: float = CONTEXT, widen: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the boxes and embeddings of regions.

    Args:
        cells: (b, D, h, w) float32, unit vectors along D.
        images: (b, D) float32, the images' own unit embeddings.
        labels: (b, h, w) int64, the region of each cell, 0..k - 1.
        count: k.
        context: weight of the image in its regions: a part alone is easily taken for something else.
        widen: share of the image's side by which a box is widened on each of its sides, before it is clipped.

    Returns:
        Boxes (b, k, 4) float32, x0, y0, x1, y1 as shares of the image's width and height, and embeddings (b, k, D)
        float32, normalised sums of the region's normalised mean cell and ``context`` times the image. The larger
        region comes first, of equally large ones that with the smaller label; empty regions are zeros, at the end.
    """
    rows, columns = labels.shape[1:]
    members = _members(labels.flatten(1), count)
    order = members.sum(dim=2).argsort(dim=1, descending=True, stable=True)
    members = members.gather(1, order[:, :, None].expand_as(members))
    exists = members.any(dim=2)[:, :, None]
    means = F.normalize(members @ cells.flatten(2).transpose(1, 2), dim=2)
    features = F.normalize(means + context * images[:, None], dim=2)
    grids = members.view(*members.shape[:2], rows, columns).bool()
    x0, x1 = _ends(grids.any(dim=2))
    y0, y1 = _ends(grids.any(dim=3))
    boxes = torch.stack([x0 - widen, y0 - widen, x1 + widen, y1 + widen], dim=2).clamp(0, 1)
    return boxes * exists, features * exists


def _ends(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the occupied cells of (..., n) bool begin and end, as shares of n."""
    count = occupied.shape[-1]
    ahead = occupied.float().argmax(dim=-1)
    behind = occupied.flip(-1).float().argmax(dim=-1)
    return ahead / count, (count - behind) / count


def packed(images: Tensor, boxes: Tensor, features: Tensor) -> Tensor:
    """Join embeddings of images (b, D) and `region_views` (b, k, ..) to rows (b, D + k * (4 + D)), for the store."""
    return torch.cat([images, torch.cat([boxes, features], dim=2).flatten(1).to(images.device)], dim=1)


def unpacked(rows: np.ndarray, count: int, sizes_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part the rows of `packed`.

    Args:
        rows: (b, D + k * (4 + D)) float32.
        count: k; 0: the rows are embeddings of images alone.
        sizes_px: (b, 2) height and width of the original images.

    Returns:
        The images' embeddings (b, D), the regions' boxes (b, k, 4) as x0, y0, x1, y1 in pixels of the original image,
        and embeddings (b, k, D), all float32; absent regions are zeros, at the end.
    """
    width = (rows.shape[1] - 4 * count) // (1 + count)
    parts = rows[:, width:].reshape(len(rows), count, 4 + width)
    sides_px = np.asarray(sizes_px, np.float64)[:, None, [1, 0, 1, 0]]
    return rows[:, :width], (parts[..., :4] * sides_px).astype(np.float32), parts[..., 4:]
