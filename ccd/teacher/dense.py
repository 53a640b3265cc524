"""Embeddings of image patches in CLIP's joint space, from the very pass that gives the image's embedding.

- ViT (OpenAI's and open_clip's): SCLIP (Wang et al., ECCV 2024). The last block reads its patches with the attention
  weights softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d), per head; the rest of it, ln_post and the projection as
  they are. The refinements of SC-CLIP are not built.
- ResNet with attention pool: MaskCLIP (Zhou et al., ECCV 2022). The pool's value and output projections at every cell.
- Trunk of convolutions with average pool: what follows the pool, at every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ccd.errors import CcdError
from ccd.teacher.clip_teacher import ImageTower, Teacher
from ccd.teacher.encode import encoding
from ccd.views.regions import group_cells, packed, region_views

Look = Callable[[Tensor], Tensor]
"""From the input of a module (of the last block, or of the pool) to patch embeddings (b, D, h, w)."""


@dataclass(frozen=True)
class WithRegions:
    """A teacher that gives an image's embedding and its regions as one row, see `ccd.views.regions.packed`.

    ``regions``: the largest number of them in an image, k; 0: none, rows are embeddings (b, D).

    Raises:
        CcdError: k > 0, and the teacher's tower gives no patch embeddings.
    """

    teacher: Teacher
    regions: int

    def __post_init__(self) -> None:
        if self.regions:
            _place(self.teacher.tower, (1, 1))

    def encoding(self, **preprocessing: object) -> str:
        """Return the name of these rows in the store, see `ccd.teacher.encode.encoding`."""
        if not self.regions:
            return encoding(self.teacher, (), **preprocessing)
        return encoding(self.teacher, ("ccd.teacher.dense",), regions=self.regions, **preprocessing)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to rows (b, D + k * (4 + D)) float32 on the CPU; see `encode_dense` for errors."""
        if not self.regions:
            return self.teacher.encode_image(pixels)
        images, cells = encode_dense(self.teacher, pixels)
        labels = group_cells(cells, self.regions)
        return packed(images, *region_views(cells, images.to(cells.device), labels, self.regions))


def encode_dense(teacher: Teacher, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images and their patches in one pass.

    Args:
        pixels: (b, 3, h, w) uint8; h and w are multiples of the teacher's stride.

    Returns:
        The images' embeddings (b, D) float32 on the CPU, exactly those of ``teacher.encode_image``, and those of their
        patches (b, D, rows, columns) float32 on the teacher's device; all of unit length.

    Raises:
        CcdError: the tower gives no patch embeddings, or see `ccd.teacher.clip_teacher.Teacher.encode_image`.
    """
    tower = teacher.tower
    grid = (pixels.shape[-2] // tower.stride_px, pixels.shape[-1] // tower.stride_px)
    module, look = _place(tower, grid)
    with _looking(module, look) as seen:
        image = teacher.encode_image(pixels)
    return image, F.normalize(seen[0].float(), dim=1)


@contextmanager
def _looking(module: nn.Module, look: Look) -> Iterator[list[Tensor]]:
    """Yield a list that gets ``look`` of the module's first input, at its first call in the block.

    It is called inside the pass: with its precision, and its position embeddings.
    """
    seen: list[Tensor] = []

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        handle.remove()  # a tower of convolutions calls the module again
        seen.append(look(inputs[0]))

    handle = module.register_forward_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()


def _place(tower: ImageTower, grid: tuple[int, int]) -> tuple[nn.Module, Look]:
    """Return the module to look at and how, for a grid of rows and columns of patches.

    Raises:
        CcdError: there is none in this tower.
    """
    visual: Any = tower.module
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is not None and _is_plain(visual, blocks[-1]):
        return blocks[-1], lambda tokens: of_vit(visual, blocks[-1], tokens, grid)
    if hasattr(visual, "attnpool"):
        return visual.attnpool, lambda cells: of_attention_pool(visual.attnpool, cells)
    pools = [part for part in visual.modules() if getattr(part, "pool_type", None) == "avg" and part is not visual]
    trunk = getattr(visual, "trunk", None)
    has_maps = hasattr(trunk, "forward_head") and getattr(trunk, "output_fmt", "NCHW") == "NCHW"
    if has_maps and len(pools) == 1:
        return pools[0], lambda cells: of_average_pool(visual, cells)
    raise CcdError(
        f"the teacher's image tower ({type(visual).__name__}) gives no embeddings of patches; use a ViT or ResNet of "
        "OpenAI or open_clip or a trunk of convolutions with average pool, or set cam_boxes.views: cam and "
        "clip_global.regions: 0"
    )


def _is_plain(visual: Any, block: Any) -> bool:
    """Tell whether a transformer is built as OpenAI's: its attention as PyTorch has it, no further pool behind it."""
    attention = getattr(block, "attn", None)
    is_usual = isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None
    parts = all(hasattr(block, name) for name in ("ln_1", "ln_2", "mlp")) and hasattr(visual, "class_embedding")
    return is_usual and parts and getattr(visual, "attn_pool", None) is None


def of_vit(visual: Any, block: Any, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Send the patches of tokens (b, 1 + cells, E), or (1 + cells, b, E), through the last block and projection."""
    x: Tensor = tokens if block.attn.batch_first else tokens.transpose(0, 1)
    x = x + _scaled(block, "ls_1", self_attention(block.attn, block.ln_1(x)))
    x = x[:, 1:]
    x = x + _scaled(block, "ls_2", block.mlp(block.ln_2(x)))
    x = visual.ln_post(x)
    if visual.proj is not None:
        x = x @ visual.proj
    return x.transpose(1, 2).reshape(len(x), x.shape[2], *grid)


def _scaled(block: Any, name: str, x: Tensor) -> Tensor:
    """Apply open_clip's layer scale, if the block has one."""
    scale = getattr(block, name, None)
    return x if scale is None else scale(x)


def self_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Attend to like queries and like keys (SCLIP): (softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d)) v, per head.

    Args:
        x: (b, t, E) float, normalised tokens.

    Returns:
        (b, t, E), through the output projection.
    """
    joint = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    heads = joint.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # (3, b, heads, t, d)
    query, key, value = heads.unbind(0)
    mixed = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
    projected: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


def of_attention_pool(pool: Any, cells: Tensor) -> Tensor:
    """Send cells (b, C, h, w) through the value and output projections of an attention pool; no positions are added."""
    values: Tensor = pool.c_proj(pool.v_proj(cells.movedim(1, -1)))
    return values.movedim(-1, 1)


def of_average_pool(visual: Any, cells: Tensor) -> Tensor:
    """Send every cell of (b, C, h, w) through pool and head as if it were a whole map."""
    count, _, rows, columns = cells.shape
    each = cells.movedim(1, -1).flatten(0, 2)[:, :, None, None]  # (b * h * w, C, 1, 1)
    embedded: Tensor = visual.head(visual.trunk.forward_head(each))
    return embedded.view(count, rows, columns, -1).movedim(-1, 1)
