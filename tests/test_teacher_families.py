"""Every family of open_clip: from folders and the hub, towers of any shape, SigLIP's texts, and the whole chain."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ccd.artifacts import class_table, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS
from ccd.errors import CcdError
from ccd.runtime.console import md5_of
from ccd.teacher.clip_teacher import ClipTeacher, Teacher
from ccd.teacher.encode import load_teacher, sigmoid_bias
from ccd.teacher.open_clip import image_tower
from tests.toys.chain import CHAIN, prepare, run_stage, write_pictures
from tests.toys.commands import invoke
from tests.toys.open_clip_models import FAMILIES, write_model

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("transformers")

CPU = torch.device("cpu")
HALVES = (0.5, 0.5, 0.5)


def load(folder: Path) -> Teacher:
    return load_teacher("open_clip", str(folder), None, device=CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_models_own_embeddings(family: str, tmp_path: Path) -> None:
    model = write_model(family, tmp_path)
    teacher = load(tmp_path)
    assert teacher.embed_dim == FAMILIES[family]["embed_dim"]
    side_px = 224 if family == "siglip" else 64 if family == "clip_resnet" else 32
    pixels = torch.randint(0, 256, (2, 3, side_px, side_px), dtype=torch.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in teacher.pixel_mean_std)
    texts = ["a photo of the cat", "dog"]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts)
    with torch.no_grad():
        images = F.normalize(model.encode_image((pixels / 255 - mean) / std), dim=-1)
        words = F.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(teacher.encode_image(pixels), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.encode_text(texts), words, atol=1e-5, rtol=0)
    wide = teacher.encode_image(torch.zeros(1, 3, teacher.stride_px, 3 * teacher.stride_px, dtype=torch.uint8))
    assert wide.shape == (1, teacher.embed_dim) and torch.isfinite(wide).all()
    with pytest.raises(CcdError, match="longer than the"):
        teacher.encode_text(["dog " * 80])


def test_siglip_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Lower case without punctuation, once; its pixels, length, scale and bias."""
    write_model("siglip", tmp_path)
    teacher = load(tmp_path)
    plain, written = teacher.encode_text(["a photo of the cat", "A photo, of the Cat!"])
    assert torch.equal(plain, written)
    mean, std = teacher.pixel_mean_std
    assert (tuple(mean), tuple(std)) == (HALVES, HALVES)
    assert teacher.encode_text(["dog " * 15]).shape == (1, 192), "15 words and the end are 16 tokens"
    with pytest.raises(CcdError, match="longer than the 16 tokens"):
        teacher.encode_text(["dog " * 16])
    assert sigmoid_bias(teacher) == -10.0 and teacher.logit_scale == pytest.approx(1 / 0.07)


def test_a_softmax_model_has_no_sigmoid(tmp_path: Path) -> None:
    write_model("clip_vit", tmp_path)
    with pytest.raises(CcdError, match=r"text\.activation = sigmoid needs a teacher .*SigLIP"):
        sigmoid_bias(load(tmp_path))


def test_a_tokenizer_that_is_not_at_hand_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model("siglip", tmp_path)
    load(tmp_path).encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with monkeypatch.context() as changed:
        changed.setitem(sys.modules, "transformers", None)
        with pytest.raises(CcdError, match=r"tokenizer of .*pip install .*transformers"):
            load(tmp_path).encode_text(["dog"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CcdError, match=r"tokenizer of .*tokenizer\.json.*folder teacher\.model"):
        load(tmp_path).encode_text(["dog"])


def test_a_model_of_the_hub_is_that_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model("clip_vit", tmp_path)

    def download(repo_id: str, filename: str, **_: object) -> str:
        if repo_id != "someone/tiny" or not (tmp_path / filename).is_file():
            raise OSError(f"404: no {filename} in {repo_id}")
        return str(tmp_path / filename)

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", download)
    teacher = load_teacher("open_clip", "hf-hub:someone/tiny", None, device=CPU)
    assert teacher.fingerprint == load(tmp_path).fingerprint
    assert teacher.description == "open_clip someone/tiny, clip pixels, fp32"
    with pytest.raises(CcdError, match=r"hf-hub:someone/other cannot be fetched .*404.*hf download someone/other"):
        load_teacher("open_clip", "hf-hub:someone/other", None, device=CPU)
    with pytest.raises(CcdError, match=r"leave teacher\.pretrained empty"):
        load_teacher("open_clip", "hf-hub:someone/tiny", "openai", device=CPU)


def test_other_names_of_the_weights_in_a_folder(tmp_path: Path) -> None:
    model = write_model("clip_vit", tmp_path)
    fingerprint = load(tmp_path).fingerprint
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(CcdError, match=r"holds no open_clip_config\.json, or no open_clip_model\.safetensors"):
        load(tmp_path)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    assert load(tmp_path).fingerprint == fingerprint
    with pytest.raises(CcdError, match="of a model's folder, give the folder"):
        load_teacher("open_clip", str(tmp_path / "open_clip_config.json"), "weights.pt", device=CPU)


def test_pixels_of_a_name_with_a_local_file_are_its_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model("clip_vit", tmp_path)
    (tmp_path / "tiny_named.json").write_text(json.dumps(FAMILIES["clip_vit"]))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    named = (str(tmp_path / "tiny_named.json"), str(tmp_path / "weights.pt"))
    assert tuple(load_teacher("open_clip", *named, device=CPU).pixel_mean_std[0]) != HALVES
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["webli"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"mean": HALVES, "std": HALVES})
    assert load_teacher("open_clip", *named, device=CPU).pixel_mean_std == (HALVES, HALVES)


