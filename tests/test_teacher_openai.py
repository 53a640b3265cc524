"""OpenAI's models, loaded from small random checkpoints."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip.model import build_model
from safetensors.torch import save_file
from torch import Tensor

from ccd.artifacts.files import hash_of
from ccd.errors import CcdError
from ccd.runtime.store import Store
from ccd.teacher import openai
from ccd.teacher.clip_teacher import ClipTeacher
from ccd.teacher.encode import SMALLEST_BATCH, encode_images, load_teacher, remembering
from tests.faults.artifacts import Planted
from tests.toys.tiny_clip import save_fp16, tiny_clip

CPU = torch.device("cpu")
KINDS = ["resnet", "vit"]


def checkpoint(kind: str, folder: Path) -> Path:
    """A small model on the disk."""
    return save_fp16(tiny_clip(kind), folder / f"{kind}.pt")


def load(path: Path, **options: Any) -> ClipTeacher:
    """Load it."""
    teacher = load_teacher("clip", str(path), None, device=CPU, **options)
    assert isinstance(teacher, ClipTeacher)
    return teacher


def noise(*shape: int) -> Tensor:
    """Random pixels."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kind", "side_px", "stride_px"), [("resnet", 64, 32), ("vit", 32, 16)])
def test_native_size_equals_clip(kind: str, side_px: int, stride_px: int, tmp_path: Path) -> None:
    path = checkpoint(kind, tmp_path)
    teacher = load(path)
    assert (teacher.embed_dim, teacher.stride_px) == (16, stride_px)
    assert teacher.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    model = build_model(torch.load(path, weights_only=True)).float()
    normalize = clip.clip._transform(side_px).transforms[-1]
    pixels = noise(3, 3, side_px, side_px)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(normalize(pixels / 255)), dim=-1)
        expected_text = F.normalize(model.encode_text(clip.tokenize(["a dog", "two cats"])), dim=-1)
    torch.testing.assert_close(teacher.encode_image(pixels), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.encode_text(["a dog", "two cats"]), expected_text, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(kind: str, tmp_path: Path) -> None:
    teacher = load(checkpoint(kind, tmp_path))
    pixels = noise(5, 3, 64, 96)
    together = teacher.encode_image(pixels)
    apart = torch.cat([teacher.encode_image(image[None]) for image in pixels])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    assert together.dtype == torch.float32 and together.shape == (5, 16)


def test_imagenet_pixels_are_those_of_the_published_code(tmp_path: Path) -> None:
    path = checkpoint("vit", tmp_path)
    pixels = noise(1, 3, 32, 32)
    own = load(path)
    imagenet = load(path, normalization="imagenet")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = F.normalize(tiny_clip("vit").visual((pixels / 255 - mean) / std), dim=-1)
    torch.testing.assert_close(imagenet.encode_image(pixels), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(own.encode_image(pixels), expected, atol=1e-3)
    assert own.fingerprint == imagenet.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_close_and_leaves_text_alone(kind: str, tmp_path: Path) -> None:
    path = checkpoint(kind, tmp_path)
    full = load(path)
    half = load(path, precision="bf16")
    pixels = noise(4, 3, 64, 64)
    cosines = (full.encode_image(pixels) * half.encode_image(pixels)).sum(dim=1)
    assert cosines.min() > 0.995 and not torch.equal(full.encode_image(pixels), half.encode_image(pixels))
    assert torch.equal(full.encode_text(["a dog"]), half.encode_text(["a dog"]))
    assert full.fingerprint == half.fingerprint


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="fp16 needs a GPU"):
        load(checkpoint("vit", tmp_path), precision="fp16")


def test_fingerprint_tells_weights_apart(tmp_path: Path) -> None:
    path = checkpoint("vit", tmp_path)
    model = tiny_clip("vit")
    with torch.no_grad():
        model.visual.proj[0, 0] += 0.5
    changed = save_fp16(model, tmp_path / "changed.pt")
    assert load(path).fingerprint == load(checkpoint("vit", tmp_path)).fingerprint != load(changed).fingerprint
    assert len(load(path).fingerprint) == 64
    assert load(path).description == "clip vit.pt, clip pixels, fp32"


def test_float32_checkpoints_are_not_rounded(tmp_path: Path) -> None:
    model = tiny_clip("vit")
    with torch.no_grad():
        model.visual.conv1.weight.add_(1e-5)
    torch.save(model.state_dict(), tmp_path / "fine_tuned.pt")
    pixels = noise(2, 3, 32, 32)
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    )
    with torch.no_grad():
        expected = F.normalize(model.visual((pixels / 255 - mean) / std), dim=-1)
    torch.testing.assert_close(load(tmp_path / "fine_tuned.pt").encode_image(pixels), expected, atol=2e-7, rtol=0)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_archive_as_openai_publishes(tmp_path: Path) -> None:
    model = tiny_clip("vit")
    traced = torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), clip.tokenize("a dog")))
    torch.jit.save(traced, str(tmp_path / "archive.pt"))
    assert load(tmp_path / "archive.pt").fingerprint == load(checkpoint("vit", tmp_path)).fingerprint


