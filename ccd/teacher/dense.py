"""Embeddings of image patches in CLIP's joint space, from the very pass that gives the image's embedding.

- ViT (OpenAI's and open_clip's): SCLIP (Wang et al., ECCV 2024). The last block reads its patches with the attention
  weights softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d), per head; the rest of it, ln_post and the projection as
  they are. On demand refined as by SC-CLIP, see `ccd.teacher.sc_clip`.
- ResNet with attention pool: MaskCLIP (Zhou et al., ECCV 2022). The pool's value and output projections at every cell.
- Trunk of convolutions with average pool: what follows the pool, at every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.errors import CcdError
from ccd.teacher.clip_teacher import ImageTower, Teacher
from ccd.teacher.encode import encoding
from ccd.teacher.sc_clip import first_layer, refined
from ccd.views.regions import group_cells, packed, region_views

Attention = Literal["sclip", "sc_clip"]
Look = Callable[..., Tensor]
"""From the inputs of modules (of the last block, of the last ones, of the pool) to patch embeddings (b, D, h, w)."""


@dataclass(frozen=True)
class WithRegions:
    """A teacher that gives an image's embedding and its regions as one row, see `ccd.views.regions.packed`.

    ``regions``: the largest number of them in an image, k; 0: none, rows are embeddings (b, D). ``attention``: see
    `encode_dense`; idle without regions.

    Raises:
        CcdError: k > 0, and the teacher's tower gives no patch embeddings, or none by this attention.
    """

    teacher: Teacher
    regions: int
    attention: Attention = "sclip"

    def __post_init__(self) -> None:
        if self.regions:
            _place(self.teacher.tower, (1, 1), self.attention)

    def encoding(self, **preprocessing: object) -> str:
        """Return the name of these rows in the store, see `ccd.teacher.encode.encoding`."""
        if not self.regions:
            return encoding(self.teacher, (), **preprocessing)
        own = {"regions": self.regions, "attention": self.attention}
        return encoding(self.teacher, ("ccd.teacher.dense",), **own, **preprocessing)

    @property
    def device(self) -> torch.device:
        """The teacher's device."""
        return self.teacher.device

    @property
    def width(self) -> int:
        """Numbers in a row, D + k * (4 + D)."""
        return self.teacher.embed_dim + self.regions * (4 + self.teacher.embed_dim)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to rows (b, D + k * (4 + D)) float32; see `encode_dense` for errors.

        Rows with regions are on the CPU, others on the teacher's device, see
        `ccd.teacher.clip_teacher.Teacher.embed_image`.
        """
        if not self.regions:
            return self.teacher.embed_image(pixels)
        images, cells = encode_dense(self.teacher, pixels, self.attention)
        labels = group_cells(cells, self.regions)
        return packed(images, *region_views(cells, images.to(cells.device), labels, self.regions))


def encode_dense(teacher: Teacher, pixels: Tensor, attention: Attention = "sclip") -> tuple[Tensor, Tensor]:
    """Encode images and their patches in one pass.

    Args:
        pixels: (b, 3, h, w) uint8; h and w are multiples of the teacher's stride.
        attention: how a ViT reads its patches: as SCLIP, or with the refinements of SC-CLIP.

    Returns:
        The images' embeddings (b, D) float32 on the CPU, exactly those of ``teacher.encode_image``, and those of their
        patches (b, D, rows, columns) float32 on the teacher's device; all of unit length.

    Raises:
        CcdError: the tower gives no patch embeddings, or none by this attention, or see
            `ccd.teacher.clip_teacher.Teacher.encode_image`.
    """
    tower = teacher.tower
    grid = (pixels.shape[-2] // tower.stride_px, pixels.shape[-1] // tower.stride_px)
    modules, look = _place(tower, grid, attention)
    with _looking(modules, look) as seen:
        image = teacher.encode_image(pixels)
    return image, F.normalize(seen[0].float(), dim=1)


@contextmanager
def _looking(modules: Sequence[nn.Module], look: Look) -> Iterator[list[Tensor]]:
    """Yield a list that gets ``look`` of the modules' first inputs, of the first call of each in the block.

    The modules are called in their order; ``look`` is called inside the pass, before the last of them: with its
    precision, and its position embeddings.
    """
    seen: list[Tensor] = []
    inputs: list[Tensor] = []
    handles: dict[nn.Module, Any] = {}

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        handles.pop(module).remove()  # a tower of convolutions calls the module again
        inputs.append(given[0])
        if not handles:
            seen.append(look(*inputs))

    handles |= {module: module.register_forward_pre_hook(before) for module in modules}
    try:
        yield seen
    finally:
        for handle in handles.values():
            handle.remove()


def _place(tower: ImageTower, grid: tuple[int, int], attention: Attention) -> tuple[Sequence[nn.Module], Look]:
    """Return the modules to look at and how, for a grid of rows and columns of patches.

    Raises:
        CcdError: there are none in this tower.
    """
    visual: Any = tower.module
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is not None and _is_plain(visual, blocks[-1]):
        if attention == "sc_clip":
            return list(blocks)[first_layer(len(blocks)) :], lambda *layers: of_vit_refined(visual, layers, grid)
        return [blocks[-1]], lambda tokens: of_vit(visual, blocks[-1], tokens, grid)
    if attention == "sc_clip":
        raise CcdError(
            "clip_global.region_attention: sc_clip needs a teacher with a ViT built as OpenAI's, and this image tower "
            f"({type(visual).__name__}) is not; set it to sclip, or take another teacher"
        )
    if hasattr(visual, "attnpool"):
        return [visual.attnpool], lambda cells: of_attention_pool(visual.attnpool, cells)
    pools = [part for part in visual.modules() if getattr(part, "pool_type", None) == "avg" and part is not visual]
    trunk = getattr(visual, "trunk", None)
    has_maps = hasattr(trunk, "forward_head") and getattr(trunk, "output_fmt", "NCHW") == "NCHW"
    if has_maps and len(pools) == 1:
        return pools, lambda cells: of_average_pool(visual, cells)
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
    x = _batch_first(block, tokens)
    x = x + _scaled(block, "ls_1", self_attention(block.attn, block.ln_1(x)))
    x = x[:, 1:]
    x = x + _scaled(block, "ls_2", block.mlp(block.ln_2(x)))
    return _projected(visual, x, grid)


def of_vit_refined(visual: Any, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Send the patches of the last layers, tokens as in `of_vit`, through SC-CLIP's last block and the projection."""
    block = visual.transformer.resblocks[-1]

    def attend(x: Tensor, weights: Tensor) -> Tensor:
        return _scaled(block, "ls_1", likeness_attention(block.attn, block.ln_1(x), weights))

    tokens = [_batch_first(block, layer) for layer in layers]
    return _projected(visual, refined(attend, tokens, len(visual.transformer.resblocks), grid), grid)


