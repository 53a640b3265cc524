"""The two terms of the student's loss (method section 8)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with soft targets, averaged over images and classes.

    ``-mean(y ln s(z) + (1 - y) ln(1 - s(z)))`` with s the sigmoid.

    Args:
        logits: (b, C) float z.
        targets: (b, C) float y in [0, 1].

    Returns:
        A float32 scalar, in nats.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())


def consistency(strong_logits: Tensor, weak_logits: Tensor) -> Tensor:
    """`bce` of the strong view against the weak view's own probabilities, ``BCE(z_strong, stop_gradient(s(z_weak)))``.

    Args:
        strong_logits: (b, C), receives the gradient.
        weak_logits: (b, C), receives none.

    Returns:
        A float32 scalar, in nats.
    """
    return bce(strong_logits, weak_logits.detach().float().sigmoid())
