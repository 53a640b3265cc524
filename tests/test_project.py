"""What `ccd init` is made of: stages with fingerprints for code, suggestions, and the arithmetic of the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ccd.params.presets import apply_preset
from ccd.project import pipeline, survey
from ccd.project.settings import dataset_name
from ccd.project.suggest import Download, downloads, suggest
from ccd.project.survey import Counts, disk_bytes, shortages, size_text

COUNTS = Counts(train=100, test=10, classes=3)
STAGES: dict[str, Any] = YAML(typ="safe").load(pipeline.repository_pipeline().read_text())["stages"]


def params_of(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text))


def test_stages_are_those_of_the_repository_with_fingerprints_for_code() -> None:
    text = pipeline.project_text()
    stages = YAML(typ="safe").load(text)["stages"]
    assert list(stages) == ["inputs", *STAGES]
    for name, entry in STAGES.items():
        mine = dict(stages[name])
        looked_at = [f"code.{name}", *(["images", "lists"] if name == "index" else [])]
        assert mine.pop("params") == [*entry["params"], {"inputs.json": looked_at}]
        assert mine.pop("deps", []) == [dep for dep in entry["deps"] if not dep.startswith(("ccd/", "stages/"))]
        assert mine == {key: value for key, value in entry.items() if key not in ("deps", "params")}
    assert pipeline.upgraded_text(text) == text


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("ccd/labels/debias.py", {"global_labels", "aggregate", "report"}),
        ("ccd/datasets/coco.py", {"index"}),
        ("ccd/report/templates/report.html", {"report"}),
        ("ccd/runtime/console.py", set()),
        ("ccd/project/pipeline.py", set()),
    ],
)
def test_a_fingerprint_changes_with_the_code_of_its_stage_alone(
    file: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pipeline.code_fingerprints()
    for name in ("ccd", "stages"):
        shutil.copytree(Path(__file__).parent.parent / name, tmp_path / name)
    monkeypatch.setattr(pipeline, "_INSTALLED", tmp_path)
    monkeypatch.setattr(pipeline, "repository_pipeline", lambda: Path(__file__).parent.parent / "dvc.yaml")
    assert pipeline.code_fingerprints() == before, "the place of the installation is no part of it"
    target = tmp_path / file
    target.write_bytes(target.read_bytes() + b"\n")
    after = pipeline.code_fingerprints()
    assert {name for name in after if after[name] != before[name]} == changed


def test_hardware_decides_what_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = suggest(torch.device("cpu"))
    assert (cpu.settings["teacher.model"], cpu.settings["warmup.backbone"]) == ("ViT-B/32", "mobilenet_v2")
    assert {value for key, value in cpu.settings.items() if key.endswith("image_size_px")} == {224}
    for gigabytes, major, teacher, student, training in (
        (80, 9, "RN50x64", "resnet101", "bf16"),
        (8, 8, "ViT-B/16", "resnet50", "bf16"),
        (16, 7, "ViT-B/16", "resnet50", "fp16"),  # older than bf16
    ):
        card = SimpleNamespace(total_memory=gigabytes << 30, name="a card", major=major)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        found = suggest(torch.device("cuda"))
        assert (found.settings["teacher.model"], found.settings["warmup.backbone"]) == (teacher, student)
        assert found.settings["teacher.precision"] == "fp16" and found.settings["train.precision"] == training
        assert f"a card, {gigabytes} GB" in found.reason
    for device in ("cpu", "cuda"):
        values = params_of(apply_preset("folder", "x", {}, values=suggest(torch.device(device)).settings))
        assert values["runtime"]["device"] == "auto"


def test_weights_that_are_missing_are_named_with_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    teacher, student = downloads("RN50x64", "resnet101", "imagenet")
    assert teacher.url.endswith("/RN50x64.pt") and teacher.target == tmp_path / ".cache/clip/RN50x64.pt"
    assert student.url.startswith("https://download.pytorch.org/models/resnet101-")
    assert 1.2e9 < teacher.size_bytes < 1.5e9 and 1.7e8 < student.size_bytes < 1.9e8
    teacher.target.parent.mkdir(parents=True)
    teacher.target.touch()
    assert [each.role for each in downloads("RN50x64", "resnet101", "imagenet")] == ["student"]
    assert downloads("clip.pt", "resnet101", "none") == []


def test_the_disk_is_counts_times_sizes() -> None:
    changed = {"cam_boxes.views_per_image": "5.0", "warmup.backbone": "mobilenet_v2", "teacher.model": "ViT-B/32"}
    params = params_of(apply_preset("folder", "x", changed))
    wanted = [Download("teacher", "ViT-B/32", "", Path("clip.pt"), 9)]
    found = disk_bytes(params, Counts(train=100, test=10, classes=3), wanted)
    features = (110 + 500) * 512 * 4
    artifacts = features + 110 * 3 * 40 + 500 * 40 + 4 * 3_504_872 * 4 + 5_000_000
    assert found == {"artifacts": artifacts, "cache": artifacts, "store": features, "weights": 9}
    boxes = params["cam_boxes"]
    tiled = disk_bytes(params | {"cam_boxes": boxes | {"tiles": 3}}, Counts(100, 10, 3), [])
    assert tiled["store"] == (110 + 1400) * 512 * 4 and tiled["weights"] == 0
    small = disk_bytes(params | {"runtime": {"store_gb": 0.001}}, Counts(100, 10, 3), [])
    assert small["store"] == 1_000_000


@pytest.mark.parametrize(("views", "crops", "region_views"), [("cam", 500, 0), ("dense", 0, 600), ("both", 500, 600)])
def test_regions_take_disk_in_their_own_file_and_as_views(views: str, crops: int, region_views: int) -> None:
    """Six regions of 110 images, each an embedding of 512 numbers and four corners; the store has no region twice."""
    changed = {"cam_boxes.views_per_image": "5.0", "teacher.model": "ViT-B/32"}
    params = params_of(apply_preset("folder", "x", changed | {"clip_global.regions": "6", "cam_boxes.views": views}))
    six = disk_bytes(params, COUNTS, [])
    none = disk_bytes(params | {"clip_global": {"regions": 0}}, COUNTS, [])
    own_file = 110 * 6 * (512 + 4) * 4
    assert none["store"] == (110 + crops) * 512 * 4
    assert six["store"] == none["store"] + own_file
    assert six["artifacts"] == none["artifacts"] + own_file + region_views * (512 * 4 + 40)


def test_disk_that_is_not_free_is_one_line_for_each_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    needed = {"artifacts": 600_000_000, "cache": 600_000_000, "store": 0, "weights": 300_000_000}
    wanted = [Download("teacher", "x", "", tmp_path / "cache/clip.pt", 300_000_000)]
    (line,) = shortages(needed, tmp_path / "not/yet/there", wanted)
    assert "1.5 GB" in line and "1.0 GB are free" in line and str(tmp_path) in line
    assert shortages(needed | {"artifacts": 0}, tmp_path, wanted) == []


@pytest.mark.parametrize(("count", "said"), [(3, "1 MB"), (40_400_000, "40 MB"), (1_260_000_000, "1.3 GB")])
def test_sizes_are_short(count: int, said: str) -> None:
    assert size_text(count) == said


@pytest.mark.parametrize(("name", "said"), [("cats", "cats"), ("my cats/2", "2"), ("_-x y", "x_y"), ("größe", "gr_e")])
def test_any_folder_name_gives_a_data_set_name(name: str, said: str) -> None:
    assert dataset_name(Path(name)) == said
