"""The interface of a teacher, a CLIP for inputs of any size, and the grid of its position embeddings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision, computing

POSITIONS_KEPT = 16  # more than the shapes of views; RN50x64's at 640 px have 7 MB each


@dataclass(frozen=True)
class ImageTower:
    """An image tower and the place of its positional embedding.

    ``position``: name of the parameter, ``None`` for a tower without one; ``grid``: rows and columns it was trained
    on; ``stride_px``: pixels per cell. ``computed``: from another grid to the tower's buffers for it, by name.
    """

    module: nn.Module
    stride_px: int
    position: str | None
    grid: tuple[int, int]
    computed: Callable[[tuple[int, int]], Mapping[str, Tensor]] | None = None
    _tables: dict[tuple[tuple[int, int], torch.device], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (b, 3, h, w) float to features (b, D), not normalised.

        The interpolated embedding is passed in for this call alone: the tower never changes, so sizes may alternate.

        Raises:
            CcdError: h or w is not a positive multiple of the stride.
        """
        height_px, width_px = pixels.shape[-2:]
        if height_px % self.stride_px or width_px % self.stride_px or not height_px * width_px:
            raise CcdError(
                f"an image of {height_px} x {width_px} px does not fit the teacher's stride of {self.stride_px} px: "
                "use multiples of it"
            )
        grid = (height_px // self.stride_px, width_px // self.stride_px)
        swapped: dict[str, Tensor] = {}
        if self.position is not None:
            swapped[self.position] = self._position_at(grid)
        if self.computed is not None and grid != self.grid:
            swapped |= self.computed(grid)
        features = functional_call(self.module, swapped, (pixels,))
        # towers that also serve a captioning decoder return (pooled, tokens)
        pooled: Tensor = features[0] if isinstance(features, tuple) else features
        return pooled

    def _position_at(self, grid: tuple[int, int]) -> Tensor:
        """Return the embedding for a grid, interpolated once; the `POSITIONS_KEPT` used last are kept."""
        assert self.position is not None
        table = self.module.get_parameter(self.position)
        if grid == self.grid:
            return table
        key = (grid, table.device)
        found = self._tables.pop(key, None)
        self._tables[key] = interpolate_position(table.detach(), self.grid, grid) if found is None else found
        if len(self._tables) > POSITIONS_KEPT:
            del self._tables[next(iter(self._tables))]  # a dict keeps its keys in the order of their insertion
        return self._tables[key]


def interpolate_position(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Interpolate a positional embedding bilinearly over its grid; at its native size it is returned unchanged.

    Args:
        table: (..., K + h * w, D), K class tokens first, then the grid row by row. Class tokens are kept apart.
        native: h, w of the table. grid: the h, w wanted, square or not.

    Returns:
        (..., K + grid cells, D), float32 unless native.
    """
    if grid == native:
        return table
    rows, columns = native
    class_tokens = table.shape[-2] - rows * columns
    width = table.shape[-1]
    head, cells = torch.split(table.float(), [class_tokens, rows * columns], dim=-2)
    maps = cells.reshape(-1, rows, columns, width).permute(0, 3, 1, 2)  # (n, D, h, w)
    resized = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False, antialias=False)
    tokens = resized.flatten(2).transpose(1, 2).reshape(*table.shape[:-2], grid[0] * grid[1], width)
    return torch.cat([head, tokens], dim=-2)


Backend = Literal["clip", "open_clip"]
Normalization = Literal["clip", "imagenet"]
MeanStd = tuple[Sequence[float], Sequence[float]]


class Teacher(Protocol):
    """A frozen CLIP: images and texts to unit vectors of one space (method section 1)."""

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""

    @property
    def stride_px(self) -> int:
        """Heights and widths of images must be multiples of this: 32 for ResNets, the patch for ViTs."""

    @property
    def tower(self) -> ImageTower:
        """The image part, frozen, float32; its ``module`` is as its package built it."""

    @property
    def logit_scale(self) -> float:
        """The model's own s of softmax(s * cosine), about 100 for OpenAI's models."""

    @property
    def logit_bias(self) -> float | None:
        """The model's own b of sigmoid(s * cosine + b), None for a model that was not trained with a sigmoid."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: their names, shapes and float32 values; the same on every machine and device."""

    @property
    def description(self) -> str:
        """One line for a person: backend, model, pixel normalisation, precision."""

    @property
    def pixel_mean_std(self) -> MeanStd:
        """Mean and standard deviation per RGB channel, of pixels in [0, 1], by which images are normalised."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to (T, D) float32 unit rows on the CPU. Raises CcdError naming texts that would be truncated."""

    @property
    def device(self) -> torch.device:
        """The device that holds the model."""

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to (b, D) float32 unit rows on ``device``; a GPU is not waited for.

        Raises CcdError unless h and w are multiples of ``stride_px``.
        """

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the rows of `embed_image` on the CPU."""


CLIP_MEAN_STD: MeanStd = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_MEAN_STD: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def mean_std(normalization: Normalization, of_the_model: MeanStd) -> MeanStd:
    """Return pixel mean and std: ``clip`` as the model was trained, ``imagenet`` as in the published code (a slip)."""
    return of_the_model if normalization == "clip" else IMAGENET_MEAN_STD


# texts are tokenized this many times too wide, so that what would have been cut off shows
WIDE = 8
IMAGE_HALF = "visual."  # so begin the names of its weights; all others belong to the text half


class ClipTeacher:
    """See `Teacher`. Takes over ``model``: frozen, in eval mode, float32, on ``device``.

    ``model``: a module with ``encode_text``, ``context_length`` unless given, and its image part ``visual``, ``tower``.
    ``tokenize(texts, width)`` -> (T, width) token ids, padded, longer texts truncated.
    ``weights``: the state dict, of any precision and perhaps mapped from a file, of a model that is `unfilled`.
    Each half, images or texts, gets its own at its first use: a stage uses one of them. ``identify`` returns the
    fingerprint, given the function that computes it from the weights; it may know it already.

    Lower precisions are autocast on the image tower: weights, residual stream and layer norms stay float32. Texts are
    always encoded in float32.
    """

    def __init__(
        self,
        model: Any,
        tower: ImageTower,
        tokenize: Callable[[list[str], int], Tensor],
        *,
        embed_dim: int,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Precision,
        device: torch.device,
        description: str,
        context_length: int | None = None,
        weights: Mapping[str, Tensor] | None = None,
        identify: Callable[[Callable[[], str]], str] | None = None,
    ) -> None:
        self.embed_dim = embed_dim
        self.stride_px = tower.stride_px
        self.description = description
        self.pixel_mean_std: MeanStd = (mean, std)
        self._model = model.eval().requires_grad_(False)
        if weights is None:
            # channels last: a quarter faster for ResNets, indifferent for ViTs
            self._model.float().to(device, memory_format=torch.channels_last)
        self._weights = self._model.state_dict() if weights is None else weights
        self._has_images = self._has_texts = weights is None
        self._identify = identify
        self._tower = tower
        self._tokenize = tokenize
        self._context_length = int(model.context_length if context_length is None else context_length)
        self.device = device
        self._precision = precision
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    @property
    def tower(self) -> ImageTower:
        """The image half; its weights are loaded at the first use."""
        if not self._has_images:
            self._load(lambda name: name.startswith(IMAGE_HALF), [self._tower.module])
            self._has_images = True
        return self._tower

    @property
    def logit_scale(self) -> float:
        """Return exp of the model's learned logarithm."""
        return math.exp(float(self._weights["logit_scale"].float()))

    @property
    def logit_bias(self) -> float | None:
        """Return the model's own, if it has one."""
        return float(self._weights["logit_bias"].float()) if "logit_bias" in self._weights else None

    @cached_property
    def fingerprint(self) -> str:
        """Hash all weights at the first use, unless the hash is known; this takes seconds for the largest models."""
        return self._hashed() if self._identify is None else self._identify(self._hashed)

    def _hashed(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._weights.items()):
            values = (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous().numpy()
            little_endian = values.astype("<f4" if tensor.is_floating_point() else "<i8", copy=False)
            digest.update(f"{name} {list(tensor.shape)}\n".encode())
            digest.update(little_endian.data)
        return digest.hexdigest()

    def _load(self, is_of_half: Callable[[str], bool], parts: Iterable[nn.Module]) -> None:
        """Give one half its weights, in memory of their own: the file they come from may change."""
        weights = {name: _own(value, self.device) for name, value in self._weights.items() if is_of_half(name)}
        self._model.load_state_dict(weights, strict=False, assign=True)
        for part in parts:
            part.to(self.device)  # its buffers that are no weights

    def _text_model(self) -> Any:
        """Return the model with the weights of its text half."""
        if not self._has_texts:
            parts = [part for part in self._model.children() if part is not self._tower.module]
            self._load(lambda name: not name.startswith(IMAGE_HALF), parts)
            for name, buffer in self._model.named_buffers(recurse=False):
                setattr(self._model, name, buffer.to(self.device))
            self._has_texts = True
        return self._model

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """See :meth:`ccd.teacher.clip_teacher.Teacher.encode_text`."""
        model = self._text_model()
        width = self._context_length
        tokens = self._tokenize(list(texts), WIDE * width)
        # every row ends in padding, unless it is longer still: then its last token differs from those before
        cut = (tokens[:, width:] != tokens[:, -1:]).any(dim=1).tolist()
        if any(cut):
            long = listed(repr(text[:200]) for text, is_cut in zip(texts, cut, strict=True) if is_cut)
            raise CcdError(f"longer than the {width} tokens CLIP can read; shorten the class text or template: {long}")
        features = model.encode_text(tokens[:, :width].to(self.device))
        return F.normalize(features.float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_image(self, pixels: Tensor) -> Tensor:
        """See :meth:`ccd.teacher.clip_teacher.Teacher.embed_image`."""
        batch = pixels.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
        with computing(self.device, self._precision):
            features = self.tower(batch.div_(255).sub_(self._mean).div_(self._std))
        return F.normalize(features.float(), dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """See :meth:`ccd.teacher.clip_teacher.Teacher.encode_image`."""
        return self.embed_image(pixels).cpu()


def _own(value: Tensor, device: torch.device) -> Tensor:
    """Return a copy on the device, float32 where it is floating; convolutions channels last."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    memory_format = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return value.detach().to(device).to(dtype, copy=True, memory_format=memory_format)
