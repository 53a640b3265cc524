"""Section ``aggregate``: global and local labels become one (method section 7)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class AggregateParams(Section):
    """``alpha`` is the weight of the global label; 1 uses no local view."""

    section: ClassVar[str] = "aggregate"
    alpha: float = Field(ge=0, le=1)
