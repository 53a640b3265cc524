"""Section ``text``: prompts and the scale of the scores."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ccd.params.base import Section

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
Phrase = Annotated[str, Field(min_length=1)]


class TextParams(Section):
    """``class_texts`` replaces what CLIP reads for a class; several phrases are averaged."""

    section: ClassVar[str] = "text"
    templates: list[Template] = Field(min_length=1)
    class_texts: dict[str, list[Phrase]]
    logit_scale: float | None = Field(gt=0, le=1000)
