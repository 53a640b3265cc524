"""Published weights of backbones: how they are fetched, the pixels that they expect, and their licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccd.errors import CcdError, explained, listed
from ccd.runtime.hardware import rank0_first
from ccd.student.backbones import models, timm_entry
from ccd.student.model import Student, StudentSpec, build_student
from ccd.student.transforms import IMAGENET_MEAN, IMAGENET_STD

HUB = "https://huggingface.co"
# Licences that by their own text allow no commercial use; all others are named as they are.
_NOT_COMMERCIAL = ("-nc-", "noncommercial", "apple-amlr")


@dataclass(frozen=True)
class Published:
    """Facts that timm states about the weights of a network.

    ``name``: with the tag of the weights. ``repository``: on the Hugging Face Hub; empty if they are not there.
    ``mean`` and ``std``: per RGB channel, of the pixels in [0, 1] that they expect.
    """

    name: str
    repository: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def url(self) -> str:
        """Where the weights are; the search for the name if they are not on the Hub."""
        return f"{HUB}/{self.repository}" if self.repository else f"{HUB}/models?search={self.name}"


def published(backbone: str) -> Published:
    """Look up what the installed timm states about ``timm/NAME``; without a tag, about its default weights.

    Raises:
        CcdError: timm is not installed, or has no such network or tag.
    """
    timm, entry = timm_entry(backbone)
    config = timm.get_pretrained_cfg(entry)
    if config is None:  # a network that was never trained, perhaps
        return Published(entry, "", "unknown", IMAGENET_MEAN, IMAGENET_STD)
    name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    found = Published(name, config.hf_hub_id or "", config.license or "unknown", config.mean, config.std)
    licence = f"unknown, see {found.url}" if found.licence == "unknown" else found.licence
    remark = " (no commercial use)" if any(part in licence for part in _NOT_COMMERCIAL) else ""
    return replace(found, licence=licence + remark)


def check_published(backbone: str) -> None:
    """Raise CcdError unless timm publishes weights for ``timm/NAME``, or what `published` raises."""
    timm, entry = timm_entry(backbone)
    if not timm.models.is_model_pretrained(entry):
        tags = timm.list_pretrained(f"{entry}.*")
        others = f"one of {listed(tags)}" if tags else "another network"
        raise CcdError(f"timm has no weights for {backbone}; take {others}, or warmup.weights: none")


def start_student(spec: StudentSpec, weights: str, seed: int) -> tuple[Student, StudentSpec, str, dict[str, str]]:
    """Build a student whose backbone starts from published, local or random weights.

    A backbone of timm sees pixels with the mean and standard deviation that timm states for it.

    Args:
        weights: ``imagenet`` for torchvision's IMAGENET1K_V1 (the paper's; torchvision's own default is V2 for some),
            ``timm`` for timm's, or what `ccd.student.backbones.build_backbone` takes.

    Returns:
        The student, its ``spec``, the origin of its weights for a person, and for its checkpoint ``start`` and
        ``start_licence`` of weights that timm publishes, nothing of others.

    Raises:
        CcdError: the weights cannot be had, or what `ccd.student.model.build_student` raises.
    """
    facts = published(spec.backbone) if spec.backbone.startswith("timm/") else None
    if facts is not None:
        spec = replace(spec, mean=facts.mean, std=facts.std)
    state: str | Mapping[str, Tensor] = weights
    origin = weights
    recorded = {}
    if weights == "imagenet":
        state = _imagenet(spec.backbone)
    elif weights == "timm":
        if facts is None:
            raise CcdError(f"warmup.weights: timm goes with a backbone timm/NAME, not {spec.backbone}")
        state = _of_timm(spec.backbone, facts)
        origin = f"timm's weights {facts.name}"
        recorded = {"start": origin, "start_licence": facts.licence}
    return build_student(spec, state, seed), spec, origin, recorded


@rank0_first()
def _imagenet(name: str) -> dict[str, Tensor]:
    if "/" in name:
        more = ": timm," if name.startswith("timm/") else ":"
        raise CcdError(
            f"torchvision has no ImageNet weights for {name}; warmup.weights{more} none or a local state dict"
        )
    entry = getattr(models.get_model_weights(name), "IMAGENET1K_V1", None)
    if entry is None:
        raise CcdError(f"torchvision has no IMAGENET1K_V1 weights for {name}; give a local state dict or 'none'")
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network (URLError is an OSError), or a damaged download
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CcdError(
            f"could not get the ImageNet weights of {name} ({error}): put {entry.url} into {folder} "
            "(the environment variable TORCH_HOME moves that folder), or give the path of a local state dict as weights"
        ) from None
    return state


@rank0_first()
def _of_timm(name: str, facts: Published) -> dict[str, Tensor]:
    """Load the weights as timm does, with their classifier, so that timm checks that every tensor is there."""
    check_published(name)
    timm, entry = timm_entry(name)
    try:
        with torch.random.fork_rng(devices=[]):  # timm draws random weights first
            model: Any = timm.create_model(entry, pretrained=True)
    except Exception as error:  # the classes of the Hub's and its HTTP library's errors have no common base
        if explained(error) is not None:  # a full disk, say
            raise
        reason = listed(str(error).split("\n"), 1).strip()
        raise CcdError(
            f"could not get timm's weights of {name} ({type(error).__name__}: {reason}): they are fetched once, into "
            f"the cache of huggingface_hub (HF_HOME); without a network, fetch model.safetensors from {facts.url} "
            "elsewhere and give its path as warmup.weights"
        ) from None
    state: dict[str, Tensor] = model.state_dict()
    return state
