"""Section ``clip_local``: CLIP's look at the local views (method section 6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.base import Section


class ClipLocalParams(Section):
    """``source``: cut the view from the original file, or from the image squashed to
    ``resized_px`` (published code)."""

    section: ClassVar[str] = "clip_local"
    image_size_px: int = Field(ge=16, le=4096)
    source: Literal["original", "resized"]
    resized_px: int = Field(ge=16, le=4096)
