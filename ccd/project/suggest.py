"""Suggest a teacher and a student that suit the hardware, and list the weights to download."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ccd.artifacts.files import hash_of
from ccd.params.recipes import HARDWARE

LARGE_GPU_GB = 20.0
FIRST_WITH_BF16 = 8  # major version of CUDA's compute capability: Ampere


class Tower(NamedTuple):
    """One of OpenAI's CLIPs: dimension of the embeddings, native image size, size of the file (10^6 bytes)."""

    embed_dim: int
    side_px: int
    megabytes: int


TOWERS = {
    "RN50": Tower(1024, 224, 256),
    "RN101": Tower(512, 224, 292),
    "RN50x4": Tower(640, 288, 422),
    "RN50x16": Tower(768, 384, 661),
    "RN50x64": Tower(1024, 448, 1353),
    "ViT-B/32": Tower(512, 224, 354),
    "ViT-B/16": Tower(512, 224, 351),
    "ViT-L/14": Tower(768, 224, 933),
    "ViT-L/14@336px": Tower(768, 336, 934),
}


@dataclass(frozen=True)
class Suggestion:
    """Values for ``params.yaml`` (``section.key`` -> value) and the reason for them."""

    settings: dict[str, Any]
    reason: str


def suggest(device: torch.device) -> Suggestion:
    """Suggest the paper's networks for a GPU of at least `LARGE_GPU_GB`, smaller ones for smaller GPUs and for CPUs."""
    if device.type != "cuda":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Suggestion(
            dict(HARDWARE["cpu"]), f"no GPU, {cores} CPU cores: the smallest common CLIP and a small student"
        )
    properties = torch.cuda.get_device_properties(device)
    gigabytes = properties.total_memory / 2**30
    gpu = f"{properties.name}, {gigabytes:.0f} GB"
    large = gigabytes >= LARGE_GPU_GB
    settings = dict(HARDWARE["large_gpu" if large else "small_gpu"])
    if properties.major < FIRST_WITH_BF16:
        settings |= {key: "fp16" for key, value in settings.items() if value == "bf16"}
    if large:
        return Suggestion(settings, f"{gpu}: the paper's networks and image sizes")
    return Suggestion(settings, f"{gpu}, less than {LARGE_GPU_GB:.0f}: a medium CLIP and student")


def local_file(value: str, folder: Path) -> tuple[str, str] | None:
    """Return the path ``value`` as a project in ``folder`` names it, and the file's SHA-256; None if it is no file."""
    path = Path(value).expanduser()
    return (path_from(path, folder), hash_of(path)) if path.is_file() else None


def path_from(path: Path, folder: Path) -> str:
    """Return the path relative to ``folder`` if it lies in it, else the absolute path; links are not resolved."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    base = Path(os.path.abspath(folder))  # noqa: PTH100
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


@dataclass(frozen=True)
class Download:
    """Weights that the first run fetches from ``url`` to ``target``. ``role``: teacher or student; ``size_bytes`` is
    approximate."""

    role: str
    name: str
    url: str
    target: Path
    size_bytes: int


def downloads(teacher: str, backbone: str, weights: str) -> list[Download]:
    """List the weights of OpenAI and torchvision that are not on this machine yet; fetches nothing."""
    from clip.clip import _MODELS
    from torchvision import models

    needed = []
    if teacher in _MODELS:
        url = _MODELS[teacher]
        target = Path("~/.cache/clip").expanduser() / Path(url).name
        needed.append(Download("teacher", teacher, url, target, TOWERS[teacher].megabytes * 1_000_000))
    entry = getattr(models.get_model_weights(backbone), "IMAGENET1K_V1", None) if weights == "imagenet" else None
    if entry is not None:
        target = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        needed.append(Download("student", backbone, entry.url, target, student_bytes(backbone)))
    return [download for download in needed if not download.target.is_file()]


def student_bytes(backbone: str) -> int:
    """Return the size of one set of a torchvision network's weights, including its classifier for ImageNet.

    A network that torchvision does not know counts as a ResNet-50.
    """
    from torchvision import models

    if backbone == "teacher" or "/" in backbone:
        backbone = "resnet50"
    return int(next(iter(models.get_model_weights(backbone))).meta["num_params"]) * 4
