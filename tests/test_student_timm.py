"""Students with backbones of timm: six families, their weights, sizes as words, and the whole chain."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ccd.artifacts import boxes_file, checkpoint_file
from ccd.deploy.load import load_student, open_model
from ccd.deploy.model_card import model_card, read_facts
from ccd.errors import CcdError
from ccd.params.file import validate
from ccd.params.sections import WarmupParams
from ccd.project.suggest import STUDENTS
from ccd.student import step
from ccd.student.backbones import build_backbone
from ccd.student.model import StudentSpec, build_student, restore_student
from ccd.student.objectives import Objective, Views
from ccd.student.pretrained import published, start_student
from ccd.student.step import over_ranks
from tests.toys.chain import CHAIN, prepare, run_stage, write_pictures
from tests.toys.commands import invoke
from tests.toys.many_ranks import on_ranks, run_stages
from tests.toys.student import KilledError, begun_epochs, colour_patches

timm = pytest.importorskip("timm")

# the smallest of each family, and its cells for 64 x 96 px
FAMILIES = {
    "mobilenetv4_conv_small": (2, 3),
    "test_convnext": (2, 3),
    "test_efficientnet": (2, 3),
    "test_resnet": (2, 3),
    "regnetx_002": (2, 3),
    "test_vit": (4, 6),
}
GREY = (0.5, 0.5, 0.5)
PIXELS = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def spec_of(name: str, size_px: int = 64) -> StudentSpec:
    return StudentSpec(f"timm/{name}", ("a", "b", "c"), 3.0, size_px)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_every_family_gives_logits_and_maps(name: str) -> None:
    student = build_student(spec_of(name), "none", seed=0).eval()
    with torch.no_grad():
        logits, cam = student(PIXELS)
        again = restore_student(spec_of(name), student.state_dict()).eval()(PIXELS)[1]
    assert logits.shape == (2, 3) and cam.shape == (2, 3, *FAMILIES[name])
    torch.testing.assert_close(logits, cam.mean(dim=(2, 3)))
    assert torch.equal(again, cam)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_of_every_family_is_one_graph(name: str) -> None:
    pixels, targets = colour_patches(4)
    objective = Objective(1.0, 0.5)
    views = objective.views(pixels, targets, torch.Generator().manual_seed(0))
    student = build_student(spec_of(name, 32), "none", seed=0).train()
    before = {key: value.clone() for key, value in student.state_dict().items()}

    def loss(views: Views) -> Tensor:
        return objective(student, views).loss

    plain = loss(views)
    student.load_state_dict(before)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(loss, fullgraph=True, backend="eager")(views), plain)


def test_the_map_of_a_vit_is_its_patch_tokens_in_rows() -> None:
    """Without the class token, behind the last norm; the position embeddings as timm interpolates them."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=7).eval()
    torch.nn.init.normal_(model.pos_embed)
    backbone, channels = build_backbone("timm/test_vit", model.state_dict())
    model.set_input_size((64, 96))
    with torch.no_grad():
        tokens = model.forward_features(PIXELS)[:, 1:]
        features = backbone.eval()(PIXELS)
    assert features.shape == (2, channels, 4, 6)
    torch.testing.assert_close(features[:, :, 1, 2], tokens[:, 1 * 6 + 2])


@pytest.mark.parametrize("name", ["test_vit2", "test_vit4"])
def test_the_norm_behind_an_average_pool_is_loaded_and_applied_to_every_patch(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name)
    torch.nn.init.constant_(model.fc_norm.weight, 0.0)
    if name == "test_vit2":
        torch.nn.init.constant_(model.fc_norm.bias, 7.0)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone, _ = build_backbone(f"timm/{name}", tmp_path / "weights.safetensors")
    with torch.no_grad():
        features = backbone.eval()(PIXELS)
    torch.testing.assert_close(features, torch.full_like(features, 7.0 if name == "test_vit2" else 0.0))


@pytest.mark.parametrize(
    ("name", "size_px", "said"),
    [
        ("test_vit", 100, "steps of 16 px, .* 96 or 112, not 100"),
        ("test_vit", 17, "16 or 32, not 17"),
        ("dla34", 100, "steps of 32 px, .* 96 or 128, not 100"),  # maps of several strides that must fit each other
    ],
)
def test_sizes_that_a_network_cannot_read_are_refused_with_those_that_it_can(
    name: str, size_px: int, said: str
) -> None:
    with pytest.raises(CcdError, match=said):
        build_student(spec_of(name, size_px), "none", seed=0)
    student = build_student(spec_of(name), "none", seed=0).eval()
    with pytest.raises(CcdError, match=said):
        student(torch.rand(1, 3, size_px, size_px))
    with torch.no_grad():
        assert student(torch.rand(1, 3, 64, 32))[1].shape[1] == 3


