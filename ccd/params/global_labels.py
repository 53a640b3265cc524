"""Section ``global_labels``: the label of the whole image (method section 3)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from ccd.params.base import Section


class GlobalLabelsParams(Section):
    """``floor`` is eps of clip(max(p, eps) / b, 0, 1); aggregate uses it for the local label too.

    ``none_*``: see `ccd.labels.none_images`; without a rule the other two are idle.
    """

    section: ClassVar[str] = "global_labels"
    floor: float = Field(ge=0, lt=1)
    none_rule: Literal["off", "entropy", "max_prob", "background"]
    none_threshold: float | None = Field(ge=0)
    none_weight: float = Field(ge=0, le=1)

    @field_validator("none_threshold")
    @classmethod
    def _fits_the_rule(cls, value: float | None, info: ValidationInfo) -> float | None:
        rule = info.data.get("none_rule", "off")
        if rule != "off" and value is None:
            raise ValueError(f"none_rule: {rule} needs a threshold")
        if rule in ("max_prob", "background") and value is not None and value > 1:
            raise ValueError(f"none_rule: {rule} compares probabilities, so it is at most 1")
        return value
