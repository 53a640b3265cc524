"""CLIP and students of the published shapes with random weights, since speed does not depend on weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from clip.model import CLIP

from ccd.artifacts import checkpoint_file
from ccd.runtime.hardware import Precision
from ccd.student.model import Student, StudentSpec, build_student
from ccd.teacher.clip_teacher import CLIP_MEAN_STD, ClipTeacher, ImageTower
from ccd.teacher.openai import image_tower, tokenize, unfilled

# name -> embedding width, native side, layers, width, patch, side to measure at
SHAPES: dict[str, tuple[int, int, int | tuple[int, int, int, int], int, int | None, int]] = {
    "ViT-B/32": (512, 224, 12, 768, 32, 224),
    "ViT-B/16": (512, 224, 12, 768, 16, 224),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 320),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 640),
    "tiny": (64, 32, 1, 64, 16, 32),
}
CLASSES = tuple(f"class {letter}" for letter in "abcdefghijklmnopqrst")  # numbers would look like a numbered list


def random_clip(name: str) -> CLIP:
    """Build a CLIP of `SHAPES`; its text tower, which is not measured, has one layer."""
    embed_dim, native_px, layers, width, patch_px, _ = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CLIP(embed_dim, native_px, layers, width, patch_px, 77, 49408, 64, 1, 1)
    return network.eval()


def teacher_of(name: str, device: torch.device, precision: Precision) -> tuple[ClipTeacher, ImageTower]:
    """Build the teacher as the pipeline does, and its bare image tower."""
    network = random_clip(name)
    mean, std = CLIP_MEAN_STD
    teacher = ClipTeacher(
        network,
        image_tower(network),
        tokenize,
        embed_dim=SHAPES[name][0],
        mean=mean,
        std=std,
        precision=precision,
        device=device,
        description=name,
    )
    return teacher, image_tower(network)


def save_tiny_clip(path: Path) -> None:
    """Write a checkpoint that ``teacher.model`` accepts."""
    torch.save(random_clip("tiny").state_dict(), path)


def save_large_clip(path: Path, as_archive: bool) -> None:
    """Write a checkpoint of RN50x64's shapes in fp16, 1.3 GB: a TorchScript archive as OpenAI's, or a state dict."""
    network = unfilled(lambda: CLIP(1024, 448, (3, 15, 36, 10), 128, None, 77, 49408, 1024, 16, 12))
    drawn = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, value in network.state_dict().items():
        size = value.numel()
        is_scale = name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight"))
        values = torch.ones(size) if is_scale else drawn.repeat(-(-size // len(drawn)))[:size]
        weights[name] = values.view(value.shape).to(torch.float16 if value.is_floating_point() else value.dtype)
    if not as_archive:
        torch.save(weights, path)
        return
    network.load_state_dict(weights, assign=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is no longer developed
        torch.jit.save(torch.jit.script(_Named.of(network)), str(path))


class _Named(torch.nn.Module):
    """The weights of a module by their names, without its code, which is not all of TorchScript."""

    @classmethod
    def of(cls, module: torch.nn.Module) -> _Named:
        named = cls()
        for name, parameter in module.named_parameters(recurse=False):
            named.register_parameter(name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            named.register_buffer(name, buffer)
        for name, part in module.named_children():
            named.add_module(name, cls.of(part))
        return named

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Do nothing; TorchScript wants it."""
        return pixels


def student_of(backbone: str, size_px: int) -> Student:
    """Build a student of `CLASSES` with random weights and normalisation statistics of random pixels.

    Without the statistics all probabilities are 0.5, so that every class of every image would ask for views.
    """
    student = build_student(StudentSpec(backbone, CLASSES, 3.0, size_px), "none", seed=0)
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics are those of the one batch
    with torch.no_grad():
        student.train()(ready(16, (size_px, size_px), torch.device("cpu")))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return student.eval()


def save_student(path: Path, backbone: str, size_px: int) -> None:
    """Write a checkpoint as stage ``train`` does, with thresholds."""
    spec = StudentSpec(backbone, CLASSES, 3.0, size_px)
    weights = {"last": dict(student_of(backbone, size_px).state_dict())}
    info = {"epochs": 1, "thresholds": {"values": [0.5] * len(CLASSES), "source": "pseudo-labels"}}
    checkpoint_file.write(path, checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", info))


def ready(count: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return random normalised pixels (count, 3, h, w) float32, channels last, on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pixels = torch.randn(count, 3, *size)
    return pixels.to(device, memory_format=torch.channels_last)
