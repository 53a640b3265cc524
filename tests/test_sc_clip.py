"""SC-CLIP's refinements of a ViT's patches: each step by hand, then in the pass of tiny random towers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.errors import CcdError
from ccd.teacher import dense, sc_clip
from ccd.teacher.clip_teacher import Teacher
from ccd.teacher.dense import WithRegions, encode_dense, likeness_attention
from ccd.teacher.encode import load_teacher
from tests.toys.tiny_clip import save_fp16, tiny_clip

CPU = torch.device("cpu")


def noise(*shape: int) -> Tensor:
    """Random pixels."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def of_openai(folder: Path, kind: str, precision: str = "fp32", **changed: object) -> Teacher:
    path = save_fp16(tiny_clip(kind, **changed), folder / "clip.pt")
    return load_teacher("clip", str(path), None, device=CPU, precision=precision)  # type: ignore[arg-type]


def test_the_factor_of_outliers_by_hand() -> None:
    """Points 0, 1, 2, 10; two neighbours. k-distances 2, 1, 2, 9; means of the reach 3/2, 2, 3/2, 17/2."""
    line = torch.tensor([[[0.0], [1.0], [2.0], [10.0]], [[100.0], [90.0], [99.0], [98.0]]])
    expected = torch.tensor([[7 / 8, 4 / 3, 7 / 8, 119 / 24], [7 / 8, 119 / 24, 4 / 3, 7 / 8]])
    torch.testing.assert_close(sc_clip.outlier_factors(line, 2), expected)


def test_the_factor_is_that_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    points = np.random.default_rng(0).standard_normal((2, 49, 7)).astype(np.float32)
    points[1, 3] += 5
    found = sc_clip.outlier_factors(torch.from_numpy(points), 30).numpy()
    for each, factors in zip(points, found, strict=True):
        known = -neighbors.LocalOutlierFactor(n_neighbors=30).fit(each).negative_outlier_factor_
        np.testing.assert_allclose(factors, known, rtol=1e-4)
    assert found[1].argmax() == 3


@pytest.mark.parametrize("count", [1, 2, 40])
def test_patches_that_are_all_alike_have_no_outliers(count: int) -> None:
    patches = torch.full((2, count, 3), 0.7)
    torch.testing.assert_close(sc_clip.outlier_factors(patches, 30), torch.ones(2, count))
    assert not sc_clip.find_outliers(patches).any()


def test_outliers_are_the_patches_above_the_quantile() -> None:
    """Of 100 factors it lies between the 95th and the 96th; of one patch beside 99 equal ones it is the others' 1."""
    patches = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
    patches[0, 7] += 9
    patches[1] = 0.7
    patches[1, 19] += 9
    found = sc_clip.find_outliers(patches)
    assert found.sum(dim=1).tolist() == [5, 1] and found[0, 7] and found[1, 19]
    assert sc_clip.outlier_factors(patches, 30).argmax(dim=1).tolist() == [7, 19]


def test_an_outlier_becomes_the_mean_of_its_neighbours_that_are_none() -> None:
    cells = torch.arange(1.0, 13.0)  # three rows of four
    patches = torch.stack([cells, -cells], dim=1).repeat(3, 1, 1)
    outliers = torch.zeros(3, 12, dtype=torch.bool)
    outliers[0, 5] = True  # inside: 1 2 3 5 7 9 10 11
    outliers[1, [0, 1]] = True  # a corner, 5 6; and its neighbour on the edge, 3 5 6 7
    found = sc_clip.replaced(patches, outliers, (3, 4))
    torch.testing.assert_close(found[..., 0], -found[..., 1])
    torch.testing.assert_close(found[0, 5, 0], torch.tensor(6.0))
    torch.testing.assert_close(found[1, :2, 0], torch.tensor([5.5, 5.25]))
    assert torch.equal(found[~outliers], patches[~outliers])
    lost = torch.ones(3, 12, dtype=torch.bool)
    assert torch.equal(sc_clip.replaced(patches, lost, (3, 4)), patches), "outliers among outliers stay"


def test_patches_are_averaged_with_those_from_the_least_cosine_on() -> None:
    likeness = torch.tensor([[[1.0, 0.6, 0.39], [0.6, 1.0, 0.4], [0.39, 0.4, 1.0]]])
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]]])
    expected = torch.tensor([[[0.625, 0.375], [1.3, 0.5], [25 / 7, 2 / 7]]])
    torch.testing.assert_close(sc_clip.averaged(patches, likeness), expected)


def test_cosines() -> None:
    found = sc_clip.cosines(torch.tensor([[[3.0, 4.0], [0.0, 2.0], [-6.0, -8.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.8, -1.0], [0.8, 1.0, -0.8], [-1.0, -0.8, 1.0]]]))


