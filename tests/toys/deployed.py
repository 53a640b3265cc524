"""A small student with thresholds, as a checkpoint, and a folder of pictures good and bad."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ccd.artifacts import checkpoint_file
from ccd.student.model import StudentSpec, build_student

CLASSES = ("cat", "path", "-dog")
SPEC = StudentSpec("mobilenet_v2", CLASSES, 3.0, 64)


def write_student(
    path: Path, *, thresholds: tuple[float, ...] | None = (0.5, 0.25, 0.999), classes: tuple[str, ...] = CLASSES
) -> Path:
    """Random weights; BatchNorm has seen some noise, so that the answers differ between pictures."""
    info: dict[str, object] = {"epochs": 3}
    if thresholds is not None:
        info |= {"thresholds": {"values": list(thresholds), "source": "pseudo-labels"}}
    content = checkpoint_file.Checkpoint(
        replace(SPEC, classes=classes).to_dict(), {"average": dict(_weights())}, "average", info
    )
    checkpoint_file.write(path, content)
    return path


@cache
def _weights() -> dict[str, torch.Tensor]:
    student = build_student(SPEC, "none", seed=0)
    for layer in student.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # one look gives its statistics
    student.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student(torch.rand(8, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3))
    return dict(student.state_dict())


def write_photos(folder: Path, count: int = 5) -> list[Path]:
    """``0.png``, ``1.png``, ... of different sizes, in two folders."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        pixels = rng.integers(0, 255, (5 + number, 8, 3), np.uint8).repeat(12, 0).repeat(12, 1)
        pixels[..., number % 3] //= 4
        path = folder / ("deep/er" if number % 2 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths
