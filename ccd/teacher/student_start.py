"""Hand a teacher's convolutional image tower to a student, as its backbone (no section of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ccd.errors import CcdError
from ccd.teacher.clip_teacher import Teacher


@dataclass(frozen=True)
class StudentStart:
    """The convolutional image tower of a teacher, as a student's backbone (no section of the paper).

    ``origin``: one line for a person. ``backbone``: name for `ccd.student.backbones.build_backbone`; ``weights``: a
    state dict of it, on the teacher's device. ``mean`` and ``std``: per RGB channel. ``projection``: the state dict of
    the 1x1 convolution in which the backbone ends, that of the tower's projection into CLIP's space, on the CPU; None
    where that is no linear map.
    """

    origin: str
    backbone: str
    weights: Mapping[str, Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    projection: Mapping[str, Tensor] | None


def student_start(teacher: Teacher) -> StudentStart:
    """Take a teacher's image tower for a student.

    Its projection stays: over fewer channels, chosen by all that CLIP has seen, a head learns more from few images.
    Attention pools have no linear map of averaged features; as in MaskCLIP (Zhou et al., ECCV 2022) each cell goes
    through their value and output projections, without the positional embedding.

    Raises:
        CcdError: the tower is no CNN that `ccd.student.backbones.build_backbone` knows, e.g. a ViT.
    """
    visual: Any = teacher.tower.module
    if hasattr(visual, "attnpool") and hasattr(visual, "layer4"):
        layers = [getattr(visual, f"layer{number}") for number in range(1, 5)]
        name = f"clip_resnet/{'-'.join(str(len(layer)) for layer in layers)}/{visual.conv3.out_channels}"
        trunk = visual
        maps = [visual.attnpool.v_proj, visual.attnpool.c_proj]
    elif hasattr(visual, "trunk") and _gives_maps(visual.trunk):
        name = f"timm/{visual.trunk.pretrained_cfg['architecture']}"
        trunk = visual.trunk
        maps = [_timm_projection(visual)]
    else:
        raise CcdError(
            f"warmup.weights teacher: the image tower of {teacher.description} cannot be a student's start; the "
            "ResNets of OpenAI and open_clip can (RN50, RN101, RN50x4, ...), and open_clip's towers with a CNN of timm "
            "as trunk; else use warmup.weights: imagenet with a torchvision name as warmup.backbone, e.g. resnet101"
        )
    mean, std = ((float(red), float(green), float(blue)) for red, green, blue in teacher.pixel_mean_std)
    origin = f"the image tower of {teacher.description.partition(',')[0]}"
    projection = _composed(maps)
    backbone = name if projection is None else f"{name}+{len(projection['bias'])}"
    return StudentStart(origin, backbone, trunk.state_dict(), mean, std, projection)


def _gives_maps(trunk: Any) -> bool:
    """Tell whether a trunk of timm makes feature maps (b, K, h, w) from images of any size."""
    try:
        with torch.no_grad():
            shape = trunk.forward_features(next(trunk.parameters()).new_zeros(1, 3, 64, 96)).shape
    except (AssertionError, RuntimeError, ValueError):
        return False
    return len(shape) == 4 and shape[2] * 3 == shape[3] * 2


def _timm_projection(visual: Any) -> nn.Module | None:
    """Return the projection after the average pool of open_clip's timm towers; None after an attention pool."""
    parts = dict(visual.head.named_children())
    if "pool" in parts or "mlp" in parts:
        return None
    found: nn.Module = parts["proj"] if "proj" in parts else visual.trunk.get_classifier()
    return found


def _composed(maps: Sequence[Any]) -> dict[str, Tensor] | None:
    """Return linear layers in a row, K -> D, as one 1x1 convolution; None if one is not linear."""
    if not all(isinstance(layer, nn.Linear) for layer in maps):
        return None
    weight = torch.eye(maps[0].in_features)
    bias = torch.zeros(maps[0].in_features)
    for layer in maps:
        weight = layer.weight.cpu() @ weight
        bias = layer.weight.cpu() @ bias + (0 if layer.bias is None else layer.bias.cpu())
    return {"weight": weight[:, :, None, None], "bias": bias}
