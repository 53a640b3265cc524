"""The student network: a CNN backbone, class activation maps and logits in one pass (method section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccd.errors import CcdError, listed
from ccd.student.backbones import build_backbone, check_sides, side_step_px
from ccd.student.transforms import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class StudentSpec:
    """Description of a student, from which a checkpoint's weights restore it.

    ``image_size_px``: side of the square it was trained at. ``mean`` and ``std``: per RGB channel, of pixels in
    [0, 1]; the network applies them itself.
    """

    backbone: str
    classes: tuple[str, ...]
    cam_boost: float
    image_size_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, strings and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentSpec:
        """Read the values that `to_dict` returns. Raises CcdError if the keys are not exactly the fields."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise CcdError(f"this student's description has the keys {sorted(values)}, expected {sorted(expected)}")
        fixed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fixed)


class Student(nn.Module):
    """Backbone -> 1x1 convolution with bias -> class activation maps -> global average -> logits.

    The bias belongs to the map, as the classifier's belongs to the logit; it cancels in a min-max normalised map.
    """

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        classes: int,
        cam_boost: float,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, classes, kernel_size=1, bias=True)
        self.cam_boost = cam_boost
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the feature map (b, K, h, w) of a batch, see `forward`."""
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            pixels: (b, 3, H, W) float RGB in [0, 1], not normalised: the network does that.

        Returns:
            ``logits`` (b, C) float32, and ``cam`` (b, C, h, w) float32 with positive activations multiplied by
            ``cam_boost``; the logits are the spatial mean of ``cam``.
        """
        cam = self.head(self.features(pixels)).float()  # (b, C, h, w)
        cam = torch.where(cam > 0, cam * self.cam_boost, cam)
        return cam.mean(dim=(2, 3)), cam


def build_student(spec: StudentSpec, weights: str | Path | Mapping[str, Tensor], seed: int) -> Student:
    """Build a student before training; its head (and a random backbone) are drawn from ``seed``.

    ``weights``: as in `build_backbone`.

    Raises:
        CcdError: no classes, or what `build_backbone` raises.
    """
    if not spec.classes:
        raise CcdError("a student needs at least one class")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, channels = build_backbone(spec.backbone, weights)
        check_sides(spec.backbone, side_step_px(backbone), spec.image_size_px)
        student = Student(backbone, channels, len(spec.classes), spec.cam_boost, mean=spec.mean, std=spec.std)
    generator = torch.Generator().manual_seed(seed)
    bound = channels**-0.5
    with torch.no_grad():
        student.head.weight.uniform_(-bound, bound, generator=generator)
        student.head.bias.zero_()  # type: ignore[union-attr]
    return student


def restore_student(spec: StudentSpec, state_dict: Mapping[str, Tensor]) -> Student:
    """Restore the trained student of a checkpoint; nothing is downloaded.

    Raises:
        CcdError: the weights do not belong to ``spec``.
    """
    student = build_student(spec, "none", seed=0)
    own = student.state_dict()
    wrong = sorted(own.keys() ^ state_dict.keys())
    wrong += [key for key in own if key in state_dict and own[key].shape != state_dict[key].shape]
    if wrong:
        raise CcdError(
            f"the weights do not belong to a {spec.backbone} with {len(spec.classes)} classes; "
            f"missing, unexpected or of another shape: {listed(wrong)}"
        )
    student.load_state_dict(state_dict)
    return student