def _batch_first(block: Any, tokens: Tensor) -> Tensor:
    return tokens if block.attn.batch_first else tokens.transpose(0, 1)


def _projected(visual: Any, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Send patches (b, cells, E) through the last norm and the projection, to (b, D, h, w)."""
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
    query, key, value = _heads(attention, x)
    mixed = F.scaled_dot_product_attention(query, query, value) + F.scaled_dot_product_attention(key, key, value)
    return _joined(attention, mixed)


def likeness_attention(attention: nn.MultiheadAttention, x: Tensor, weights: Tensor) -> Tensor:
    """Attend half by given weights, half to like keys (SC-CLIP): (weights + softmax(k k^T / sqrt d)) v / 2, per head.

    Args:
        x: (b, t, E) float, normalised tokens.
        weights: (b, t, t), the same for every head; rows add up to 1.

    Returns:
        (b, t, E), through the output projection.
    """
    _, key, value = _heads(attention, x)
    mixed = weights[:, None] @ value + F.scaled_dot_product_attention(key, key, value)
    return _joined(attention, mixed / 2)


def _heads(attention: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, ...]:
    """Return queries, keys and values (b, heads, t, d) of tokens (b, t, E)."""
    joint = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    return joint.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _joined(attention: nn.MultiheadAttention, mixed: Tensor) -> Tensor:
    """Send values (b, heads, t, d) through the output projection, to (b, t, E)."""
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
