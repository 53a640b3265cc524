"""What `ccd init` is made of: stages with fingerprints for code, suggestions, and the arithmetic of the estimate."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ccd.project import pipeline
from ccd.project.estimate import Counts, duration, estimate
from ccd.project.rates import Rates
from ccd.project.settings import dataset_name
from ccd.project.suggest import downloads, suggest
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
    assert {value for key, value in cpu.settings.items() if key.endswith("image_size_px")} == {"224"}
    for gigabytes, teacher, student in ((80, "RN50x64", "resnet101"), (8, "ViT-B/16", "resnet50")):
        card = SimpleNamespace(total_memory=gigabytes << 30, name="a card")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        found = suggest(torch.device("cuda"))
        assert (found.settings["teacher.model"], found.settings["warmup.backbone"]) == (teacher, student)
        assert f"a card, {gigabytes} GB" in found.reason
    for device in ("cpu", "cuda"):
        values = params_of(apply_preset("folder", "x", suggest(torch.device(device)).settings))
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


def test_the_estimate_is_rates_times_counts() -> None:
    text = apply_preset("folder", "x", {"warmup.epochs": "2", "train.epochs": "8", "cam_boxes.views_per_image": "5.0"})
    speed = Rates(read=0.4, teacher_global=1.0, teacher_local=0.5, warmup_step=0.2, propose=0.1, train_step=0.3,
                  score=0.05, embed_dim=8, student_bytes=1000)  # fmt: skip
    counts = Counts(train=100, test=10, classes=3)
    found = estimate(params_of(text), speed, counts, 7.0, workers=4, overlaps=False, fetched=9)
    # reading: 0.4 s / 4 workers = 0.1 s on top of every computation; 5 s to start each stage
    expected = {
        "index": 12.0, "text": 5.0, "bias": 5.0, "global_labels": 5.0, "aggregate": 5.0, "report": 5.0,
        "clip_global": 5 + 110 * 1.1,
        "warmup": 5 + 2 * 100 * 0.3,
        "cam_boxes": 5 + 100 * 0.2,
        "clip_local": 5 + 500 * 0.6,
        "train": 5 + 8 * 100 * 0.4 + 100 * 0.15,
        "evaluate": 5 + 10 * (0.1 + 4 * 0.05),
    }  # fmt: skip
    assert found.seconds == pytest.approx(expected) and list(found.seconds) == list(STAGES)
    features = (110 + 500) * 8 * 4
    artifacts = features + 110 * 3 * 40 + 500 * 40 + 4 * 1000 + 5_000_000
    assert list(found.disk_bytes.values()) == [artifacts, artifacts, features, 9]
    overlapping = estimate(params_of(text), speed, counts, 7.0, workers=1, overlaps=True, fetched=0)
    assert overlapping.seconds["warmup"] == pytest.approx(5 + 2 * 100 * 0.4), "then reading is what takes longest"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5400, "1.5 h"), (260_000, "3.0 days")]
)
def test_durations_are_short(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(("name", "said"), [("cats", "cats"), ("my cats/2", "2"), ("_-x y", "x_y"), ("größe", "gr_e")])
def test_any_folder_name_gives_a_data_set_name(name: str, said: str) -> None:
    assert dataset_name(Path(name)) == said