def test_local_files_are_checked(tmp_path: Path) -> None:
    path = checkpoint("vit", tmp_path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path, sha256=right).embed_dim == 16
    with pytest.raises(CcdError, match=right):
        load(path, sha256="0" * 64)
    with pytest.raises(CcdError, match=r"neither a file nor one of RN50.*ViT-L/14@336px"):
        load(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CcdError, match=r"text\.pt .*text \(no weights\)"):
        load(tmp_path / "text.pt")
    with pytest.raises(CcdError, match=r"other\.pt .*missing: visual\.conv1\.weight"):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize("levels", [("state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["module.", "model.", "clip.module."])
def test_a_wrapped_checkpoint_is_the_same_teacher(levels: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    content: Any = {prefix + name: value for name, value in tiny_clip("vit").state_dict().items()}
    for name in levels:
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "wrapped.pt")
    torch.save(tiny_clip("vit").state_dict(), tmp_path / "plain.pt")
    assert load(tmp_path / "wrapped.pt").fingerprint == load(tmp_path / "plain.pt").fingerprint


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = tiny_clip("vit").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "clip.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    assert load(tmp_path / "clip.safetensors").fingerprint == load(tmp_path / "plain.pt").fingerprint


def test_a_pinned_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CcdError, match=r"teacher\.sha256 .*Git LFS"):
        load(tmp_path / "clip.pt", sha256="0" * 64)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(clip, "load", no_network)
    with pytest.raises(CcdError, match=r"no network.*https://\S+/RN50x64\.pt .*teacher\.model"):
        load_teacher("clip", "RN50x64", None, device=CPU)
    with pytest.raises(CcdError, match="remove it"):
        load_teacher("clip", "RN50", None, sha256="0" * 64, device=CPU)
    with pytest.raises(CcdError, match="leave it empty"):
        load_teacher("clip", "RN50", "openai", device=CPU)


def test_encode_images_streams_and_names_bad_rows(tmp_path: Path) -> None:
    model = tiny_clip("vit")
    teacher = load(save_fp16(model, tmp_path / "vit.pt"))
    pixels = noise(3, 3, 32, 32)
    batches = [(torch.tensor([4, 2]), pixels[:2]), (torch.tensor([9]), pixels[2:])]
    encoded = list(encode_images(teacher, batches, list("abcdefghij")))
    assert [rows.tolist() for rows, _ in encoded] == [[4, 2], [9]]
    features = np.concatenate([features for _, features in encoded])
    np.testing.assert_allclose(features, teacher.encode_image(pixels).numpy(), atol=1e-5)
    with torch.no_grad():
        model.visual.ln_post.bias[0] = torch.nan
    broken = load(save_fp16(model, tmp_path / "nan.pt"))
    with pytest.raises(CcdError, match="NaN or Inf for e, c: try"):
        list(encode_images(broken, batches, list("abcdefghij")))


@dataclass
class Recorder:
    """An encoder that writes down what it is asked; a picture's feature is its first value, 255 gives NaN."""

    device: torch.device
    log: list[str] = field(default_factory=list)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Compute the features."""
        self.log.append(f"{len(pixels)} images of {pixels.shape[-1]} px")
        values = pixels[:, 0, 0, :1].float()
        return values.masked_fill(values == 255, torch.nan)

    def batches(self, sizes: list[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Make batches of sizes (images, px), numbered from 0; their pictures have their number as pixels."""
        for number, (count, side_px) in enumerate(sizes):
            self.log.append(f"loads {number}")
            yield torch.full((count,), number), torch.full((count, 3, side_px, side_px), number, dtype=torch.uint8)

    def encode(self, sizes: list[tuple[int, int]]) -> None:
        """Encode them, and write down what comes back."""
        for rows, features in encode_images(self, self.batches(sizes), list("abc")):
            assert features.tolist() == [[number] for number in rows.tolist()]
            self.log.append(f"gives {rows[0]}")


def test_a_cpu_ends_a_batch_before_it_loads_the_next() -> None:
    encoder = Recorder(CPU)
    encoder.encode([(20, 2), (3, 2)])
    assert encoder.log == [
        "loads 0", "20 images of 2 px", "gives 0", "loads 1", f"{SMALLEST_BATCH} images of 2 px", "gives 1"
    ]  # fmt: skip


def test_a_gpu_has_the_next_batch_before_the_features_of_one_are_read() -> None:
    encoder = Recorder(torch.device("cuda"))
    encoder.encode([(40, 2), (17, 2), (5, 4)])
    assert encoder.log == [
        "loads 0", "40 images of 2 px",
        "loads 1", "32 images of 2 px", "gives 0",
        "loads 2", "16 images of 4 px", "gives 1",
        "gives 2",
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "filled"), [(1, 16), (16, 16), (17, 20), (20, 20)])
def test_a_gpu_gets_no_batch_above_the_largest(count: int, filled: int) -> None:
    """Of batches of 20, 32 images would be too many: a GPU's memory may just fit them."""
    encoder = Recorder(torch.device("cuda"))
    encoder.encode([(20, 2), (count, 4)])
    assert encoder.log[3] == f"{filled} images of 4 px"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bad_features_are_named_by_their_own_batch(device: str) -> None:
    """The second batch is bad: the first comes out, also where the third is with the encoder already."""
    encoder = Recorder(torch.device(device))
    batches = [(torch.tensor([row]), torch.full((1, 3, 2, 2), value)) for row, value in ((0, 7), (1, 255), (2, 8))]
    encoded = encode_images(encoder, batches, list("abc"))
    assert next(encoded)[0].tolist() == [0]
    with pytest.raises(CcdError, match="NaN or Inf for b:"):
        next(encoded)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_every_batch_its_own_features(tmp_path: Path) -> None:
    """Many batches in flight of two shapes, from pinned memory: each as computed by itself and waited for."""
    teacher = load_teacher("clip", str(checkpoint("resnet", tmp_path)), None, device=torch.device("cuda"))
    pixels = [noise(16 + number % 3, 3, 64, 64 + 32 * (number % 2)) for number in range(40)]
    batches = ((torch.arange(len(images)), images.pin_memory()) for images in pixels)
    for images, (_, features) in zip(pixels, encode_images(teacher, batches, ["image"] * 18), strict=True):
        np.testing.assert_allclose(features, teacher.encode_image(images).numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript archive as OpenAI publishes them, with the numbers that they hold beside the weights."""
    model = tiny_clip("resnet")
    for name in ("input_resolution", "context_length", "vocab_size"):
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(7))
    path = tmp_path_factory.mktemp("archive") / "archive.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, (torch.zeros(1, 3, 64, 64), clip.tokenize("a dog"))), str(path))
    return path


def test_an_archive_is_read_without_running_it(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the program was read")

    monkeypatch.setattr(torch.jit, "load", refuse)
    scripted = load(archive)
    plain = load(checkpoint("resnet", tmp_path))
    assert scripted.fingerprint == plain.fingerprint
    assert torch.equal(scripted.encode_image(noise(2, 3, 64, 64)), plain.encode_image(noise(2, 3, 64, 64)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_archive_of_another_make_is_read_by_pytorch(archive: Path, tmp_path: Path) -> None:
    """Compressed entries cannot be mapped."""
    packed_path = tmp_path / "packed.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(packed_path, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in source.infolist():
            packed.writestr(info.filename, source.read(info))
    with pytest.raises(Exception, match="compressed"):
        openai._archived(packed_path)
    assert load(packed_path).fingerprint == load(archive).fingerprint


def test_what_an_archive_would_run_is_refused(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(tmp_path / "planted.pt", "w") as planted:
        for info in source.infolist():
            is_pickle = info.filename.endswith("/data.pkl")
            planted.writestr(info.filename, pickle.dumps(Planted()) if is_pickle else source.read(info))
    with pytest.raises(pickle.UnpicklingError):
        openai._archived(tmp_path / "planted.pt")


def test_a_file_that_differs_from_its_own_checksums_is_named_before_its_features_are(tmp_path: Path) -> None:
    """One bit of a weight: nothing else tells, and mapped files are read without looking."""
    path = checkpoint("vit", tmp_path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    for store in (None, Store(tmp_path / "store", 1 << 20)):
        with pytest.raises(CcdError, match=rf"{path.name} is damaged \(.*checksum says\); download it again"):
            _ = load_teacher("clip", str(path), None, device=CPU, store=store).fingerprint


def test_a_download_that_is_damaged_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole archive with a wrong bit, as its name's hash tells: the package gets it anew."""
    path = checkpoint("vit", tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "RN50.pt").write_bytes(content)
    fetched: list[str] = []
    monkeypatch.setattr(openai, "_DOWNLOADS", tmp_path)
    monkeypatch.setattr(clip, "load", lambda name, **_: fetched.append(name))
    assert openai._named_file("RN50", None, remembering(Store(tmp_path / "store", 1 << 20))) == tmp_path / "RN50.pt"
    assert fetched == ["RN50"]


def test_only_the_half_that_is_used_is_loaded(tmp_path: Path) -> None:
    path = checkpoint("vit", tmp_path)
    both = load(path)
    pixels = noise(2, 3, 32, 32)
    expected = (both.encode_text(["a dog"]), both.encode_image(pixels))
    for_texts = load(path)
    for_images = load(path)
    assert torch.equal(for_texts.encode_text(["a dog"]), expected[0])
    assert torch.equal(for_images.encode_image(pixels), expected[1])
    meta = {
        teacher: {name.startswith("visual.") for name, value in teacher._model.state_dict().items() if value.is_meta}
        for teacher in (both, for_texts, for_images)
    }
    assert meta == {both: set(), for_texts: {True}, for_images: {False}}
    # and the other half comes when it is asked for
    assert torch.equal(for_texts.encode_image(pixels), expected[1])
    assert torch.equal(for_images.encode_text(["a dog"]), expected[0])


def test_a_file_that_changes_afterwards_changes_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "vit.pt"
    torch.save(tiny_clip("vit").state_dict(), path)
    teacher = load(path)
    pixels = noise(2, 3, 32, 32)
    expected = teacher.encode_image(pixels)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(teacher.encode_image(pixels), expected)


def test_tokens_and_names_are_those_of_the_package() -> None:
    texts = ["a photo of the Dog, isn't it?", "naïve  &amp; 123", "dog " * 100]
    for width in (77, 616):
        assert torch.equal(openai.tokenize(texts, width), clip.tokenize(texts, width, truncate=True))
    assert openai.DOWNLOAD_URLS == clip.clip._MODELS


def test_hashes_are_computed_once_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint("vit", tmp_path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    store = Store(tmp_path / "store", 10**9)
    expected = load(path).fingerprint
    hashed: list[str] = []
    monkeypatch.setattr(openai, "hash_of", lambda file: hashed.append("file") or hash_of(file))
    compute = ClipTeacher._hashed
    monkeypatch.setattr(ClipTeacher, "_hashed", lambda self: hashed.append("weights") or compute(self))
    for _ in range(2):
        assert load(path, sha256=right, store=store).fingerprint == expected
        assert hashed == ["file", "weights"]
    with pytest.raises(CcdError, match=right):  # also a hash that is known is compared
        load(path, sha256="0" * 64, store=store)
    for entry in store.folder.iterdir():  # a damaged entry is none
        (entry / "state.pt").write_text("nonsense")
    assert load(path, sha256=right, store=store).fingerprint == expected
    assert hashed == ["file", "weights"] * 2
    model = tiny_clip("vit")
    with torch.no_grad():
        model.visual.proj[0, 0] += 0.5
    save_fp16(model, path)  # as large as before, and written later
    os.utime(path, ns=(1, 1))
    assert load(path, store=store).fingerprint not in (expected, "")
    assert hashed == [*["file", "weights"] * 2, "weights"]
    with pytest.raises(CcdError, match="SHA-256"):
        load(path, sha256=right, store=store)


def test_a_named_model_is_the_file_where_the_package_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint("vit", tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(openai, "_DOWNLOADS", tmp_path)
    monkeypatch.setattr(openai, "DOWNLOAD_URLS", {"ViT": f"https://host/{digest}/vit.pt"})
    monkeypatch.setattr(clip, "load", lambda *_, **__: pytest.fail("there is nothing to download"))
    teacher = load_teacher("clip", "ViT", None, device=CPU)
    assert teacher.fingerprint == load(path).fingerprint
    assert teacher.description == "clip ViT, clip pixels, fp32"
    path.write_bytes(b"half a file")
    monkeypatch.setattr(clip, "load", lambda *_, **__: checkpoint("vit", tmp_path))
    assert load_teacher("clip", "ViT", None, device=CPU).fingerprint == teacher.fingerprint


def test_a_stage_that_encodes_imports_neither_torchvision_nor_the_compiler(tmp_path: Path) -> None:
    code = (
        "import sys, torch, stages.text, stages.clip_global, stages.clip_local\n"
        "from ccd.runtime.hardware import set_up_hardware\n"
        f"teacher = stages.text.load_teacher('clip', {str(checkpoint('resnet', tmp_path))!r}, None,"
        " device=set_up_hardware().device)\n"
        "teacher.encode_text(['a dog']); teacher.encode_image(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))\n"
        "print('imported', *({'torchvision', 'torch._dynamo', 'torch._inductor', 'clip'} & set(sys.modules)))\n"
        "print(torch.are_deterministic_algorithms_enabled(), __import__('gc').isenabled())"
    )
    (tmp_path / "params.yaml").write_text((Path(__file__).resolve().parent.parent / "params.yaml").read_text())
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.split("\n")[:2] == ["imported", "True True"], run.stdout
