"""A student that starts from the teacher's convolutional image tower, and backbones of timm."""

from __future__ import annotations

import builtins
import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from ccd.artifacts import checkpoint_file
from ccd.cli.main import main
from ccd.deploy.load import load_student
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles
from ccd.params.file import validate
from ccd.params.sections import WarmupParams
from ccd.project.settings import check_models
from ccd.project.suggest import student_bytes
from ccd.runtime.hardware import Hardware
from ccd.runtime.store import closure
from ccd.student import step
from ccd.student.backbones import build_backbone
from ccd.student.fit import Batches, train
from ccd.student.inference import start_as_clip
from ccd.student.model import Student, StudentSpec, build_student, restore_student
from ccd.student.objectives import Objective
from ccd.student.pretrained import start_student
from ccd.student.step import Optimization, over_ranks
from ccd.teacher.encode import load_teacher
from ccd.teacher.student_start import StudentStart, student_start
from tests.toys.chain import CHAIN, STAGES, prepare, run_stage, write_pictures
from tests.toys.student import KilledError, Memory, batches_of, colour_patches
from tests.toys.tiny_clip import checkpoint

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
TIMM = "timm/test_efficientnet"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1}
AVERAGE = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "timm_proj_bias": True,
           "image_size": 64}  # fmt: skip
PIXELS = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def openai_teacher(folder: Path, kind: str = "resnet") -> Any:
    (folder / f"{kind}.pt").write_bytes(checkpoint(kind))
    return load_teacher("clip", str(folder / f"{kind}.pt"), None, device=CPU)


def open_clip_teacher(folder: Path, tower: dict[str, Any], name: str = "tiny_start") -> Any:
    """A random model; its BatchNorm statistics are not those of a new network, so that their transfer shows."""
    package = pytest.importorskip("open_clip")
    config = folder / f"{name}.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": tower, "text_cfg": TEXT}))
    package.add_model_config(config)
    torch.manual_seed(0)
    model = package.create_model(name).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    return load_teacher("open_clip", str(config), str(folder / f"{name}.pt"), device=CPU)


def student_of(start: StudentStart, classes: int = 4, size_px: int = 64) -> tuple[Student, StudentSpec]:
    names = tuple(f"class {number}" for number in range(classes))
    spec = StudentSpec(start.backbone, names, 1.0, size_px, start.mean, start.std)
    return build_student(spec, start.weights, seed=0).eval(), spec


def unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def embedded(start: StudentStart, pooled: Tensor) -> Tensor:
    assert start.projection is not None
    return pooled @ start.projection["weight"][:, :, 0, 0].T + start.projection["bias"]


def test_an_average_pooled_tower_becomes_a_student_in_clips_space(tmp_path: Path) -> None:
    """The averaged features are CLIP's embeddings before they get unit length."""
    teacher = open_clip_teacher(tmp_path, AVERAGE)
    start = student_start(teacher)
    assert start.backbone == f"{TIMM}+16" and start.origin == "the image tower of open_clip tiny_start tiny_start.pt"
    student, _ = student_of(start)
    with torch.no_grad():
        trunk = student.backbone.trunk((unit(PIXELS) - student.mean) / student.std).mean(dim=(2, 3))  # type: ignore[operator]
    vectors = torch.nn.functional.normalize(embedded(start, trunk), dim=1)
    torch.testing.assert_close(vectors, teacher.encode_image(PIXELS), atol=1e-5, rtol=0)


def test_the_start_is_worked_out_by_hand(tmp_path: Path) -> None:
    """Features (2 r, 3) of images of one colour, r = 0 and 1: 2 r has mean 1 and spread 1, the constant stays 0; their
    norms are 3 and sqrt(13). The texts lie at +-(.5, -.5) around their mean; s = 10, boosted twice."""
    files = []
    for number, colour in enumerate(((0, 10, 20), (255, 10, 20))):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), colour).save(files[-1])
    projection = torch.nn.Conv2d(3, 2, 1)
    backbone = torch.nn.Sequential(OrderedDict(trunk=torch.nn.Identity(), projection=projection))
    student = Student(backbone, 2, 2, 2.0, mean=(0, 0, 0), std=(1, 1, 1))
    state = {"weight": torch.zeros(2, 3, 1, 1), "bias": torch.tensor([0.0, 3.0])}
    state["weight"][0, 0] = 2.0
    labels = np.float64([[0.5, 0.9], [0.5, 0.5]])
    start_as_clip(student, state, np.eye(2, dtype=np.float32), 10.0, labels, ImageFiles(files), 8, Hardware(CPU, 0, 64))
    expected = torch.zeros(2, 3, 1, 1)
    expected[0, 0] = 2.0
    torch.testing.assert_close(projection.weight.data, expected)
    torch.testing.assert_close(projection.bias.data, torch.tensor([-1.0, 0.0]))  # type: ignore[union-attr]
    w = 10 / 2 / ((3 + 13**0.5) / 2) / 2
    torch.testing.assert_close(student.head.weight[:, :, 0, 0].data, torch.tensor([[w, -w], [-w, w]]))
    prior = torch.tensor([0.0, math.log(0.7 / 0.3)])
    torch.testing.assert_close(student.head.bias.data, prior)  # type: ignore[union-attr]
    assert projection.weight.requires_grad and not projection.weight.is_inference()


