"""The student's losses (method section 8): from a batch of images and targets to a loss and its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


class Views(NamedTuple):
    """A batch as a step sees it: pixels (b, 3, H, W) float32 in [0, 1] and labels (b, C) of the ``weak`` view.

    ``strong``: pixels of the strong view, None without one; ``targets``: (b, C), the images' own, before `paste`.
    """

    weak: Tensor
    labels: Tensor
    strong: Tensor | None
    targets: Tensor


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
            rejected = (self.rejected_negatives * negative.sum(dtype=torch.float64)).floor()
            ranked = torch.where(negative, losses.detach(), -1.0).flatten().argsort(descending=True, stable=True)
            weights = weights * (ranked.argsort() >= rejected).view_as(weights)
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
class Objective:
    """What a step minimises: the label loss of the weak view + lambda * consistency of a strong view (section 8).

    As it is by default, BCE of a flipped image, it is the warm-up's (section 4). ``consistency_weight``: lambda; with 0
    there is no strong view. ``color_jitter``: strength of its brightness, contrast, saturation and hue; at most 0.5.
    ``rand_augment``: operations of `ccd.student.transforms.rand_augment` in its place; 0: none. ``label_update_sigma``:
    the targets take a step towards the student, see `aligned_labels`; None: they stay.
    """

    consistency_weight: float = 0.0
    color_jitter: float = 0.0
    weak: WeakView = WeakView()
    label_loss: LabelLoss = LabelLoss()
    rand_augment: int = 0
    label_update_sigma: float | None = None

    def views(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> Views:
        """Augment a batch; all random numbers of a step come from ``generator`` (CPU), here.

        Args:
            images: (b, 3, H, W) uint8, on the student's device. targets: (b, C) float in [0, 1].
        """
        weak, labels = self.weak(images, targets, generator)
        if self.consistency_weight == 0:
            return Views(weak, labels, None, targets)
        pasted = self.weak.paste_scale > 0  # then it must be in both views
        strong = random_hflip(weak, generator) if pasted else to_unit(random_hflip(images, generator))
        if self.rand_augment > 0:
            return Views(weak, labels, rand_augment(strong, generator, self.rand_augment), targets)
        x = self.color_jitter
        strong = color_jitter(strong, generator, brightness=x, contrast=x, saturation=x, hue=x)
        return Views(weak, labels, strong, targets)

    def __call__(self, student: Forward, views: Views) -> Outcome:
        """Compute the loss: tensors alone, on their device and without waiting for it, so that a step can be captured.

        CDUL (ICCV 2023, section 3.2) minimises KL(label || prediction) in turn over the network and the labels; here
        the network's step is on the labels as they are, by BCE, which differs by their own entropy.
        """
        logits, _ = student(views.weak)  # (b, C)
        loss = self.label_loss(logits, views.labels)
        parts = {"bce": loss.detach()}
        if views.strong is not None:
            agreement = consistency(student(views.strong)[0], logits.detach())
            loss = loss + self.consistency_weight * agreement
            parts["consistency"] = agreement.detach()
        moved = None
        if self.label_update_sigma is not None:
            moved = aligned_labels(views.targets, logits.detach(), self.label_update_sigma)
        return Outcome(loss, parts, logits.detach(), moved)


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
    """Return the objective of the final training."""
    return Objective(
        params.consistency_weight,
        params.color_jitter,
        WeakView(params.crop_area, params.paste_scale),
        LabelLoss(params.doubt_power, params.rejected_negatives),
        params.rand_augment,
        params.label_update_sigma,
    )


def lr_factor(schedule: Schedule, done: float) -> float:
    """Return the factor on every learning rate when the share ``done`` in [0, 1) of all steps is done.

    ``constant`` (the paper): 1. ``cosine``: (1 + cos(pi * done)) / 2, from 1 to 0.
    """
    return 1.0 if schedule == "constant" else (1.0 + math.cos(math.pi * done)) / 2.0
