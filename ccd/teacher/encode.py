"""Load the teacher, the frozen CLIP that labels the images, and send images and class names through it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import rank0_first
from ccd.runtime.store import fingerprint
from ccd.teacher import open_clip, openai
from ccd.teacher.clip_teacher import Backend, Normalization, Precision, Teacher

# Smaller batches take other kernels on CPUs, whose sums round otherwise: from this size on, an image's features do not
# depend on what else is in its batch.
SMALLEST_BATCH = 16
TEXTS_PER_BATCH = 256


@rank0_first()
def load_teacher(
    backend: Backend,
    model: str,
    pretrained: str | None,
    *,
    sha256: str | None = None,
    normalization: Normalization = "clip",
    precision: Precision = "fp32",
    device: torch.device,
) -> Teacher:
    """Load a frozen CLIP.

    Args:
        backend: ``clip`` (OpenAI's models) or ``open_clip`` (an extra).
        model: a name, or the path of a local checkpoint; with open_clip also of a config JSON or a folder.
        pretrained: open_clip's tag, or the path of the weights.
        sha256: checked if the weights are a local file.
        normalization: ``clip`` (the model's own pixel mean and std) or ``imagenet`` (the published code).
        precision: ``fp16`` needs a GPU.

    Raises:
        CcdError: an unknown name, a missing or wrong file, a failed download, a precision the device does not have.
    """
    if precision == "fp16" and device.type == "cpu":
        raise CcdError("teacher.precision fp16 needs a GPU: use fp32 or bf16 on the CPU")
    if backend == "open_clip":
        return open_clip.load(
            model, pretrained, sha256=sha256, normalization=normalization, precision=precision, device=device
        )
    if pretrained is not None:
        raise CcdError("teacher.pretrained is for the backend open_clip: leave it empty")
    return openai.load(model, sha256=sha256, normalization=normalization, precision=precision, device=device)


def encoding(teacher: Teacher, modules: tuple[str, ...] = (), **preprocessing: object) -> str:
    """Return the name of a teacher's features in the store: all that they depend on besides the pixels.

    ``modules``: dotted names of those that make them, besides the ones that every encoding uses.
    """
    return fingerprint(
        "features",
        ("ccd.teacher.encode", "ccd.views.crops", "ccd.images.batches", "ccd.runtime.hardware", *modules),
        teacher=[teacher.description, teacher.fingerprint],
        preprocessing=preprocessing,
    )


class ImageEncoder(Protocol):
    """A teacher, as far as images go, or `ccd.teacher.dense.WithRegions`."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to rows (b, D) float32 on the CPU."""
        ...


def encode_images(
    teacher: ImageEncoder, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed batches in their order.

    A batch of fewer than `SMALLEST_BATCH` images is filled up with copies, so that encoding all images or only some of
    them gives the same features, bit for bit on a CPU.

    Args:
        batches: (rows (b,) int64, pixels (b, 3, h, w) uint8), e.g. of `ccd.images.batches.image_batches`; a loader
            with workers decodes the next batches while this one is computed.
        names: the image of each row, for error messages.

    Yields:
        rows (b,) int64 and features (b, D) float32, a teacher's with unit rows.

    Raises:
        CcdError: the teacher gives NaN or Inf, naming the images.
    """
    for rows, pixels in batches:
        fill = SMALLEST_BATCH - len(pixels)
        filled = torch.cat([pixels, pixels[-1:].expand(fill, -1, -1, -1)]) if fill > 0 else pixels
        features = teacher.encode_image(filled)[: len(pixels)]
        bad = rows[~torch.isfinite(features).all(dim=1)].tolist()
        if bad:
            raise CcdError(
                f"the teacher gave NaN or Inf for {listed(names[row] for row in bad)}: try teacher.precision fp32, "
                "or other weights"
            )
        yield rows.numpy(), features.numpy()


def class_embeddings(teacher: Teacher, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """Embed each class: t_c, the normalised mean of the unit embeddings of every template with every text.

    Args:
        classes: the texts of each of the C classes; several are averaged.
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
