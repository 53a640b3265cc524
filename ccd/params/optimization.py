"""What warmup and train both state about a training run (method sections 4 and 8)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ccd.params.base import Section


class OptimizationParams(Section):
    """Adam without schedule; the head learns ``head_lr_multiplier`` times faster."""

    image_size_px: int = Field(ge=16, le=4096)
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=65536)
    lr: float = Field(gt=0, le=1)
    head_lr_multiplier: float = Field(gt=0, le=1000)
    precision: Literal["fp32", "bf16", "fp16"]
    seed: int = Field(ge=0, lt=2**31)