def test_weights_by_likeness() -> None:
    """Mean of the first image 4.6 / 9: 0.8 is above, 0 below, and e^(3 * 0.2) lies between 1 and 0.8."""
    likeness = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    alike = torch.ones(3, 3)
    large = 1 / (1 + np.exp(-0.6))
    expected = torch.tensor([[large, 1 - large, 0], [1 - large, large, 0], [0, 0, 1]], dtype=torch.float32)
    found = sc_clip.likeness_weights(torch.stack([likeness, alike]))
    torch.testing.assert_close(found, torch.stack([expected, alike / 3]))
    rounded = torch.tensor([[[1.0, 1.0], [1.0, 1.0 - 2**-23]]])
    assert sc_clip.likeness_weights(rounded - 2**-24).isfinite().all(), "no patch without any weight"


def test_attention_of_two_parts_by_hand() -> None:
    """One head of width 1, tokens 0 and 1: k = 3 x, v = x. By keys: softmax(0, 0) and softmax(0, 9)."""
    attention = nn.MultiheadAttention(1, 1, batch_first=True)
    weights = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.tensor([[2.0], [3.0], [1.0]]))
        attention.out_proj.weight.fill_(2)
        seen = likeness_attention(attention, torch.tensor([[[0.0], [1.0]]]), weights)[0, :, 0]
        one = likeness_attention(attention, torch.tensor([[[5.0]]]), torch.ones(1, 1, 1))
    torch.testing.assert_close(seen, torch.tensor([0.75 + 0.5, 0.0 + 0.99987661]))
    assert one.item() == 10, "one patch is its own value"


def test_attention_of_two_parts_where_it_must_be_the_plain_one() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 1, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight[:8] = attention.in_proj_weight[8:16]  # queries as keys; its biases are zero
        x = torch.randn(3, 5, 8)
        plain, weights = attention(x, x, x)
        torch.testing.assert_close(likeness_attention(attention, x, weights), plain, atol=1e-6, rtol=1e-5)
        even = likeness_attention(attention, x, torch.full((3, 5, 5), 0.2))
        means = F.linear(x, attention.in_proj_weight[16:]).mean(dim=1, keepdim=True)
        torch.testing.assert_close(2 * even - attention.out_proj(means), plain, atol=1e-6, rtol=1e-5)
        same = likeness_attention(attention, x[:, :1].expand(-1, 5, -1), weights)
        alone = likeness_attention(attention, x[:, :1], torch.ones(3, 1, 1))
        torch.testing.assert_close(same, alone.expand(-1, 5, -1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("depth", "layers"), [(12, [4, 9, 10]), (24, [8, 18, 20]), (6, [2, 5, 5]), (2, [1, 1, 1]), (1, [0, 0, 0])]
)
def test_layers_lie_at_the_same_share_of_the_depth(depth: int, layers: list[int]) -> None:
    assert [sc_clip.layer_of(number, depth) for number in (4, 9, 10)] == layers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (None, [[138.0, 18.0], [18.0, 138.0]]),
        (4, [[82.0, 82.0], [82.0, 82.0]]),  # what the block gives is averaged
        (9, [[127.0, 47.0], [47.0, 127.0]]),  # what the block takes is averaged
    ],
)
def test_the_steps_add_up(layer: int | None, expected: list[list[float]]) -> None:
    """Patches l (1, 0) and l (0, 1), class token (l, l) in layer l; in one layer both are l (1, 1). The block doubles.

    Without such a layer all likeness is each patch with itself: 2 * 11 of the last layer, 2 * 49 of the sum of 4 to
    10, and 0.3 of the class tokens, 11 + 49.
    """
    layers = [number * torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]]) for number in range(4, 12)]
    if layer is not None:
        layers[layer - 4] = torch.full((1, 3, 2), float(layer))
    given: list[Tensor] = []

    def attend(x: Tensor, weights: Tensor) -> Tensor:
        given.append(weights)
        return 2 * x

    found = sc_clip.refined(attend, layers, 12, (1, 2))
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(given[0], torch.full((1, 2, 2), 0.5) if layer == 9 else torch.eye(2)[None])
    assert torch.equal(*given), "both passes attend by the same likeness"


