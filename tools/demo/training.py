"""Shared by the demo's two training commands: learning rate, parameter groups, saving weights."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccd.artifacts.files import replacing


def cosine_lr(peak: float, step: int, steps: int) -> float:
    """Return the learning rate: a linear rise over the first 5 % of the steps, then half a cosine down to zero."""
    rise = max(1, steps // 20)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group the trainable parameters for AdamW: matrices and kernels decay, gains, biases and embeddings do not."""
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decays = [weight for name, weight in trainable if weight.ndim > 1 and "embedding" not in name]
    keeps = [weight for name, weight in trainable if weight.ndim <= 1 or "embedding" in name]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": keeps, "weight_decay": 0.0}]


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with all floating tensors in fp16."""
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor.clone()
        for name, tensor in weights.items()
    }


def save_state_dict(weights: Mapping[str, Tensor], out: Path) -> None:
    """Write an fp16 state dict, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(halved(weights), buffer)
    _write(buffer, out)


def save_clip_archive(weights: Mapping[str, Tensor], out: Path) -> None:
    """Write fp16 weights as a TorchScript archive without code, the form in which `clip.load` takes a local file.

    (`clip.load` fails on a plain state dict: it tries that second, after the first try read the file to its end.)
    """
    root = nn.Module()
    for name, tensor in halved(weights).items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(leaf, tensor)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(root), buffer)
    _write(buffer, out)


def _write(buffer: io.BytesIO, out: Path) -> None:
    with replacing(out) as temporary:
        temporary.write_bytes(buffer.getbuffer())
