"""Section ``text``: prompts and the scale of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from ccd.errors import CcdError, listed
from ccd.params.base import Section

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
Phrase = Annotated[str, Field(min_length=1)]


class TextParams(Section):
    """``class_texts`` replaces what CLIP reads for a class; several phrases are averaged.

    ``background_texts``: whole prompts of pictures without any class, for ``global_labels.none_rule: background``.
    """

    section: ClassVar[str] = "text"
    templates: list[Template] = Field(min_length=1)
    class_texts: dict[str, list[Phrase]]
    background_texts: list[Phrase]
    logit_scale: float | None = Field(gt=0, le=1000)


def chosen_texts(
    params: TextParams, names: Sequence[str], own: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """What CLIP reads for each class: ``class_texts`` where it names the class, else the data set's ``own`` texts.

    Raises:
        CcdError: ``class_texts`` names something that is no class.
    """
    unknown = [name for name in params.class_texts if name not in names]
    if unknown:
        raise CcdError(
            f"text.class_texts names {listed(unknown)}, not among the classes: {listed(names, 100)}; correct it"
        )
    return tuple(tuple(params.class_texts.get(name, texts)) for name, texts in zip(names, own, strict=True))
