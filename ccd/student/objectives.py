"""The student's losses (method section 8): from a batch of images and targets to a loss and its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.labels.thresholds import LABELLED
from ccd.params.sections import TrainParams
from ccd.student.transforms import color_jitter, paste, rand_augment, random_hflip, random_resized_crop, to_unit

Schedule = Literal["constant", "cosine"]


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


@dataclass(frozen=True)
class Outcome:
    """Result of an objective on a batch.

    ``loss``: scalar to minimise; ``parts``: its detached terms by name; ``logits``: (b, C) detached, of the weak view;
    ``targets``: (b, C) detached, the images' targets from the next epoch on; None: unchanged.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    logits: Tensor
    targets: Tensor | None = None


Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A student, or one that is trained on several ranks: pixels to logits and maps."""


class Objective(Protocol):
    """One training step up to the loss. All randomness comes from ``generator`` (CPU)."""

    def __call__(self, student: Forward, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
        """``images``: (b, 3, H, W) uint8 on the student's device; ``targets``: (b, C) float in [0, 1]."""
        ...


def warmup_objective(student: Forward, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
    """BCE of the weak view (flip) against the targets (method section 4)."""
    logits, _ = student(to_unit(random_hflip(images, generator)))  # (b, C)
    loss = bce(logits, targets)
    return Outcome(loss, {"bce": loss.detach()}, logits.detach())


@dataclass(frozen=True)
class LabelLoss:
    """BCE against labels some of which are wrong: `bce` with a weight for every image and class.

    ``doubt_power``: p of the weight |2y - 1|^p, so that an undecided label teaches nothing; 0: all count alike.
    ``rejected_negatives``: share of the labels below 0.5 in a batch that are left out, those with the largest loss:
    they are likely missed positives (large loss rejection, CVPR 2022, with a constant share); 0: none.
    """

    doubt_power: float = 0.0
    rejected_negatives: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``logits`` (b, C) and ``targets`` (b, C) in [0, 1] -> a float32 scalar, in nats."""
        if self.doubt_power == 0 and self.rejected_negatives == 0:
            return bce(logits, targets)
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
        weights = (2 * targets.float() - 1).abs() ** self.doubt_power
        if self.rejected_negatives:
            negative = targets < LABELLED
            rejected = int(self.rejected_negatives * int(negative.sum()))
            ranked = torch.where(negative, losses.detach(), -1.0).flatten().argsort(descending=True, stable=True)
            weights.view(-1)[ranked[:rejected]] = 0.0
        return (weights * losses).sum() / weights.sum().clamp(min=1e-6)


@dataclass(frozen=True)
class WeakView:
    """The weak view of an image: a flip, and what a student that would otherwise know every image by heart needs.

    ``crop_area``: smallest share of the area of `random_resized_crop`; 1: the whole image. ``paste_scale``: side of
    an image that is pasted onto it, see `ccd.student.transforms.paste`; 0: none.
    """

    crop_area: float = 1.0
    paste_scale: float = 0.0

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``images`` (b, 3, H, W) uint8, ``targets`` (b, C) -> pixels (b, 3, H, W) in [0, 1] and their targets."""
        pixels = to_unit(random_hflip(images, generator))
        if self.crop_area < 1:
            pixels = random_resized_crop(pixels, generator, self.crop_area)
        if self.paste_scale > 0:
            pixels, targets = paste(pixels, targets, generator, scale=self.paste_scale, least_label=LABELLED)
        return pixels, targets


@dataclass(frozen=True)
class FinalObjective:
    """Label loss of the weak view + lambda * consistency of a strong view (method section 8).

    ``consistency_weight``: lambda; with 0 the strong view is not computed. ``color_jitter``: strength of brightness,
    contrast, saturation and hue; at most 0.5. The paper's ``weak`` is a flip and its ``loss`` plain BCE.
    ``rand_augment``: operations of `ccd.student.transforms.rand_augment` in its place; 0: none.
    """

    consistency_weight: float
    color_jitter: float
    weak: WeakView = WeakView()
    loss: LabelLoss = LabelLoss()
    rand_augment: int = 0

    def __call__(self, student: Forward, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
        """See `Objective`; the strong view has a flip of its own."""
        pixels, labels = self.weak(images, targets, generator)
        logits, _ = student(pixels)  # (b, C)
        loss = self.loss(logits, labels)
        parts = {"bce": loss.detach()}
        if self.consistency_weight == 0:
            return Outcome(loss, parts, logits.detach())
        pasted = self.weak.paste_scale > 0  # then it must be in both views
        strong = random_hflip(pixels, generator) if pasted else to_unit(random_hflip(images, generator))
        strong_logits, _ = student(self._distorted(strong, generator))  # (b, C)
        agreement = consistency(strong_logits, logits.detach())
        loss = loss + self.consistency_weight * agreement
        return Outcome(loss, {**parts, "consistency": agreement.detach()}, logits.detach())

    def _distorted(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        if self.rand_augment > 0:
            return rand_augment(pixels, generator, self.rand_augment)
        x = self.color_jitter
        return color_jitter(pixels, generator, brightness=x, contrast=x, saturation=x, hue=x)


@dataclass(frozen=True)
class GradientAlignment:
    """CDUL's training (ICCV 2023, section 3.2): ``objective``, and then its targets take a step towards the student.

    The network's step is on the labels as they are, the labels' on the predictions as they were. CDUL minimises
    KL(label || prediction) in turn over both; for the network that is BCE, which differs by the labels' own entropy.
    """

    objective: Objective
    sigma: float

    def __call__(self, student: Forward, images: Tensor, targets: Tensor, generator: torch.Generator) -> Outcome:
        """See `Objective`."""
        outcome = self.objective(student, images, targets, generator)
        return replace(outcome, targets=aligned_labels(targets, outcome.logits, self.sigma))


def aligned_labels(labels: Tensor, logits: Tensor, sigma: float) -> Tensor:
    """One update of the labels (CDUL, eqs. 7 and 8): ``u <- u - psi(y) dL/dy`` for the latent u of ``y = s(u)``.

    L is KL(y || s(z)) of each image and class, whose gradient in y is ``u - z``; psi is the density of the normal
    distribution with mean 0.5 and standard deviation ``sigma``: an undecided label moves most. CDUL does not state its
    sigma.

    Args:
        labels: (b, C) float32 y in [0, 1].
        logits: (b, C) float z of the student.

    Returns:
        (b, C) float32 in [0, 1].
    """
    latent = torch.logit(labels, eps=1e-6)
    density = torch.exp(-0.5 * ((labels - 0.5) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return torch.sigmoid(latent - density * (latent - logits.float()))


def final_objective(params: TrainParams) -> Objective:
    """Return the objective of the final training; ``label_update_sigma``: of `GradientAlignment`, None: labels stay."""
    fixed = FinalObjective(
        params.consistency_weight,
        params.color_jitter,
        WeakView(params.crop_area, params.paste_scale),
        LabelLoss(params.doubt_power, params.rejected_negatives),
        params.rand_augment,
    )
    return fixed if params.label_update_sigma is None else GradientAlignment(fixed, params.label_update_sigma)


def lr_factor(schedule: Schedule, done: float) -> float:
    """Return the factor on every learning rate when the share ``done`` in [0, 1) of all steps is done.

    ``constant`` (the paper): 1. ``cosine``: (1 + cos(pi * done)) / 2, from 1 to 0.
    """
    return 1.0 if schedule == "constant" else (1.0 + math.cos(math.pi * done)) / 2.0
