"""From class names to one text embedding per class (method section 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.teacher.base import Teacher

TEXTS_PER_BATCH = 256


def class_embeddings(teacher: Teacher, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """t_c: the mean of the unit embeddings of every template filled with every text of the class, normalised again.

    Args:
        classes: what CLIP reads for each of the C classes; several texts are averaged.
        templates: prompts such as ``a photo of the {}``.

    Returns:
        (C, D) float32, unit rows.

    Raises:
        CcdError: no class, template or text, a template without exactly one ``{}``, a prompt that is too long, or
            the teacher gives NaN or Inf.
    """
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise CcdError(f"a template must hold {{}} exactly once; wrong: {listed(map(repr, wrong)) or 'there is none'}")
    empty = [place for place, texts in enumerate(classes) if not texts]
    if empty or not classes:
        raise CcdError(f"every class needs a text; without one (from 0): {listed(empty) or 'there is no class'}")
    prompts = [
        (place, template.replace("{}", text))
        for place, texts in enumerate(classes)
        for template in templates
        for text in texts
    ]
    sums = torch.zeros((len(classes), teacher.embed_dim), dtype=torch.float64)
    for start in range(0, len(prompts), TEXTS_PER_BATCH):
        places, texts = zip(*prompts[start : start + TEXTS_PER_BATCH], strict=True)
        sums.index_add_(0, torch.tensor(places), teacher.encode_text(texts).double())
    means = F.normalize(sums, dim=1).float()
    broken = [texts[0] for texts, finite in zip(classes, torch.isfinite(means).all(dim=1), strict=True) if not finite]
    if broken:
        raise CcdError(f"the teacher gave NaN or Inf for the text of {listed(broken)}: try other weights")
    return means
