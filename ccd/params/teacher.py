"""Section ``teacher``: the frozen CLIP that labels the images (method section 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.base import Section


class TeacherParams(Section):
    """Shared by text, clip_global and clip_local; ``text`` depends on backend, model, pretrained and sha256 only."""

    section: ClassVar[str] = "teacher"
    paths: ClassVar[tuple[str, ...]] = ("model", "pretrained")
    backend: Literal["clip", "open_clip"]
    model: str = Field(min_length=1)
    pretrained: str | None
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    normalization: Literal["clip", "imagenet"]
    precision: Literal["fp32", "fp16", "bf16"]
