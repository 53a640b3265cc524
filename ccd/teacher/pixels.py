"""Pixel mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

from ccd.teacher.base import Normalization

MeanStd = tuple[Sequence[float], Sequence[float]]

CLIP_MEAN_STD: MeanStd = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_MEAN_STD: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def mean_std(normalization: Normalization, of_the_model: MeanStd) -> MeanStd:
    """``clip``: what the model was trained with; ``imagenet``: what the published code used by accident."""
    return of_the_model if normalization == "clip" else IMAGENET_MEAN_STD
