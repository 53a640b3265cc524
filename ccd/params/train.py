"""Section ``train``: the final training with the consistency loss (method section 8)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.optimization import OptimizationParams


class TrainParams(OptimizationParams):
    """``epochs`` counts the final training alone; the paper's 10 epochs include the warm-up's.

    ``label_update_sigma``: labels follow the student by CDUL's gradient alignment, with this width; null: they stay.
    """

    section: ClassVar[str] = "train"
    consistency_weight: float = Field(ge=0)
    color_jitter: float = Field(ge=0, le=0.5)
    checkpoint: Literal["early_stop", "last", "average"]
    label_update_sigma: float | None = Field(gt=0)
