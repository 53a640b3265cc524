"""Random CLIP models of OpenAI's architecture, small enough for tests."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch
from clip.model import CLIP

# a grid of 2 x 2 at the native size, for both kinds of tower
RESNET = {"image_resolution": 64, "vision_layers": (1, 1, 1, 1), "vision_width": 8, "vision_patch_size": None}
VIT = {"image_resolution": 32, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 16}
TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 64,
    "transformer_heads": 1,
    "transformer_layers": 1,
}
TOWERS = {"resnet": RESNET, "vit": VIT}


def tiny_clip(kind: str, **changed: object) -> CLIP:
    """A random model, float32 holding values that fp16 can hold, as in OpenAI's checkpoints."""
    torch.manual_seed(0)
    model = CLIP(embed_dim=16, **{**TOWERS[kind], **TEXT, **changed}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bn3.weight", "positional_embedding")):
                torch.nn.init.normal_(parameter)
            parameter.copy_(parameter.half().float())
    return model


@cache
def checkpoint(kind: str) -> bytes:
    """What `save_fp16` writes of `tiny_clip`."""
    stream = io.BytesIO()
    _save(tiny_clip(kind), stream)
    return stream.getvalue()


def save_fp16(model: CLIP, path: Path) -> Path:
    """Save the weights as fp16 state dict."""
    _save(model, path)
    return path


def _save(model: CLIP, to: Path | BinaryIO) -> None:
    weights = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    torch.save(weights, to)