def test_texts_of_another_teacher_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    backbone = torch.nn.Sequential(OrderedDict(trunk=torch.nn.Identity(), projection=torch.nn.Conv2d(3, 2, 1)))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    files, text, labels = ImageFiles([tmp_path / "0.png"]), np.eye(4, 16, dtype=np.float32), np.full((1, 4), 0.5)
    with pytest.raises(CcdError, match=r"text\.h5 has 16 dimensions, the teacher's images have 2; .*dvc repro text"):
        start_as_clip(Student(backbone, 2, 4, 3.0), before, text, 1.0, labels, files, 8, Hardware(CPU, 0, 64))


@pytest.mark.parametrize("package", ["clip", "open_clip"])
def test_a_resnet_of_clip_gives_its_trunk_and_a_head_per_cell(package: str, tmp_path: Path) -> None:
    tower = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}
    teacher = openai_teacher(tmp_path) if package == "clip" else open_clip_teacher(tmp_path, tower, "tiny_resnet")
    start = student_start(teacher)
    assert start.backbone == ("clip_resnet/1-1-1-1/8+16" if package == "clip" else "clip_resnet/1-2-1-1/8+16")
    assert start.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    visual = teacher.tower.module
    torch.nn.init.zeros_(visual.attnpool.positional_embedding)
    alike = torch.rand(2, 256, 1, 1).expand(-1, -1, 2, 2)  # where all cells are alike, attention does nothing
    with torch.no_grad():
        expected = visual.attnpool(alike)
    torch.testing.assert_close(embedded(start, alike[:, :, 0, 0]), expected, atol=1e-4, rtol=1e-4)
    student, _ = student_of(start)
    visual.attnpool = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(student.backbone.trunk(unit(PIXELS)), visual(unit(PIXELS)), atol=1e-5, rtol=1e-4)  # type: ignore[operator]


def test_the_demos_teacher_can_be_a_start() -> None:
    start = student_start(load_teacher("clip", str(ROOT / "ccd/demo/assets/clip.pt"), None, device=CPU))
    assert start.backbone.startswith("clip_resnet/1-1-1-1/16+")
    assert student_of(start, size_px=96)[0](unit(PIXELS))[1].shape == (3, 4, 2, 3)


@pytest.mark.parametrize("kind", ["openai", "timm"])
def test_a_vit_is_refused_with_advice(kind: str, tmp_path: Path) -> None:
    vit = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
    teacher = openai_teacher(tmp_path, "vit") if kind == "openai" else open_clip_teacher(tmp_path, vit, "tiny_vit")
    with pytest.raises(CcdError, match=r"RN50.*timm.*warmup\.weights: imagenet") as caught:
        student_start(teacher)
    assert "\n" not in str(caught.value)


def test_256_spread_images_count_whatever_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", ("red", "green"), train_count=6, test_count=0)
    start = student_start(openai_teacher(tmp_path))
    assert start.projection is not None
    paths = [tmp_path / f"pictures/{number}.png" for number in range(6)]

    def bias(chosen: Sequence[Path], batch: int) -> Tensor:
        student, _ = student_of(start)
        given = (start.projection or {}, np.eye(4, 16, dtype=np.float32), 1.0, np.full((len(chosen), 4), 0.5))
        start_as_clip(student, *given, ImageFiles(chosen), 64, Hardware(CPU, 0, batch))
        return student.state_dict()["backbone.projection.bias"]

    torch.testing.assert_close(bias(paths, 1), bias(paths, 64), atol=0, rtol=0)
    three = bias([paths[row] for row in (0, 2, 5)], 64)
    assert not torch.allclose(bias(paths, 64), three)
    monkeypatch.setattr("ccd.student.inference._FEW_IMAGES", 3)
    torch.testing.assert_close(bias(paths, 64), three)