def test_pixels_are_normalised_as_timm_states_for_the_network() -> None:
    _, vit, origin, recorded = start_student(spec_of("test_vit"), "none", 0)
    assert (vit.mean, vit.std) == (GREY, GREY) and (origin, recorded) == ("none", {})
    _, cnn, _, _ = start_student(spec_of("regnetx_002"), "none", 0)
    assert (cnn.mean, cnn.std) == (StudentSpec.mean, StudentSpec.std)
    assert published("timm/convnext_base.clip_laion2b_augreg_ft_in12k_in1k").mean[0] == pytest.approx(0.48145466)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The Hugging Face Hub's client as timm calls it: files of ``model`` in a folder, and what was asked for."""
    known: dict[str, Any] = {"model": None, "asked": []}

    def fetch(repo_id: str, filename: str, **options: object) -> str:
        known["asked"].append(f"{repo_id}/{filename}")
        if known["model"] is None:
            raise ConnectionError("no network\nRetrying")
        save_file(known["model"].state_dict(), tmp_path / filename)
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetch)
    return known


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_timm_loads_its_own_weights_and_their_licence_is_recorded(name: str, hub: dict[str, Any]) -> None:
    hub["model"] = timm.create_model(name)
    state = torch.get_rng_state()
    student, spec, origin, recorded = start_student(spec_of(name), "timm", 0)
    assert torch.equal(torch.get_rng_state(), state)
    tag = published(f"timm/{name}").name
    assert origin == f"timm's weights {tag}" and hub["asked"] == [f"timm/{tag}/model.safetensors"]
    assert recorded == {"start": origin, "start_licence": "apache-2.0"}
    backbone, _ = build_backbone(spec.backbone, hub["model"].state_dict())
    own = backbone.state_dict()
    assert all(torch.equal(student.backbone.state_dict()[key], value) for key, value in own.items())


def test_incomplete_weights_of_timm_and_a_missing_network_are_one_line(hub: dict[str, Any]) -> None:
    with pytest.raises(CcdError, match=r"ConnectionError: no network.*HF_HOME.*timm/test_vit\.r160_in1k.*warmup") as no:
        start_student(spec_of("test_vit"), "timm", 0)
    hub["model"] = timm.create_model("test_resnet")
    with pytest.raises(CcdError, match="could not get timm's weights of timm/test_vit") as other:
        start_student(spec_of("test_vit"), "timm", 0)
    assert "\n" not in str(no.value) + str(other.value)


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("convnextv2_atto", "cc-by-nc-4.0 (no commercial use)"),
        ("regnetx_002", "mit"),
    ],
)
def test_licences_are_named(name: str, licence: str) -> None:
    assert published(f"timm/{name}").licence == licence


@pytest.mark.parametrize("stated", [None, "unknown"])
def test_a_licence_that_timm_does_not_state_is_on_the_weights_page(
    stated: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(timm.get_pretrained_cfg("test_vit"), license=stated)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    assert published("timm/test_vit").licence == "unknown, see https://huggingface.co/timm/test_vit.r160_in1k"


@pytest.mark.parametrize("size", STUDENTS)
def test_a_size_is_a_network_whose_weights_may_be_used_for_anything(size: str) -> None:
    facts = published(STUDENTS[size])
    assert facts.licence == "apache-2.0" and f"timm/{facts.name}" == STUDENTS[size]
    assert facts.repository == STUDENTS[size]


def test_weights_of_timm_need_a_backbone_of_timm() -> None:
    values = {"backbone": "resnet18", "weights": "timm", "weights_sha256": None, "cam_boost": 3.0, "image_size_px": 64,
              "epochs": 1, "batch_size": 4, "lr": 1e-3, "head_lr_multiplier": 1.0, "schedule": "constant",
              "frozen_backbone": False, "precision": "fp32", "seed": 0}  # fmt: skip
    with pytest.raises(CcdError, match=r"warmup\.weights = 'timm': .*those of a backbone timm/NAME"):
        validate(WarmupParams, values)
    assert validate(WarmupParams, values | {"backbone": "timm/test_vit"})


def test_the_card_names_the_licence_of_the_first_weights(tmp_path: Path) -> None:
    spec = spec_of("test_vit")
    info = {"epochs": 1, "start": "timm's weights x", "start_licence": "cc-by-nc-4.0 (no commercial use)"}
    weights = {"last": dict(build_student(spec, "none", 0).state_dict())}
    checkpoint_file.write(tmp_path / "student.pt", checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", info))
    card = model_card(read_facts(tmp_path / "student.pt", "MIT", tmp_path / "no.lock")[0])
    said = "timm's weights x, licence cc-by-nc-4.0 (no commercial use) (as timm states it)"
    assert f"- Initial weights of the network: {said}\n" in card
    assert f"MIT\n\nThe network began as {said}: the licence" in card


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    write_pictures(Path("pictures"), ("red", "green"), train_count=2, test_count=0)


def test_init_takes_a_size_and_says_the_licence(pictures: None) -> None:
    done = invoke("init", "toy", "--images", "pictures", "--student", "tiny", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["student"], content["student_licence"]) == (STUDENTS["tiny"], "apache-2.0")
    url = f"https://huggingface.co/{STUDENTS['tiny']}/resolve/main/model.safetensors"
    assert [each["url"] for each in content["downloads"] if each["role"] == "student"] == [url]
    text = Path("toy/params.yaml").read_text()
    assert f"  backbone: {STUDENTS['tiny']}" in text and "  weights: timm " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student", "huge"), "no size (tiny, small, base, large)"),
        (("--student", "timm/nothing"), "has no 'nothing'"),
        (("--student", "timm/efficientnet_b6"), "timm has no weights for timm/efficientnet_b6"),
        (("--student", "timm/test_vit", "--set", "train.image_size_px=100"), "96 or 112, not 100"),
        (("--student", "timm/dla34", "--set", "cam_boxes.image_size_px=100"), "96 or 128, not 100"),
        (("--student", "timm/test_vit", "--set", "warmup.weights=imagenet"), "no ImageNet weights for timm/test_vit"),
        (("--set", "warmup.weights=timm"), "weights: timm are those of a backbone timm/NAME"),
    ],
)
def test_init_refuses_what_would_fail_later(words: tuple[str, ...], message: str, pictures: None) -> None:
    done = invoke("init", "toy", "--images", "pictures", "--device", "cpu", *words)
    assert done.exit_code == 2 and message in done.stderr and not Path("toy").exists()


