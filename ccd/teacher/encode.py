"""Streams batches of images through the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.store import fingerprint
from ccd.teacher.base import Teacher

# Smaller batches take other kernels on CPUs, whose sums round otherwise: from this size on, an image's features do not
# depend on what else is in its batch.
SMALLEST_BATCH = 16


def encoding(teacher: Teacher, **preprocessing: object) -> str:
    """The name of a teacher's features in the store: what they depend on besides the pixels' content."""
    return fingerprint(
        "features",
        ("ccd.teacher.encode", "ccd.views.crops", "ccd.loading", "ccd.runtime"),
        teacher=[teacher.description, teacher.fingerprint],
        preprocessing=preprocessing,
    )


def encode_images(
    teacher: Teacher, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed batches as they come, of the size and in the order they come.

    A batch of fewer than `SMALLEST_BATCH` images is filled up with copies, so that encoding all images or only some of
    them gives the same features, bit for bit on a CPU.

    Args:
        batches: (rows (b,) int64, pixels (b, 3, h, w) uint8), e.g. of :func:`ccd.loading.image_batches`; a loader with
            workers decodes the next batches while this one is computed.
        names: the image of each row, for error messages.

    Yields:
        rows (b,) int64 and features (b, D) float32 with unit rows.

    Raises:
        CcdError: the teacher gives NaN or Inf, naming the images.
    """
    for rows, pixels in batches:
        fill = SMALLEST_BATCH - len(pixels)
        filled = torch.cat([pixels, pixels[-1:].expand(fill, -1, -1, -1)]) if fill > 0 else pixels
        features = teacher.encode_image(filled)[: len(pixels)]
        bad = rows[~torch.isfinite(features).all(dim=1)].tolist()
        if bad:
            raise CcdError(
                f"the teacher gave NaN or Inf for {listed(names[row] for row in bad)}: try teacher.precision fp32, "
                "or other weights"
            )
        yield rows.numpy(), features.numpy()