VALUES = {"backbone": "teacher", "weights": "teacher", "weights_sha256": None, "cam_boost": 3.0,
          "image_size_px": 64, "epochs": 1, "batch_size": 4, "lr": 1e-3, "head_lr_multiplier": 1.0,
          "schedule": "constant", "frozen_backbone": False, "precision": "fp32", "seed": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"backbone": "resnet50"}, "warmup.weights = 'teacher': .*go together"),
        ({"weights": "none"}, "warmup.weights = 'none': .*go together"),
    ],
)
def test_the_parameters_go_together(changed: dict[str, str], message: str) -> None:
    if not message:
        assert validate(WarmupParams, VALUES | changed)
        return
    with pytest.raises(CcdError, match=message) as caught:
        validate(WarmupParams, VALUES | changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("teacher", "teacher", ""),
        ("resnet9000", "none", "'resnet9000' is none of torchvision's"),
    ],
)
def test_projects_take_these_students(backbone: str, weights: str, message: str, tmp_path: Path) -> None:
    teacher = {"backend": "clip", "model": "RN50", "pretrained": None}
    params = {"teacher": teacher, "warmup": {"backbone": backbone, "weights": weights}}
    if message:
        with pytest.raises(CcdError, match=message):
            check_models(params, tmp_path)
    else:
        check_models(params, tmp_path)
        assert student_bytes(backbone) == student_bytes("resnet50")


def test_a_student_of_timm_counts_its_own_bytes() -> None:
    assert student_bytes(TIMM) == sum(value.nbytes for value in timm_student().backbone.state_dict().values())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A project whose student is its teacher's tower, and what stage warmup said; the teacher's file is gone."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        own = {"warmup__backbone": "teacher", "warmup__weights": "teacher"}
        own |= {"warmup__frozen_backbone": "true", "train__frozen_backbone": "true"}
        prepare(folder, patch, "resnet", **own)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", ("red", "green", "blue"))
        said = ""
        for name in CHAIN:
            if name == "warmup":
                words = STAGES[name]["cmd"].replace("${dataset.name}", "toy").split()[3:]
                said = CliRunner().invoke(CHAIN[name], words, catch_exceptions=False).output
            elif name != "report":
                run_stage(name)
            if name == "clip_local":
                (folder / "resnet.pt").unlink()
        yield folder, said


