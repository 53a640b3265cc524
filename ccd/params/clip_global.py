"""Section ``clip_global``: CLIP's look at the whole image."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class ClipGlobalParams(Section):
    """``image_size_px``: side of the square the image is squashed to."""

    section: ClassVar[str] = "clip_global"
    image_size_px: int = Field(ge=16, le=4096)
