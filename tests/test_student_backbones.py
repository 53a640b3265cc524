from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from ccd.errors import CcdError
from ccd.student.backbones import backbone_names, build_backbone
from ccd.student.model import StudentSpec
from ccd.student.pretrained import start_student

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 512),
        ("resnext50_32x4d", 2048),
        ("mobilenet_v2", 1280),
        ("mobilenet_v3_small", 576),
        ("mobilenet_v3_large", 960),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
        ("regnet_y_400mf", 440),
    ],
)
def test_features_have_the_stated_channels_and_stride(name: str, channels: int) -> None:
    backbone, found = build_backbone(name, "none")
    with torch.no_grad():
        features = backbone.eval()(torch.rand(1, 3, 64, 96))
    assert found == channels
    assert features.shape == (1, channels, 2, 3)


def test_a_student_comes_without_pytorch_s_compiler_which_is_there_when_it_is_asked_for() -> None:
    """torchvision imports it, which is most of the time that a stage with a student takes to start."""
    code = """
import sys, torch
from ccd.student.model import StudentSpec, build_student
from ccd.student.pretrained import start_student
build_student(StudentSpec("resnet18", ("a",), 3.0, 32), "none", seed=0).eval()(torch.rand(1, 3, 32, 32))
print("torch._dynamo" in sys.modules, "torch._dynamo.utils" in sys.modules)
from torchvision.ops import roi_align
print(roi_align.__globals__["is_compile_supported"]("cpu"), "torch._dynamo" in sys.modules)
torch.optim.Adam(torch.nn.Linear(1, 1).parameters())
print(float(torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(()))))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "True", "True", "2.0"]


@pytest.mark.parametrize("first", ["from torch._dynamo.utils import counters", "import torch._dynamo.config"])
def test_what_else_asks_for_the_compiler_meanwhile_gets_it(first: str) -> None:
    code = f"""
import sys, torch
from ccd.student import backbones
sys.modules["torch._dynamo.utils"] = stands_in = backbones._Absent("torch._dynamo.utils")
{first}
import torch._dynamo.utils
print(sys.modules["torch._dynamo.utils"] is not stands_in, len(torch._dynamo.utils.counters))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "0"]


def test_wide_resnets_are_known_and_other_families_are_not() -> None:
    assert {"wide_resnet50_2", "resnet101"} <= set(backbone_names())
    assert not {"vit_b_16", "densenet121", "vgg16"} & set(backbone_names())


@pytest.mark.parametrize("name", ["vit_b_16", "resnet", "resnet9000", ""])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(CcdError, match=r"unknown backbone.*resnet101"):
        build_backbone(name, "none")


def test_pooled_features_and_the_classifier_give_torchvisions_logits(tmp_path: Path) -> None:
    """Also that a local state dict reaches every layer."""
    torch.manual_seed(0)
    model = models.resnet18(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone, _ = build_backbone("resnet18", tmp_path / "weights.pt")
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model.fc(backbone.eval()(pixels).mean(dim=(2, 3)))
        torch.testing.assert_close(logits, model(pixels))


def test_convnext_keeps_its_last_norm(tmp_path: Path) -> None:
    model = models.convnext_tiny(weights=None)
    torch.nn.init.constant_(model.classifier[0].bias, 7.0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone, _ = build_backbone("convnext_tiny", str(tmp_path / "weights.pt"))
    with torch.no_grad():
        features = backbone.eval()(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(features.mean(dim=1), torch.full((1, 2, 2), 7.0), atol=1e-4, rtol=0)


def test_a_state_dict_without_classifier_or_batch_counters_is_enough(tmp_path: Path) -> None:
    state = models.mobilenet_v2(weights=None).state_dict()
    features = {k: v for k, v in state.items() if k.startswith("features.") and "num_batches" not in k}
    torch.save(features, tmp_path / "weights.pt")
    backbone, _ = build_backbone("mobilenet_v2", tmp_path / "weights.pt")
    own = backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in features.items())


def test_a_classifier_of_another_number_of_classes_is_ignored(tmp_path: Path) -> None:
    torch.save(models.resnet18(weights=None, num_classes=7).state_dict(), tmp_path / "weights.pt")
    assert build_backbone("resnet18", tmp_path / "weights.pt")[1] == 512


def test_foreign_keys_and_shapes_are_named(tmp_path: Path) -> None:
    state = models.resnet18(weights=None).state_dict()
    renamed = {("stem.weight" if key == "conv1.weight" else key): value for key, value in state.items()}
    torch.save(renamed, tmp_path / "renamed.pt")
    with pytest.raises(CcdError, match=r"missing: conv1.weight; unexpected: stem.weight"):
        build_backbone("resnet18", tmp_path / "renamed.pt")
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pt")
    with pytest.raises(CcdError, match=r"other shapes.*conv1.weight"):
        build_backbone("resnet18", tmp_path / "grey.pt")


def test_unreadable_weights_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="does not exist"):
        build_backbone("resnet18", tmp_path / "missing.pt")
    (tmp_path / "page.pt").write_text("<html>not found</html>")
    with pytest.raises(CcdError, match=r"warmup\.weights: .*page\.pt .*web page"):
        build_backbone("resnet18", tmp_path / "page.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CcdError, match="no state dict"):
        build_backbone("resnet18", tmp_path / "list.pt")


def test_imagenet_weights_come_from_torchvisions_cache_and_need_a_network_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(CcdError, match=r"resnet101-63fe2227.pth into .*TORCH_HOME"):
        start_student(StudentSpec("resnet101", ("a",), 1.0, 64), "imagenet", 0)  # V1; the default is V2, cd907fc2
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True, exist_ok=True)
    state = models.resnet18(weights=None).state_dict()
    torch.save(state, cached)
    student, _, origin, recorded = start_student(StudentSpec("resnet18", ("a",), 1.0, 64), "imagenet", 0)
    assert torch.equal(student.state_dict()["backbone.conv1.weight"], state["conv1.weight"])
    assert (origin, recorded) == ("imagenet", {})


@pytest.mark.shared
def test_real_weights_in_half_precision_load(shared_dir: Path) -> None:
    path = shared_dir / "models" / "mobilenet_v2_imagenet.pt"
    backbone, channels = build_backbone("mobilenet_v2", path)
    assert channels == 1280
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
