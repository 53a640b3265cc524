"""The student's inference, for CAM boxes and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ccd.student.model import Student
from ccd.student.precision import Precision, autocast
from ccd.student.transforms import to_unit


def predict(
    student: Student, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, precision: Precision = "fp32"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Score batches without augmentation; the student is moved to ``device`` and left in evaluation mode.

    Args:
        batches: rows (b,) int64 and pixels (b, 3, H, W) uint8.

    Yields:
        ``rows`` as they came, ``logits`` (b, C) float32 and ``cam`` (b, C, h, w) float32, both on ``device``.

    Raises:
        CcdError: the precision does not fit the device.
    """
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    student.eval()
    for rows, images in batches:
        # entered per batch: held across a yield, these modes would leak into the caller
        with torch.inference_mode(), autocast(device, precision):
            logits, cam = student(to_unit(images.to(device, non_blocking=True)))
        yield rows, logits, cam
