"""What the training loop minimises: from a batch of images and targets to a loss and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ccd.student.losses import bce, consistency
from ccd.student.model import Student
from ccd.student.transforms import color_jitter, random_hflip, to_unit


@dataclass(frozen=True)
class Outcome:
    """``loss``: scalar to minimise; ``parts``: its detached terms by name; ``logits``: (b, C) detached, weak view."""

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


class Objective(Protocol):
    """One training step up to the loss. All randomness comes from ``generator`` (CPU)."""

    def __call__(self, student: Student, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
        """``images``: (b, 3, H, W) uint8 on the student's device; ``targets``: (b, C) float in [0, 1]."""
        ...


def warmup_objective(student: Student, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
    """BCE of the weak view (flip) against the targets (method section 4)."""
    logits, _ = student(to_unit(random_hflip(images, generator)))  # (b, C)
    loss = bce(logits, targets)
    return Outcome(loss, {"bce": loss.detach()}, logits.detach())


@dataclass(frozen=True)
class FinalObjective:
    """BCE of the weak view + lambda * consistency of a strong view (method section 8).

    ``consistency_weight``: lambda; with 0 the strong view is not computed, and this is `warmup_objective`.
    ``color_jitter``: strength of brightness, contrast, saturation and hue; at most 0.5.
    """

    consistency_weight: float
    color_jitter: float

    def __call__(self, student: Student, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
        """See `Objective`; the strong view has a flip of its own."""
        weak = warmup_objective(student, images, targets, generator)
        if self.consistency_weight == 0:
            return weak
        x = self.color_jitter
        strong = to_unit(random_hflip(images, generator))
        strong = color_jitter(strong, generator, brightness=x, contrast=x, saturation=x, hue=x)
        strong_logits, _ = student(strong)  # (b, C)
        agreement = consistency(strong_logits, weak.logits)
        parts = {**weak.parts, "consistency": agreement.detach()}
        return Outcome(weak.loss + self.consistency_weight * agreement, parts, weak.logits)
