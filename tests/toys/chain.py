"""A project of coloured squares, a random tiny CLIP and a small ResNet, and its stages, run in this process."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from ccd.artifacts.corrections_file import ensure, path_of
from ccd.params.presets import apply_preset
from stages import (
    aggregate,
    bias,
    cam_boxes,
    clip_global,
    clip_local,
    evaluate,
    global_labels,
    head,
    index,
    report,
    text,
    train,
    warmup,
)
from tests.toys.tiny_clip import checkpoint

ROOT = Path(__file__).resolve().parents[2]
CHAIN: dict[str, click.Command] = {
    module.__name__.split(".")[1]: module.main
    for module in (
        index,
        text,
        clip_global,
        bias,
        global_labels,
        warmup,
        cam_boxes,
        clip_local,
        aggregate,
        train,
        head,
        evaluate,
        report,
    )
}
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220)}


def write_pictures(folder: Path, classes: tuple[str, ...], train_count: int = 6, test_count: int = 3) -> None:
    """Squares on grey; a picture shows one or two of the first three classes. The CSV labels all of them."""
    rng = np.random.default_rng(0)
    rows = ["path,split,classes"]
    for number in range(train_count + test_count):
        pixels = rng.integers(90, 110, (40 + number, 48, 3), np.uint8)
        shown = [name for place, name in enumerate(classes[:3]) if number % 3 == place or number % 4 == place]
        for name in shown:
            top, left = rng.integers(0, 20, 2)
            pixels[top : top + 16, left : left + 16] = COLOURS.get(name, (200, 200, 0))
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'train' if number < train_count else 'test'},{';'.join(shown)}")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def settings(tower: str) -> dict[str, str]:
    return {
        "dataset.name": "toy",
        "teacher.model": f"{tower}.pt",
        "runtime.workers": "0",
        "runtime.device": "cpu",
        "clip_global.image_size_px": "64",
        "clip_local.image_size_px": "64",
        "clip_local.resized_px": "64",
        "bias.shrinkage": "1.0",
        "bias.max_entropy_nats": "10.0",
        "warmup.backbone": "resnet18",
        "warmup.weights": "none",
        "warmup.image_size_px": "64",
        "warmup.epochs": "1",
        "warmup.batch_size": "4",
        "warmup.lr": "0.001",
        "cam_boxes.image_size_px": "64",
        "cam_boxes.views_per_image": "1.5",
        "cam_boxes.min_side_px": "4.0",
        "train.image_size_px": "64",
        "train.epochs": "3",
        "train.batch_size": "4",
        "train.lr": "0.001",
    }


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, tower: str, **changed: str) -> None:
    """A project folder with pictures, a teacher and params.yaml; the working directory from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{tower}.pt").write_bytes(checkpoint(tower))
    values = settings(tower) | {key.replace("__", "."): value for key, value in changed.items()}
    (folder / "params.yaml").write_text(params_text(tuple(values.items())))
    ensure(folder / path_of("toy"))
    monkeypatch.chdir(folder)


@lru_cache
def params_text(values: tuple[tuple[str, str], ...]) -> str:
    """params.yaml; every section is checked for it, which takes a while."""
    return apply_preset("folder", "pictures", dict(values))


def run_stage(name: str) -> None:
    """The command of dvc.yaml, in this process."""
    words = STAGES[name]["cmd"].replace("${dataset.name}", "toy").split()[3:]
    CHAIN[name].main(words, standalone_mode=False)


def artifacts(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted((folder / "data/toy").iterdir())}
