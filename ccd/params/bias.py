"""Section ``bias``: CLIP's class bias (method section 2)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class BiasParams(Section):
    """``enabled: false`` sets every b_c to 1. ``shrinkage`` is k of b_c = (sum + k * mean_b) / (count + k)."""

    section: ClassVar[str] = "bias"
    enabled: bool
    max_entropy_nats: float = Field(gt=0)
    shrinkage: float = Field(ge=0)
