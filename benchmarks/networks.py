"""CLIP and students of the published shapes with random weights: speed does not depend on what they know."""

from __future__ import annotations

from pathlib import Path

import torch
from clip.model import CLIP

from ccd.artifacts import checkpoint_file
from ccd.student.model import Student, StudentSpec, build_student
from ccd.teacher.clip_teacher import CLIP_MEAN_STD, ClipTeacher, ImageTower
from ccd.teacher.openai import image_tower, tokenize

# name -> embedding width, native side, layers, width, patch, side to measure at
SHAPES: dict[str, tuple[int, int, int | tuple[int, int, int, int], int, int | None, int]] = {
    "ViT-B/32": (512, 224, 12, 768, 32, 224),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 320),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 640),
    "tiny": (64, 32, 1, 64, 16, 32),
}
CLASSES = tuple(f"class {number}" for number in range(20))


def random_clip(name: str) -> CLIP:
    """A CLIP of `SHAPES`; its text tower, which is not measured, has one layer."""
    embed_dim, native_px, layers, width, patch_px, _ = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CLIP(embed_dim, native_px, layers, width, patch_px, 77, 49408, 64, 1, 1)
    return network.eval()


def teacher_of(name: str, device: torch.device) -> tuple[ClipTeacher, ImageTower]:
    """The teacher as the pipeline builds it, and its bare image tower."""
    network = random_clip(name)
    mean, std = CLIP_MEAN_STD
    teacher = ClipTeacher(
        network,
        image_tower(network),
        tokenize,
        embed_dim=SHAPES[name][0],
        mean=mean,
        std=std,
        precision="fp32",
        device=device,
        description=name,
    )
    return teacher, image_tower(network)


def save_tiny_clip(path: Path) -> None:
    """A checkpoint that ``teacher.model`` takes."""
    torch.save(random_clip("tiny").state_dict(), path)


def student_of(backbone: str, size_px: int) -> Student:
    """A student of `CLASSES` with random weights, whose normalisation has seen pixels: as it is built every image has a
    probability of 0.5 in every class, and all of them would ask for views."""
    student = build_student(StudentSpec(backbone, CLASSES, 3.0, size_px), "none", seed=0)
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of what is seen
    with torch.no_grad():
        student.train()(ready(16, (size_px, size_px), torch.device("cpu")))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return student.eval()


def save_student(path: Path, backbone: str, size_px: int) -> None:
    """A checkpoint as warmup and train write it, with thresholds."""
    spec = StudentSpec(backbone, CLASSES, 3.0, size_px)
    weights = {"last": dict(student_of(backbone, size_px).state_dict())}
    info = {"epochs": 1, "thresholds": {"values": [0.5] * len(CLASSES), "source": "pseudo-labels"}}
    checkpoint_file.write(path, checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", info))


def ready(count: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Normalised pixels (count, 3, h, w) float32 on the device, as the networks like them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pixels = torch.randn(count, 3, *size)
    return pixels.to(device, memory_format=torch.channels_last)
