"""A project with images, labels and a small student, for exports that are checked on real images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ccd.artifacts import checkpoint_file, class_table, classes_file, image_index
from ccd.artifacts.class_table import LABELS
from ccd.params.presets import apply_preset
from ccd.student.model import StudentSpec, build_student

CLASSES = ("cat", "dog", "-cup")
SPEC = StudentSpec("clip_resnet/1-1-1-1/16", CLASSES, 3.0, 64)
TRAIN = 12
TEST = 8


def write_project(folder: Path) -> Path:
    """Write ``params.yaml``, ``pictures/`` and ``data/toy/`` with index, labels and student. Return the student."""
    data = folder / "data/toy"
    index = _write_pictures(folder / "pictures")
    image_index.write(data / "images.parquet", index)
    classes_file.write(data / "classes.json", classes_file.ClassList(CLASSES, tuple((name,) for name in CLASSES)))
    write_labels(data / "labels.parquet", seed=0)
    (folder / "params.yaml").write_text(_params())
    info = {"epochs": 1, "thresholds": {"values": [0.5] * len(CLASSES), "source": "pseudo-labels"}}
    content = checkpoint_file.Checkpoint(SPEC.to_dict(), {"last": dict(_weights())}, "last", info)
    checkpoint_file.write(data / "student.pt", content)
    return data / "student.pt"


def write_labels(path: Path, seed: int) -> None:
    """Labels of all pictures; each class is in some of the test pictures."""
    ids = [f"{number}" for number in range(TRAIN + TEST)]
    label = np.random.default_rng(seed).permuted(np.arange(TRAIN + TEST)[:, None] % [[2, 3, 4]] == 0, axis=0)
    label[-1] = True
    columns = {"label": label.astype(np.int8), "difficult": np.zeros(label.shape, bool)}
    class_table.write(path, LABELS, class_table.ClassTable(ids, CLASSES, columns, {}))


@cache
def _params() -> str:
    changes = {"dataset.name": "toy", "evaluate.min_positives": "1"}
    return apply_preset("folder", "pictures", changes)


def _write_pictures(folder: Path) -> image_index.ImageIndex:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    count = TRAIN + TEST
    for number in range(count):
        pixels = rng.integers(0, 255, (6, 8, 3)).repeat(12, 0).repeat(12, 1) * rng.uniform(0.2, 1, 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}" for number in range(count)]
    bytes_ = np.array([(folder / f"{name}.png").stat().st_size for name in names])
    sizes = np.tile(np.array([[72, 96]], np.int32), (count, 1))
    paths = [f"{name}.png" for name in names]
    return image_index.ImageIndex(names, paths, np.arange(count) < TRAIN, sizes, bytes_, [""] * count)


@cache
def _weights() -> dict[str, torch.Tensor]:
    """Draw random weights; BatchNorm has seen some noise, so that the answers differ between pictures."""
    student = build_student(SPEC, "none", seed=0)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    student.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student(torch.rand(8, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3))
    return dict(student.state_dict())
