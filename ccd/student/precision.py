"""Number formats of the forward pass; weights and optimizer state stay float32."""

from __future__ import annotations

from typing import Literal

import torch

from ccd.errors import CcdError

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass.

    Raises:
        CcdError: fp16 without a GPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise CcdError(f"precision fp16 needs a GPU, the device is {device}; use fp32 or bf16")
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")
