"""Runs every stage on two shares of VOC07's number of photos, with the paper's networks, and extrapolates to all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML

from benchmarks.measure import ROOT, run
from benchmarks.networks import CLASSES, random_clip, ready, student_of
from benchmarks.photos import draw_photos
from benchmarks.project import stage_command
from benchmarks.settings import Settings
from benchmarks.tables import Table
from ccd.artifacts import boxes_file, corrections_file, image_index
from ccd.artifacts.image_index import rows_of
from ccd.params.file import read_yaml
from ccd.params.presets import apply_preset
from ccd.runtime.hardware import computing
from ccd.student.objectives import Objective, Views
from ccd.student.step import Optimization, TrainingStep
from ccd.teacher.openai import image_tower
from ccd.views.crops import plan_crops

SIZES = {"train": 5011, "test": 4952}
DATA = Path("data/bench")  # the name of `benchmarks.project`, whose commands these are
STUDENTS_SCORED = 4  # by stage evaluate: the warmed-up one and three sets of weights of the final one
BATCHES = 8
COLUMNS = ("stage", "a quarter of the share, s", "the share, s", "for VOC07, s", "bare model, s")
NOTE = (
    "{share:.0%} of VOC07's {train:,} + {test:,} photos, drawn, of 500 x 375 px, and a quarter of that; {teacher} at "
    "{teacher_px} px in {teacher_precision}, {student} at {student_px} px in {student_precision}, random weights. "
    "Every stage is a process of its own, one after the other. For VOC07: the straight line through both. Bare model: "
    "what its passes over VOC07 would take at the rates of the networks alone, on ready tensors in the same precision, "
    "steps of training launched kernel by kernel. Rates measured here, images a second: {rates}."
)
SMALL = {
    "teacher.precision": "fp32", "warmup.precision": "fp32", "train.precision": "fp32",
    "warmup.backbone": "resnet18", "warmup.epochs": "1", "train.epochs": "1", "runtime.inference_batch_size": "16",
    "warmup.image_size_px": "64", "train.image_size_px": "64", "cam_boxes.image_size_px": "64",
    "clip_global.image_size_px": "32", "clip_local.image_size_px": "32", "clip_local.resized_px": "64",
    "cam_boxes.precision": "fp32", "evaluate.precision": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """Images a second of the networks alone: ``tower`` at the side of clip_global; ``maps`` at that of cam_boxes;
    ``weak`` steps with one view and ``both`` with two, and ``scores``, all at the side of train."""

    tower: float
    maps: float
    weak: float
    both: float
    scores: float

    def __str__(self) -> str:
        """Name and round them."""
        return ", ".join(f"{name} {value:,.0f}" for name, value in vars(self).items())


def measure_voc07(settings: Settings) -> Table:
    """Run all stages twice; on a CPU with a tiny CLIP and a small student, to try this."""
    small = not settings.on_gpu
    tower = "tiny" if small else "RN50x64"
    clip = settings.work / "clip.pt"
    torch.save(random_clip(tower).state_dict(), clip)
    counts = {split: max(16, round(size * settings.share)) for split, size in SIZES.items()}
    quarter = {split: count // 4 for split, count in counts.items()}
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    seconds = []
    for number, sizes in enumerate((quarter, counts)):
        folder = settings.work / f"voc07_{number}"
        _make_project(folder, clip, sizes, SMALL if small else {})
        seconds.append({stage: run(stage_command(stage), folder).seconds for stage in stages})
    params = read_yaml(folder / "params.yaml")
    rates = _rates(params, tower, settings)
    rows = []
    totals = np.zeros(4)
    for stage in stages:
        split = "test" if stage == "evaluate" else "train"
        less_s, more_s = (each[stage] for each in seconds)
        steps = (SIZES[split] - counts[split]) / (counts[split] - quarter[split])
        growth_s = 0.0 if stage == "text" else max(0.0, more_s - less_s)  # text reads the classes alone
        whole_s = more_s + growth_s * steps
        bare_s = _bare_s(stage, rates, params, folder, SIZES["train"] / counts["train"])
        totals += (less_s, more_s, whole_s, bare_s)
        rows.append([stage, *(f"{value:.1f}" for value in (less_s, more_s, whole_s, bare_s))])
    rows.append(["**all**", *(f"**{value:.1f}**" for value in totals)])
    note = NOTE.format(
        share=settings.share,
        **SIZES,
        teacher="a tiny CLIP" if small else "RN50x64",
        teacher_px=params["clip_global"]["image_size_px"],
        teacher_precision=params["teacher"]["precision"],
        student=params["warmup"]["backbone"],
        student_px=params["train"]["image_size_px"],
        student_precision=params["train"]["precision"],
        rates=rates,
    )
    return Table("VOC07, start to report", note, COLUMNS, rows)


def _make_project(folder: Path, clip: Path, counts: Mapping[str, int], changes: Mapping[str, str]) -> None:
    """Write photos, all different, two random classes for each, and the parameters of the preset voc07."""
    root = folder / "datasets"
    pictures = [path.read_bytes() for path in draw_photos(folder / "drawn", 32)]
    lines = ["path,classes"]
    rng = random.Random(0)
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        for number in range(count):
            tag = f"{split}{number}".encode()  # a comment in the file: equal content would be encoded once
            comment = b"\xff\xfe" + (len(tag) + 2).to_bytes(2, "big") + tag
            data = pictures[number % len(pictures)]
            (root / split / f"{number:06}.jpg").write_bytes(data[:2] + comment + data[2:])
            lines.append(f"{split}/{number:06}.jpg,{';'.join(rng.sample(CLASSES, 2))}")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    corrections_file.ensure(folder / corrections_file.path_of(DATA.name))
    settings = {
        "dataset.name": DATA.name, "index.adapter": "folder", "index.train_split": "train", "index.test_split": "test",
        "teacher.model": str(clip), "warmup.weights": "none",
        "bias.max_entropy_nats": "100", "bias.shrinkage": "10",  # random weights are sure of nothing
        **changes,
    }  # fmt: skip
    (folder / "params.yaml").write_text(apply_preset("voc07", "datasets", settings))


def _rates(params: Mapping[str, Any], tower: str, settings: Settings) -> Rates:
    device = settings.hardware.device
    batch = params["runtime"]["inference_batch_size"]
    classes = len(CLASSES)

    def rate(images: int, work: Callable[[], object]) -> float:
        for _ in range(2):
            work()
        settings.wait()
        begun = time.perf_counter()
        for _ in range(BATCHES):
            work()
        settings.wait()
        return BATCHES * images / (time.perf_counter() - begun)

    def forward(network: Callable[[torch.Tensor], object], size_px: int, precision: Any) -> float:
        pixels = ready(batch, (size_px, size_px), device)

        def work() -> None:
            with torch.inference_mode(), computing(device, precision):
                network(pixels)

        return rate(batch, work)

    def step(weight: float) -> float:
        train = params["train"]
        count = train["batch_size"]
        size = (train["image_size_px"],) * 2
        student = student_of(params["warmup"]["backbone"], size[0])
        training = TrainingStep(student, Objective(weight), Optimization(1, 1e-5, 1.0, train["precision"]), device)
        training.train_mode(count)
        labels = torch.rand(count, classes, device=device)
        views = Views(ready(count, size, device), labels, ready(count, size, device) if weight else None, labels)
        return rate(count, lambda: training.run(views))

    network = random_clip(tower).to(device, memory_format=torch.channels_last)
    student = student_of(params["warmup"]["backbone"], 64).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Rates(
        tower=forward(image_tower(network), params["clip_global"]["image_size_px"], params["teacher"]["precision"]),
        maps=forward(student, params["cam_boxes"]["image_size_px"], params["cam_boxes"]["precision"]),
        weak=step(0.0),
        both=step(1.0),
        scores=forward(student, params["train"]["image_size_px"], params["evaluate"]["precision"]),
    )


def _bare_s(stage: str, rates: Rates, params: Mapping[str, Any], folder: Path, grown: float) -> float:
    """Return the seconds that the networks alone need for VOC07 in a stage."""
    train, test = SIZES["train"], SIZES["test"]
    if stage == "clip_local":
        return grown * _view_area(params, folder) / rates.tower
    return {
        "clip_global": (train + test) / rates.tower,
        "warmup": int(params["warmup"]["epochs"]) * train / rates.weak,
        "cam_boxes": train / rates.maps,
        "train": int(params["train"]["epochs"]) * train / rates.both + train / rates.scores,
        "evaluate": STUDENTS_SCORED * test / rates.scores,
    }.get(stage, 0.0)


def _view_area(params: Mapping[str, Any], folder: Path, stride_px: int = 32) -> float:
    """Return the area of all views, in squares of the side of clip_global."""
    index = image_index.read(folder / DATA / "images.parquet")
    views = boxes_file.read(folder / DATA / "boxes.parquet")
    rows = rows_of(folder / DATA / "boxes.parquet", "cam_boxes", views.image_ids, index.ids)
    local = params["clip_local"]
    plan = plan_crops(
        rows,
        views.boxes_px,
        index.sizes_px,
        longer_px=local["image_size_px"],
        stride_px=stride_px,
        source=local["source"],
        resized_px=local["resized_px"],
        shorter_sides=local["shorter_sides"],
    )
    side_px = int(params["clip_global"]["image_size_px"])
    area_px = int(plan.shapes_px.prod(axis=1).sum())
    return area_px / side_px**2
