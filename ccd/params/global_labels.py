"""Section ``global_labels``: the label of the whole image (method section 3)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class GlobalLabelsParams(Section):
    """``floor`` is eps of clip(max(p, eps) / b, 0, 1); aggregate uses it for the local label too."""

    section: ClassVar[str] = "global_labels"
    floor: float = Field(ge=0, lt=1)
