"""A project in a folder with small images and networks, whose stages run as DVC runs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.measure import ROOT
from benchmarks.networks import CLASSES, save_tiny_clip
from benchmarks.photos import write_small
from ccd.artifacts import corrections_file
from ccd.params.presets import apply_preset

DATA = Path("data/bench")
STUDENT_PX = 64  # at 32 the maps have one cell, and no peak
SETTINGS = {
    "dataset.name": DATA.name, "teacher.model": "clip.pt",
    "clip_global.image_size_px": "32", "clip_local.image_size_px": "32", "clip_local.resized_px": "32",
    "bias.max_entropy_nats": "10.0",
    "warmup.backbone": "mobilenet_v3_small", "warmup.weights": "none",
    "warmup.image_size_px": str(STUDENT_PX), "warmup.batch_size": "64", "train.batch_size": "64",
    "cam_boxes.image_size_px": str(STUDENT_PX), "cam_boxes.views_per_image": "1.0", "cam_boxes.min_side_px": "4.0",
    "train.image_size_px": str(STUDENT_PX),
}  # fmt: skip


def make_project(folder: Path, images: int, test: int = 0, epochs: int = 3) -> None:
    """Write training and test images, classes, a tiny random CLIP and ``params.yaml``."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    write_small(pictures, 0, images)
    write_small(pictures / "test", images, images + test)
    (pictures / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    save_tiny_clip(folder / "clip.pt")
    corrections_file.ensure(folder / corrections_file.path_of(DATA.name))
    settings = {**SETTINGS, "warmup.epochs": str(epochs), "train.epochs": str(epochs)}
    (folder / "params.yaml").write_text(apply_preset("folder", "pictures", settings))


def with_settings(folder: Path, settings: Mapping[str, str]) -> None:
    """Change settings of a project of `make_project`."""
    changed = {**SETTINGS, **settings}
    (folder / "params.yaml").write_text(apply_preset("folder", "pictures", changed))


def command_of(stage: str) -> list[str]:
    """Return the command of a stage in ``dvc.yaml`` without its interpreter: module and options."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    arguments: list[str] = stages[stage]["cmd"].replace("${dataset.name}", DATA.name).split()
    return arguments[2:]


def stage_command(stage: str) -> list[str]:
    """Return the command of a stage with this interpreter."""
    return [sys.executable, "-m", *command_of(stage)]