def test_the_pipeline_runs_and_says_where_the_student_comes_from(project: tuple[Path, str]) -> None:
    folder, said = project
    assert "clip_resnet/1-1-1-1/8+16 from the image tower of clip resnet.pt" in said
    for name in ("warmup", "student"):
        found = checkpoint_file.read(folder / f"data/toy/{name}.pt", "train")
        assert found.spec["backbone"] == "clip_resnet/1-1-1-1/8+16"
        assert found.spec["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
        assert found.info["start"] == "the image tower of clip resnet.pt"
    assert (folder / "data/toy/metrics.json").is_file()


def test_a_frozen_backbone_stays_as_it_is(project: tuple[Path, str]) -> None:
    """Also its BatchNorm's statistics; the head learns in both trainings."""
    folder, _ = project
    warmup = checkpoint_file.read(folder / "data/toy/warmup.pt", "train").weights["last"]
    student = checkpoint_file.read(folder / "data/toy/student.pt", "train").weights["last"]
    assert [key for key in warmup if not torch.equal(warmup[key], student[key])] == ["head.weight", "head.bias"]


def test_the_student_is_exported_without_the_teacher(project: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = project
    student = folder / "data/toy/student.pt"
    photos = sorted((folder / "pictures").glob("*.png"))
    words = ["export", "model", str(tmp_path / "model"), "--student", str(student), "--licence", "CC0-1.0"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    card = (tmp_path / "model/README.md").read_text()
    assert card.count("the image tower of clip resnet.pt") == 2 and "licence of those weights" in card
    first = load_student(student).predict(photos)
    second = load_student(tmp_path / "model").predict(photos)
    np.testing.assert_array_equal(first[["red", "green", "blue"]], second[["red", "green", "blue"]])
    assert first[["red", "green", "blue"]].nunique().max() > 1  # a random tower saturates some


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip_resnet", "timm"])
def test_onnx_gives_the_same(kind: str, project: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    source = project[0] / "data/toy/student.pt"
    if kind == "timm":
        pytest.importorskip("timm")
        spec = StudentSpec(TIMM, ("cat", "dog"), 3.0, 64)
        weights = {"last": dict(build_student(spec, "none", seed=0).state_dict())}
        source = tmp_path / "student.pt"
        checkpoint_file.write(source, checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", {"epochs": 1}))
    done = CliRunner().invoke(main, ["export", "onnx", str(tmp_path / "s.onnx"), "--student", str(source), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["largest_difference"] <= 1e-4


def test_the_final_training_knows_no_teacher() -> None:
    assert not [name for name in closure([ROOT / "stages/train.py"]) if name.startswith("ccd/teacher")]


def timm_student() -> Student:
    pytest.importorskip("timm")
    return build_student(StudentSpec(TIMM, ("a", "b", "c"), 3.0, 32), "none", seed=0)


def test_a_network_of_timm_is_a_backbone(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_efficientnet", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone, channels = build_backbone(TIMM, tmp_path / "weights.pt")
    with torch.no_grad():
        features = backbone.eval()(unit(PIXELS))
        assert features.shape == (3, channels, 2, 3)
        torch.testing.assert_close(model.classifier(features.mean(dim=(2, 3))), model(unit(PIXELS)))


def test_a_student_of_timm_is_restored_from_its_own_weights() -> None:
    student = timm_student().eval()
    spec = StudentSpec(TIMM, ("a", "b", "c"), 3.0, 32)
    again = restore_student(spec, student.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(again(unit(PIXELS))[1], student(unit(PIXELS))[1])


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm/resnet9000", "none", "timm .* has no 'resnet9000'"),
        ("timm/hf-hub:someone/else", "none", "has no 'hf-hub:someone/else'"),
        ("timm/swin_tiny_patch4_window7_224", "none", "gives no feature map for images of any size"),
        ("timm/test_vit.nix", "none", "timm .* has test_vit.r160_in1k"),
        ("timm/test_vit", "none", r"steps of 16 px, .* a multiple of that, e\.g\. 96 or 112, not 100"),
        (TIMM, "imagenet", "torchvision has no ImageNet weights for timm/.*: timm, none or"),
        ("resnet18", "timm", "timm goes with a backbone timm/NAME"),
        ("timm/efficientnet_b6", "timm", "timm has no weights for timm/efficientnet_b6"),
        ("clip_resnet/3-4-6/64", "none", "called like clip_resnet/3-4-6-3/64"),
    ],
)
def test_wrong_names_are_one_line(name: str, weights: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(CcdError, match=message) as caught:
        start_student(StudentSpec(name, ("a",), 1.0, 100), weights, 0)
    assert "\n" not in str(caught.value)


def test_a_missing_timm_is_said_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "timm":
            raise ImportError("No module named 'timm'")
        return genuine(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CcdError, match=r"timm/test_efficientnet needs the package timm.*pip install 'timm>="):
        build_backbone(TIMM, "none")


def test_activations_inside_timms_norms_survive_the_change_for_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    student = timm_student().eval()
    with torch.no_grad():
        expected = student(unit(PIXELS))[1]
    keys = list(student.state_dict())
    monkeypatch.setattr(step, "rank_count", lambda: 2)
    monkeypatch.setattr(step, "DistributedDataParallel", lambda module, **options: module)
    changed, _ = over_ranks(student, CPU)
    kinds = {type(layer).__name__ for layer in changed.modules()}
    assert "SharedBatchNorm2d" in kinds and "BatchNormAct2d" not in kinds
    with torch.no_grad():
        torch.testing.assert_close(changed.eval()(unit(PIXELS))[1], expected)
    assert list(changed.state_dict()) == keys


def test_a_killed_training_of_such_a_student_goes_on() -> None:
    pixels, targets = colour_patches(16)

    def run(state: Memory | None, die_at: int | None = None) -> dict[str, Tensor]:
        def batches(epoch: int) -> Batches:
            if epoch == die_at:
                raise KilledError
            return batches_of(pixels, 8)(epoch)

        optimization = Optimization(2, 1e-3, 1.0)
        options: dict[str, Any] = {"optimization": optimization, "seed": 1, "device": CPU, "state": state}
        return train(timm_student(), batches, targets, Objective(), **options).last

    whole = run(None)
    state = Memory()
    with pytest.raises(KilledError):
        run(state, die_at=1)
    resumed = run(state)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