@pytest.mark.parametrize(
    ("trunk", "side_px", "stride_px"),
    [("vit_pe_core_tiny_patch16_384", 384, 16), ("eva02_tiny_patch14_224", 224, 14), ("vit_base_mci_224", 224, 16)],
)
def test_towers_of_timm_take_views_of_any_shape(trunk: str, side_px: int, stride_px: int) -> None:
    with torch.device("meta"):
        visual = open_clip.timm_model.TimmModel(trunk, 16, side_px, pool="avg", proj="linear").eval()
    tower = image_tower(visual.requires_grad_(False))
    assert tower.stride_px == stride_px
    for rows, columns in ((side_px // stride_px, side_px // stride_px), (2, 5)):
        assert tower(torch.zeros(1, 3, rows * stride_px, columns * stride_px, device="meta")).shape == (1, 16)


def test_rotary_positions_are_those_of_the_grid() -> None:
    """As timm computes them by itself for a trunk of dynamic size; the learnt positions, interpolated, are put out."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = {"num_classes": 16, "global_pool": "map"}
    dynamic = timm.create_model("vit_pe_core_tiny_patch16_384", dynamic_img_size=True, **settings).eval()
    visual = open_clip.timm_model.TimmModel("vit_pe_core_tiny_patch16_384", 16, 384, pool="map", proj=None).eval()
    with torch.no_grad():
        dynamic.pos_embed.zero_()
    visual.trunk.load_state_dict(dynamic.state_dict())
    pixels = torch.randn(1, 3, 32, 96)
    with torch.no_grad():
        torch.testing.assert_close(image_tower(visual)(pixels), dynamic(pixels), atol=1e-5, rtol=0)


def test_a_tower_of_one_size_is_refused() -> None:
    with torch.device("meta"):
        visual = open_clip.timm_model.TimmModel("swin_tiny_patch4_window7_224", 16, 224, pool="avg").eval()
    with pytest.raises(CcdError, match=r"SwinTransformer.* images of 224 px alone"):
        image_tower(visual)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_chain(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages by their own commands, both passes killed and gone on with; then the head, which keeps the teacher."""
    write_model(family, tmp_path / "model")
    teacher = {"teacher__backend": "open_clip", "teacher__model": "model", "text__logit_scale": "null"}
    softmax = {"text__activation": "sigmoid"} if family == "siglip" else {}
    off = {"bias__enabled": "false", "global_labels__floor": "0.0"} if family == "siglip" else {}
    batches = {"runtime__inference_batch_size": "4"}
    prepare(tmp_path, monkeypatch, "vit", **teacher, **softmax, **off, **batches)
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", ("red", "green", "blue"))
    for name in CHAIN:
        run_stage(name)
    for name in ("clip_global", "clip_local"):
        check_resumed(name, tmp_path, monkeypatch)
    content = text_file.read(tmp_path / "data/toy/text.h5")
    assert content.values.shape == (3, FAMILIES[family]["embed_dim"])
    assert content.logit_bias == (-10.0 if family == "siglip" else None)
    assert content.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    labels = class_table.read(tmp_path / "data/toy/global_labels.parquet", GLOBAL_LABELS).columns
    total = labels["prob"].sum(axis=1)
    assert (total < 0.9).all() if family == "siglip" else total == pytest.approx(1.0, abs=1e-5)
    done = invoke("predict", "data/toy/head.h5", "pictures", "--out", "labels.csv", "--workers", "0")
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 10
    pytest.importorskip("onnxruntime")
    done = invoke("export", "onnx", "head.onnx", "--student", "data/toy/head.h5", "--json")
    assert done.exit_code == 0, done.output  # refused if it is more than 1e-4 from PyTorch


def check_resumed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that dies at its second batch and is started again encodes the rest, and writes the same bytes."""
    out = folder / f"data/toy/{name}.h5"
    once = md5_of(out)
    out.unlink()
    shutil.rmtree(folder / ".ccd/store")
    embed = ClipTeacher.embed_image
    sizes: list[int] = []

    def dies_once(teacher: ClipTeacher, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(sizes) == 2:
            raise RuntimeError("killed")
        return embed(teacher, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(ClipTeacher, "embed_image", dies_once)
        with pytest.raises(RuntimeError, match="killed"):
            run_stage(name)
        assert not out.exists()
        run_stage(name)
    assert len(sizes) > 2
    assert md5_of(out) == once
