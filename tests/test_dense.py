"""Patch embeddings of every kind of tower, from the pass that gives the image's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.errors import CcdError
from ccd.images.batches import ImageFiles, image_batches
from ccd.teacher.clip_teacher import Teacher
from ccd.teacher.dense import WithRegions, encode_dense, of_average_pool, self_attention
from ccd.teacher.encode import encoding, load_teacher
from tests.toys.tiny_clip import save_fp16, tiny_clip

CPU = torch.device("cpu")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
TOWERS = {
    "vit": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32, "ls_init_value": 0.5},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "average": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "norm": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "timm_vit": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160},
}


def noise(*shape: int) -> Tensor:
    """Random pixels."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def of_openai(folder: Path, model: Any, **options: Any) -> Teacher:
    return load_teacher("clip", str(save_fp16(model, folder / "clip.pt")), None, device=CPU, **options)


def of_open_clip(folder: Path, kind: str) -> Teacher:
    open_clip = pytest.importorskip("open_clip")
    config = folder / f"dense_{kind}.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": TOWERS[kind], "text_cfg": TEXT}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(config.stem).state_dict(), folder / "weights.pt")
    return load_teacher("open_clip", str(config), str(folder / "weights.pt"), device=CPU)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_image_is_embedded_as_always_and_every_patch_too(kind: str, precision: str, tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, tiny_clip(kind), precision=precision)
    for shape in ((3, 3, 64, 64), (2, 3, 64, 96)):  # a grid of 2 x 2 or 4 x 4, and one that no weights were trained for
        pixels = noise(*shape)
        images, cells = encode_dense(teacher, pixels)
        assert torch.equal(images, teacher.encode_image(pixels))
        assert cells.shape == (shape[0], 16, shape[2] // teacher.stride_px, shape[3] // teacher.stride_px)
        assert cells.dtype == torch.float32 and not cells.requires_grad
        torch.testing.assert_close(cells.norm(dim=1), torch.ones_like(cells[:, 0]))
        assert (cells.flatten(2).std(dim=2) > 1e-4).any(), "patches differ"


@pytest.mark.parametrize("kind", ["vit", "resnet", "average", "norm"])
def test_towers_of_open_clip(kind: str, tmp_path: Path) -> None:
    teacher = of_open_clip(tmp_path, kind)
    pixels = noise(2, 3, 64, 96)
    images, cells = encode_dense(teacher, pixels)
    assert torch.equal(images, teacher.encode_image(pixels))
    assert cells.shape == (2, 16, 64 // teacher.stride_px, 96 // teacher.stride_px)
    torch.testing.assert_close(cells.norm(dim=1), torch.ones_like(cells[:, 0]))


def test_nothing_stays_behind_in_the_tower(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, tiny_clip("vit"))
    before = teacher.fingerprint
    encode_dense(teacher, noise(1, 3, 32, 32))
    with pytest.raises(CcdError, match="33 x 32 px does not fit"):
        encode_dense(teacher, noise(1, 3, 33, 32))
    assert not any(module._forward_pre_hooks for module in teacher.tower.module.modules())
    assert load_teacher("clip", str(tmp_path / "clip.pt"), None, device=CPU).fingerprint == before


def test_a_tower_without_patches_is_named(tmp_path: Path) -> None:
    teacher = of_open_clip(tmp_path, "timm_vit")
    with pytest.raises(CcdError, match=r"TimmModel.*cam_boxes\.views: cam and clip_global\.regions: 0"):
        WithRegions(teacher, 4)
    assert WithRegions(teacher, 0).embed_image(noise(1, 3, 32, 32)).shape == (1, 16)


def test_like_queries_and_keys_attend_twice() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight[8:16] = attention.in_proj_weight[:8]  # keys as queries
        x = torch.randn(3, 5, 8)
        plain, _ = attention(x, x, x)  # its biases are zero
        torch.testing.assert_close(self_attention(attention, x), 2 * plain, atol=1e-6, rtol=1e-5)


def test_attention_by_hand() -> None:
    """One head of width 1, two tokens 0 and 1: q = 2 x, k = 3 x, v = x."""
    attention = nn.MultiheadAttention(1, 1, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.tensor([[2.0], [3.0], [1.0]]))
        attention.out_proj.weight.fill_(1)
        seen = self_attention(attention, torch.tensor([[[0.0], [1.0]]]))[0, :, 0]
        one = self_attention(attention, torch.tensor([[[5.0]]]))
    # token 0 is like both; token 1: softmax(0, 4) and softmax(0, 9)
    torch.testing.assert_close(seen, torch.tensor([1.0, 0.98201379 + 0.99987661]))
    assert one.item() == 10, "one token attends to itself, twice"


def test_the_rest_of_the_last_block_stays(tmp_path: Path) -> None:
    """Where attention adds nothing, the patches are what the usual block makes of them."""
    model = tiny_clip("vit")
    block = model.visual.transformer.resblocks[-1]
    with torch.no_grad():
        block.attn.out_proj.weight.zero_()
        block.attn.out_proj.bias.zero_()
    teacher = of_openai(tmp_path, model)
    seen: list[Tensor] = []
    last = teacher.tower.module.get_submodule("transformer.resblocks.1")
    last.register_forward_hook(lambda _, inputs, output: seen.append(output))
    _, cells = encode_dense(teacher, noise(2, 3, 32, 48))
    with torch.no_grad():
        expected = model.visual.ln_post(seen[0].transpose(0, 1)[:, 1:]) @ model.visual.proj
    torch.testing.assert_close(cells.flatten(2).transpose(1, 2), F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_a_map_of_one_cell_is_the_image_for_an_attention_pool(tmp_path: Path) -> None:
    model = tiny_clip("resnet")
    with torch.no_grad():
        model.visual.attnpool.positional_embedding.zero_()
    images, cells = encode_dense(of_openai(tmp_path, model), noise(2, 3, 32, 32))
    torch.testing.assert_close(cells[:, :, 0, 0], images, atol=1e-5, rtol=0)


def test_the_mean_of_the_cells_is_the_pooled_embedding(tmp_path: Path) -> None:
    visual: Any = of_open_clip(tmp_path, "average").tower.module
    pixels = noise(2, 3, 64, 96) / 255
    with torch.no_grad():
        cells = of_average_pool(visual, visual.trunk.forward_features(pixels))
        torch.testing.assert_close(cells.mean(dim=(2, 3)), visual(pixels), atol=1e-5, rtol=1e-5)


def test_rows_of_the_store_do_not_depend_on_the_batch_and_are_named_by_k(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, tiny_clip("vit"))
    encoder = WithRegions(teacher, 3)
    pixels = noise(20, 3, 64, 64)
    rows = encoder.embed_image(pixels)
    assert rows.shape == (20, 16 + 3 * (4 + 16)) and rows.dtype == torch.float32
    assert torch.equal(rows[:, :16], teacher.encode_image(pixels))
    assert torch.equal(encoder.embed_image(pixels[:17])[:16], rows[:16])
    names = [WithRegions(teacher, count).encoding(image_size_px=64) for count in (0, 3, 4)]
    assert len(set(names)) == 3 and names[0] == encoding(teacher, image_size_px=64)


@pytest.mark.shared
def test_the_cells_of_a_real_photo_add_up_to_its_embedding(shared_dir: Path) -> None:
    teacher = load_teacher("open_clip", str(shared_dir / "models/photo_clip"), None, device=CPU)
    photos = sorted((shared_dir / "data/voc_photos/JPEGImages").iterdir())[:2]
    ((_, pixels),) = image_batches(ImageFiles(photos), range(2), 320, 2, 0)
    images, cells = encode_dense(teacher, pixels)
    assert torch.equal(images, teacher.encode_image(pixels)) and cells.shape == (2, 256, 10, 10)
    likeness = torch.einsum("bd,bdhw->bhw", images, cells)
    assert (likeness.mean(dim=(1, 2)) > 0.4).all() and (
        likeness.amax(dim=(1, 2)) > likeness.mean(dim=(1, 2)) + 0.1
    ).all()
