"""What `ccd init` is made of: stages with fingerprints for code, suggestions, and the arithmetic of the disk need."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ccd.project import pipeline
from ccd.project.disk import Counts, disk_bytes, shortages
from ccd.project.settings import dataset_name
from ccd.project.suggest import downloads, student_bytes, suggest
from ccd.use import apply_preset

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
        ("ccd/labels/debias.py", {"global_labels", "aggregate"}),
        ("ccd/datasets/coco.py", {"index"}),
        ("ccd/report/templates/report.html", {"report"}),
        ("ccd/console.py", set()),
        ("ccd/project/inputs.py", set()),
    ],
)
def test_a_fingerprint_changes_with_the_code_of_its_stage_alone(
    file: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pipeline.code_fingerprints()
    for name in ("ccd", "stages"):
        shutil.copytree(Path(__file__).parent.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pt"))
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
    for gigabytes, teacher, student in ((80, "RN50x64", "resnet101"), (8, "ViT-B/16", "resnet50")):
        card = SimpleNamespace(total_memory=gigabytes << 30, name="a card")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        found = suggest(torch.device("cuda"))
        assert (found.settings["teacher.model"], found.settings["warmup.backbone"]) == (teacher, student)
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
    teacher.target.parent.mkdir(parents=True)
    teacher.target.touch()
    assert [each.role for each in downloads("RN50x64", "resnet101", "imagenet")] == ["student"]
    assert downloads("clip.pt", "resnet101", "none") == []


def test_the_disk_need_is_counts_times_sizes() -> None:
    text = apply_preset("folder", "x", {"cam_boxes.views_per_image": "5.0", "teacher.model": "RN50x64"})
    params = params_of(text)
    needed = disk_bytes(params, Counts(train=100, test=10, classes=3), [])
    features = (110 + 500) * 1024 * 4
    weights = 4 * student_bytes(params["warmup"]["backbone"])
    artifacts = features + 110 * 3 * 40 + 500 * 40 + weights + 5_000_000
    assert needed == {"artifacts": artifacts, "cache": artifacts, "store": features, "weights": 0}


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortages({"artifacts": 10}, tmp_path / "new", []) == []
    (line,) = shortages({"artifacts": 10**18}, tmp_path / "new", [])
    assert line.startswith("warning: about 1000000000.0 GB") and str(tmp_path) in line


@pytest.mark.parametrize(("name", "said"), [("cats", "cats"), ("my cats/2", "2"), ("_-x y", "x_y"), ("größe", "gr_e")])
def test_any_folder_name_gives_a_data_set_name(name: str, said: str) -> None:
    assert dataset_name(Path(name)) == said
