"""The frozen CLIP that labels the images. Start at :func:`load_teacher`."""

from __future__ import annotations

import torch

from ccd import ranks
from ccd.errors import CcdError
from ccd.teacher import open_clip, openai
from ccd.teacher.base import Backend, Normalization, Precision, Teacher
from ccd.teacher.encode import encode_images, encoding
from ccd.teacher.text import class_embeddings

__all__ = [
    "Backend",
    "Normalization",
    "Precision",
    "Teacher",
    "class_embeddings",
    "encode_images",
    "encoding",
    "load_teacher",
]


@ranks.in_turn()
def load_teacher(
    backend: Backend,
    model: str,
    pretrained: str | None,
    *,
    sha256: str | None = None,
    normalization: Normalization = "clip",
    precision: Precision = "fp32",
    device: torch.device,
) -> Teacher:
    """Load a frozen CLIP.

    Args:
        backend: ``clip`` (OpenAI's models) or ``open_clip`` (an extra).
        model: a name, or the path of a local checkpoint; with open_clip also of a config JSON or a folder.
        pretrained: open_clip's tag, or the path of the weights.
        sha256: checked if the weights are a local file.
        normalization: ``clip`` (the model's own pixel mean and std) or ``imagenet`` (the published code).
        precision: ``fp16`` needs a GPU.

    Raises:
        CcdError: an unknown name, a missing or wrong file, a failed download, a precision the device does not have.
    """
    if precision == "fp16" and device.type == "cpu":
        raise CcdError("teacher.precision fp16 needs a GPU: use fp32 or bf16 on the CPU")
    if backend == "open_clip":
        return open_clip.load(
            model, pretrained, sha256=sha256, normalization=normalization, precision=precision, device=device
        )
    if pretrained is not None:
        raise CcdError("teacher.pretrained is for the backend open_clip: leave it empty")
    return openai.load(model, sha256=sha256, normalization=normalization, precision=precision, device=device)