def test_without_timm_init_names_the_extra_and_writes_nothing(pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = invoke("init", "toy", "--images", "pictures", "--student", "small", "--device", "cpu")
    assert done.exit_code == 2 and "pip install 'timm>=" in done.stderr and not Path("toy").exists()


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_network_without_batch_norm_is_left_as_it_is_for_several_ranks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = build_student(spec_of(name), "none", seed=0).eval()
    before = repr(student)
    monkeypatch.setattr(step, "rank_count", lambda: 2)
    monkeypatch.setattr(step, "DistributedDataParallel", lambda module, **options: module)
    assert repr(over_ranks(student, torch.device("cpu"))[0]) == before


def settings(name: str) -> dict[str, str]:
    own = {"warmup.backbone": f"timm/{name}", "warmup.epochs": "2"}
    return {key.replace(".", "__"): value for key, value in own.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_two_ranks_train_a_network_without_batch_norm_as_one_process_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch, "vit", **settings(name))
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", ("red", "green", "blue"))
    for stage in ("index", "text", "clip_global", "bias", "global_labels", "warmup"):
        run_stage(stage)
    alone = checkpoint_file.read(tmp_path / "data/toy/warmup.pt", "warmup").weights["last"]
    ended = on_ranks(2, tmp_path, run_stages, "warmup")
    assert [rank.status for rank in ended] == [0, 0], ended
    together = checkpoint_file.read(tmp_path / "data/toy/warmup.pt", "warmup").weights["last"]
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, atol=2e-4, rtol=0)  # Adam: 4 steps of 1e-3


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_chain(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up, boxes, training and evaluation; each training also killed and gone on with; predict, card and ONNX."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    prepare(tmp_path, monkeypatch, "vit", **settings(name))
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", ("red", "green", "blue"))
    for stage in CHAIN:
        run_stage(stage)
        out = tmp_path / {"warmup": "data/toy/warmup.pt", "train": "data/toy/student.pt"}.get(stage, "none")
        if out.exists():
            once = md5(out)
            with begun_epochs(die_in=1) as begun, pytest.raises(KilledError):
                run_stage(stage)
            with begun_epochs() as later:
                run_stage(stage)
            assert begun + later == ([0, 1, 1] if stage == "warmup" else [0, 1, 1, 2]) and md5(out) == once
    boxes = boxes_file.read(tmp_path / "data/toy/boxes.parquet")
    assert len(boxes.requested) > 0 and np.isfinite(boxes.boxes_px).all()
    student = tmp_path / "data/toy/student.pt"
    spec = StudentSpec.from_dict(checkpoint_file.read(student, "train").spec)
    facts = published(f"timm/{name}")
    assert spec == replace(spec_of(name), classes=("red", "green", "blue"), mean=facts.mean, std=facts.std)
    assert json.loads((tmp_path / "data/toy/metrics.json").read_text())["test"]["mAP"]["student"] is not None
    done = invoke("export", "onnx", "student.onnx", "--student", student, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["largest_difference"] <= 1e-4, done.output
    assert open_model(Path("student.onnx"), "cpu").description.spec == spec
    for model in (student, "student.onnx"):
        done = invoke("predict", model, "pictures", "--out", f"{Path(model).suffix[1:]}.csv", "--workers", 0)
        assert done.exit_code == 0, done.output
    tables = [
        load_student(model).predict(sorted(Path("pictures").glob("*.png"))) for model in (student, "student.onnx")
    ]
    for label in spec.classes:
        np.testing.assert_allclose(tables[1][label], tables[0][label], atol=1e-4)
    assert tables[0][list(spec.classes)].nunique().min() > 1
