"""What the pipeline asks of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

Backend = Literal["clip", "open_clip"]
Normalization = Literal["clip", "imagenet"]
Precision = Literal["fp32", "fp16", "bf16"]


class Teacher(Protocol):
    """A frozen CLIP: images and texts to unit vectors of one space (method section 1)."""

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        ...

    @property
    def stride_px(self) -> int:
        """Heights and widths of images must be multiples of this: 32 for ResNets, the patch for ViTs."""
        ...

    @property
    def logit_scale(self) -> float:
        """The model's own s of softmax(s * cosine), about 100 for OpenAI's models."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: their names, shapes and float32 values; the same on every machine and device."""
        ...

    @property
    def description(self) -> str:
        """One line for a person: backend, model, pixel normalisation, precision."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(T, D) float32, unit rows, on the CPU. Raises CcdError naming the texts that the model would truncate."""
        ...

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) uint8 -> (b, D) float32, unit rows, on the CPU. Raises CcdError unless h and w are multiples of
        ``stride_px``."""
        ...
