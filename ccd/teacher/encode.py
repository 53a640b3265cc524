"""Streams batches of images through the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.teacher.base import Teacher


def encode_images(
    teacher: Teacher, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed batches as they come, of the size and in the order they come.

    Args:
        batches: (rows (b,) int64, pixels (b, 3, h, w) uint8), e.g. of :func:`ccd.loading.image_batches`; a loader with
            workers decodes the next batches while this one is computed.

    Yields:
        rows (b,) int64 and features (b, D) float32 with unit rows.

    Raises:
        CcdError: the teacher gives NaN or Inf, naming the rows.
    """
    for rows, pixels in batches:
        features = teacher.encode_image(pixels)
        bad = rows[~torch.isfinite(features).all(dim=1)].tolist()
        if bad:
            raise CcdError(
                f"the teacher gave NaN or Inf for rows {listed(bad)}: try teacher.precision fp32, or other weights"
            )
        yield rows.numpy(), features.numpy()
