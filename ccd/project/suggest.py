"""Suggest a teacher and a student that suit the hardware, and list the weights to download."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ccd.artifacts.files import hash_of
from ccd.errors import url_of
from ccd.params.recipes import HARDWARE
from ccd.student.backbones import build_backbone
from ccd.student.pretrained import published

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


# Students by size, with weights whose licence allows any use (Apache-2.0). MobileNetV4 and ConvNeXt have the best
# accuracy for their speed on phones and on GPUs; the large two saw more classes than ImageNet-1k's before. The tags
# keep the weights the same in every version of timm. Parameters: 3.8, 9.7, 28.6 and 88.6 million.
STUDENTS = {
    "tiny": "timm/mobilenetv4_conv_small.e2400_r224_in1k",
    "small": "timm/mobilenetv4_conv_medium.e500_r256_in1k",
    "base": "timm/convnext_tiny.in12k_ft_in1k",
    "large": "timm/convnext_base.fb_in22k_ft_in1k",
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
    """Return the path relative to ``folder`` if it lies in it, else absolute, or a URL; links are not resolved."""
    if (url := url_of(path)) is not None:
        return url
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    base = Path(os.path.abspath(folder))  # noqa: PTH100
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


@dataclass(frozen=True)
class Download:
    """Weights that the first run fetches from ``url`` to ``target``. ``role``: teacher or student; ``size_bytes`` is
    approximate. ``key``: the parameter that may name the file instead, where a cache has no place for it by hand."""

    role: str
    name: str
    url: str
    target: Path
    size_bytes: int
    key: str | None = None

    @property
    def advice(self) -> str:
        """Where a file that was fetched by hand goes."""
        kept = f"save it as {self.target}"
        return kept if self.key is None else f"give its path as {self.key}"


def downloads(teacher: str, backbone: str, weights: str) -> list[Download]:
    """List the weights of OpenAI, torchvision and timm that are not on this machine yet; fetches nothing."""
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
    if weights == "timm":
        needed.append(_timm_download(backbone))
    return [download for download in needed if not download.target.is_file()]


def _timm_download(backbone: str) -> Download:
    from huggingface_hub import constants, try_to_load_from_cache

    facts = published(backbone)
    file = "model.safetensors"
    cached = try_to_load_from_cache(facts.repository, file) if facts.repository else None
    target = Path(cached if isinstance(cached, str) else constants.HF_HUB_CACHE)
    url = f"{facts.url}/resolve/main/{file}" if facts.repository else facts.url
    return Download("student", f"timm/{facts.name}", url, target, student_bytes(backbone), "warmup.weights")


def student_licence(backbone: str, weights: str) -> str | None:
    """Return the licence of a student's initial weights, of those that state one: timm's."""
    return published(backbone).licence if weights == "timm" else None


@lru_cache(maxsize=1)
def network_of(backbone: str) -> nn.Module:
    """Build a backbone with random weights, to look at; see `ccd.student.backbones.build_backbone`."""
    with torch.random.fork_rng(devices=[]):
        return build_backbone(backbone, "none")[0]


def student_bytes(backbone: str) -> int:
    """Return the size of one set of a network's weights, for torchvision's including the classifier for ImageNet.

    A network that neither torchvision nor timm knows counts as a ResNet-50.
    """
    from torchvision import models

    if backbone.startswith("timm/"):
        return sum(value.nbytes for value in network_of(backbone).state_dict().values())
    if backbone == "teacher" or "/" in backbone:
        backbone = "resnet50"
    return int(next(iter(models.get_model_weights(backbone))).meta["num_params"]) * 4
