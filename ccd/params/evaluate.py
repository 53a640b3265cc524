"""Section ``evaluate``: how the classifier is measured (method section 9)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.base import Section


class EvaluateParams(Section):
    """Classes with fewer than ``min_positives`` positives are left out of every mean, and reported."""

    section: ClassVar[str] = "evaluate"
    difficult: Literal["ignore", "positive", "negative"]
    min_positives: int = Field(ge=1)

    def counted(self) -> tuple[Literal["ignore", "positive", "negative"], int]:
        """What is counted: difficult objects as, and classes from how many positives on."""
        return self.difficult, self.min_positives
