"""Section ``warmup``: the student network and its first epochs on the global labels (method section 4)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.optimization import OptimizationParams


class WarmupParams(OptimizationParams):
    """The student's architecture is decided here; later stages find it in the checkpoint."""

    section: ClassVar[str] = "warmup"
    paths: ClassVar[tuple[str, ...]] = ("weights",)
    backbone: str = Field(min_length=1)
    weights: str = Field(min_length=1)
    weights_sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    cam_boost: float = Field(gt=0, le=1000)
