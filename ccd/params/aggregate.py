"""Section ``aggregate``: global and local labels become one (method section 7)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class AggregateParams(Section):
    """``alpha`` is the weight of the global label; 1 uses no local view. ``contest*``: see `ccd.views.contest`.
    ``correction_weight``: w of y <- (1 - w) * y + w * c, where a person decided c; 1 takes their word, 0 ignores it."""

    section: ClassVar[str] = "aggregate"
    alpha: float = Field(ge=0, le=1)
    contest: bool
    contest_iou: float = Field(gt=0, le=1)
    correction_weight: float = Field(ge=0, le=1)

    @property
    def least_contest_iou(self) -> float | None:
        """``contest_iou`` where views are contested, else None."""
        return self.contest_iou if self.contest else None