@pytest.mark.parametrize("layers", [1, 2, 12])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_image_is_embedded_as_always_and_every_patch_too(layers: int, precision: str, tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, "vit", precision, vision_layers=layers)
    for shape in ((3, 3, 16, 16), (3, 3, 96, 112)):
        pixels = noise(*shape)
        images, cells = encode_dense(teacher, pixels, "sc_clip")
        assert torch.equal(images, teacher.encode_image(pixels))
        assert cells.shape == (3, 16, shape[2] // 16, shape[3] // 16) and cells.dtype == torch.float32
        torch.testing.assert_close(cells.norm(dim=1), torch.ones_like(cells[:, 0]))
    assert (cells.flatten(2).std(dim=2) > 1e-4).any(), "patches differ"
    assert (cells - encode_dense(teacher, pixels)[1]).abs().max() > 0.01, "and are not SCLIP's"


def test_a_batch_is_its_images(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, "vit", vision_layers=12)
    pixels = noise(3, 3, 96, 96)
    _, cells = encode_dense(teacher, pixels, "sc_clip")
    alone = [encode_dense(teacher, each[None], "sc_clip")[1] for each in pixels]
    torch.testing.assert_close(cells, torch.cat(alone), atol=1e-5, rtol=0)


def test_the_block_attends_without_residual_and_feed_forward(tmp_path: Path) -> None:
    """Where attention gives nothing, every patch is the class tokens of layer 11 and of the sum of layers 4 to 10."""
    model = tiny_clip("vit", vision_layers=12)
    with torch.no_grad():
        model.visual.transformer.resblocks[-1].attn.out_proj.weight.zero_()
    teacher = load_teacher("clip", str(save_fp16(model, tmp_path / "clip.pt")), None, device=CPU)
    classes: list[Tensor] = []
    for block in list(teacher.tower.module.get_submodule("transformer.resblocks"))[:-1]:
        block.register_forward_hook(lambda _, inputs, output: classes.append(output[0]))
    _, cells = encode_dense(teacher, noise(2, 3, 32, 48), "sc_clip")
    with torch.no_grad():
        bias = 2 * model.visual.transformer.resblocks[-1].attn.out_proj.bias
        tokens = bias + 0.3 * (classes[10] + torch.stack(classes[3:10]).sum(dim=0))
        expected = F.normalize(model.visual.ln_post(tokens) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(cells, expected[:, :, None, None].expand(-1, -1, 2, 3), atol=1e-5, rtol=0)


def test_a_tower_of_open_clip_with_layer_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    config = tmp_path / "refined_vit.json"
    tower = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 16, "head_width": 32, "ls_init_value": 0.5}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(config.stem).state_dict(), tmp_path / "weights.pt")
    teacher = load_teacher("open_clip", str(config), str(tmp_path / "weights.pt"), device=CPU)
    pixels = noise(2, 3, 64, 96)
    images, cells = encode_dense(teacher, pixels, "sc_clip")
    assert torch.equal(images, teacher.encode_image(pixels)) and cells.shape == (2, 16, 4, 6)
    # twice the layer scale is twice the attention
    with torch.no_grad():
        teacher.tower.module.get_parameter("transformer.resblocks.2.ls_1.gamma").mul_(2)
    _, scaled = encode_dense(teacher, pixels, "sc_clip")
    with torch.no_grad():
        teacher.tower.module.get_parameter("transformer.resblocks.2.ls_1.gamma").div_(2)
    once = dense.likeness_attention
    monkeypatch.setattr(dense, "likeness_attention", lambda *given: 2 * once(*given))
    torch.testing.assert_close(encode_dense(teacher, pixels, "sc_clip")[1], scaled, atol=1e-5, rtol=0)
    assert not torch.allclose(scaled, cells, atol=1e-3)


def test_nothing_stays_behind_in_the_tower(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, "vit", vision_layers=4)
    encode_dense(teacher, noise(1, 3, 32, 32), "sc_clip")
    with pytest.raises(CcdError, match="33 x 32 px does not fit"):
        encode_dense(teacher, noise(1, 3, 33, 32), "sc_clip")
    assert not any(module._forward_pre_hooks for module in teacher.tower.module.modules())


def test_a_tower_that_is_no_vit_is_named(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, "resnet")
    with pytest.raises(CcdError, match=r"region_attention.*sc_clip.*\(ModifiedResNet\).*set it to sclip") as error:
        WithRegions(teacher, 4, "sc_clip")
    assert "\n" not in str(error.value)
    assert WithRegions(teacher, 0, "sc_clip").embed_image(noise(1, 3, 32, 32)).shape == (1, 16), "idle"


def test_rows_of_the_store_do_not_depend_on_the_batch_and_are_named_by_the_attention(tmp_path: Path) -> None:
    teacher = of_openai(tmp_path, "vit", vision_layers=4)
    encoder = WithRegions(teacher, 3, "sc_clip")
    pixels = noise(20, 3, 96, 96)
    rows = encoder.embed_image(pixels)
    assert torch.equal(rows[:, :16], teacher.encode_image(pixels)) and rows.isfinite().all()
    assert torch.equal(encoder.embed_image(pixels[:17])[:16], rows[:16])
    names = [WithRegions(teacher, 3, attention).encoding(image_size_px=96) for attention in ("sclip", "sc_clip")]
    assert names[0] != names[1]
    idle = [WithRegions(teacher, 0, attention).encoding(image_size_px=96) for attention in ("sclip", "sc_clip")]
    assert idle[0] == idle[1], "without regions nothing is encoded again"
