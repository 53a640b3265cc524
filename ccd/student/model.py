"""The student network: a torchvision backbone, class activation maps and logits in one pass (method section 4)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision import models

from ccd.artifacts.weights_file import load_fitting, read_state_dict
from ccd.errors import CcdError, listed
from ccd.runtime.hardware import all_gather, rank0_first
from ccd.student.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize

_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

# Family prefix -> (submodules that make the features, submodule that is the classifier). ConvNeXt normalises
# between pooling and its linear layer; that LayerNorm works per location, so it stays with the features.
_FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {
    "resnet": (_RESNET, "fc"),
    "resnext": (_RESNET, "fc"),
    "wide_resnet": (_RESNET, "fc"),
    "mobilenet_v2": (("features",), "classifier"),
    "mobilenet_v3": (("features",), "classifier"),
    "efficientnet": (("features",), "classifier"),
    "convnext": (("features", "classifier.0"), "classifier.2"),
    "regnet": (("stem", "trunk_output"), "fc"),
}


def backbone_names() -> list[str]:
    """List the names that `build_backbone` accepts."""
    return [name for name in models.list_models(module=models) if name.startswith(tuple(_FAMILIES))]


def build_backbone(name: str, weights: str | Path) -> tuple[nn.Module, int]:
    """Build a torchvision network up to its last feature map.

    Args:
        name: torchvision's name, e.g. ``resnet101``; see `backbone_names`.
        weights: ``imagenet`` for torchvision's IMAGENET1K_V1 (the paper's; torchvision's own default is V2 for some),
            ``none`` for random weights (drawn from torch's global generator), or the path of a state dict (see
            `ccd.artifacts.weights_file.read_state_dict`): that of the whole torchvision model, or without its
            classifier, which is ignored.

    Returns:
        The network, (b, 3, H, W) float -> (b, K, h, w) float, and K.

    Raises:
        CcdError: unknown name, weights that cannot be had or read, or a state dict with other keys or shapes.
    """
    families = [prefix for prefix in _FAMILIES if name.startswith(prefix)]
    if not families or name not in backbone_names():
        raise CcdError(
            f"unknown backbone {name!r}; known are torchvision's {', '.join(_FAMILIES)} families: "
            f"{', '.join(backbone_names())}"
        )
    features, head = _FAMILIES[families[0]]
    model: nn.Module = models.get_model(name, weights=None)
    if str(weights) != "none":
        path = Path(weights).expanduser()
        state = _imagenet(name) if str(weights) == "imagenet" else read_state_dict(path, "warmup.weights")
        load_fitting(model, state, f"{name} from {weights}", head + ".")
    channels = next(layer.in_features for layer in model.get_submodule(head).modules() if isinstance(layer, nn.Linear))
    parts = OrderedDict((part.replace(".", "_"), model.get_submodule(part)) for part in features)
    return nn.Sequential(parts), channels


@rank0_first()
def _imagenet(name: str) -> dict[str, Tensor]:
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


@dataclass(frozen=True)
class StudentSpec:
    """Description of a student, from which a checkpoint's weights restore it.

    ``image_size_px``: side of the square it was trained at. ``mean`` and ``std``: per RGB channel, of pixels in
    [0, 1]; the network applies them itself.
    """

    backbone: str
    classes: tuple[str, ...]
    cam_boost: float
    image_size_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, strings and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentSpec:
        """Read the values that `to_dict` returns. Raises CcdError if the keys are not exactly the fields."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise CcdError(f"this student's description has the keys {sorted(values)}, expected {sorted(expected)}")
        fixed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fixed)


class Student(nn.Module):
    """Backbone -> 1x1 convolution with bias -> class activation maps -> global average -> logits.

    The bias belongs to the map, as the classifier's belongs to the logit; it cancels in a min-max normalised map.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        classes: int,
        cam_boost: float,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, classes, kernel_size=1, bias=True)
        self.cam_boost = cam_boost
        self.mean = mean
        self.std = std

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            pixels: (b, 3, H, W) float RGB in [0, 1], not normalised: the network does that.

        Returns:
            ``logits`` (b, C) float32, and ``cam`` (b, C, h, w) float32 with positive activations multiplied by
            ``cam_boost``; the logits are the spatial mean of ``cam``.
        """
        features = self.backbone(normalize(pixels, self.mean, self.std))  # (b, K, h, w)
        cam = self.head(features).float()  # (b, C, h, w)
        cam = torch.where(cam > 0, cam * self.cam_boost, cam)
        return cam.mean(dim=(2, 3)), cam


def build_student(spec: StudentSpec, weights: str | Path, seed: int) -> Student:
    """Build a student before training; its head (and a random backbone) are drawn from ``seed``.

    ``weights``: as in `build_backbone`.

    Raises:
        CcdError: no classes, or what `build_backbone` raises.
    """
    if not spec.classes:
        raise CcdError("a student needs at least one class")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, channels = build_backbone(spec.backbone, weights)
        student = Student(backbone, channels, len(spec.classes), spec.cam_boost, mean=spec.mean, std=spec.std)
    generator = torch.Generator().manual_seed(seed)
    bound = channels**-0.5
    with torch.no_grad():
        student.head.weight.uniform_(-bound, bound, generator=generator)
        student.head.bias.zero_()  # type: ignore[union-attr]
    return student


def restore_student(spec: StudentSpec, state_dict: Mapping[str, Tensor]) -> Student:
    """Restore the trained student of a checkpoint; nothing is downloaded.

    Raises:
        CcdError: the weights do not belong to ``spec``.
    """
    student = build_student(spec, "none", seed=0)
    own = student.state_dict()
    wrong = sorted(own.keys() ^ state_dict.keys())
    wrong += [key for key in own if key in state_dict and own[key].shape != state_dict[key].shape]
    if wrong:
        raise CcdError(
            f"the weights do not belong to a {spec.backbone} with {len(spec.classes)} classes; "
            f"missing, unexpected or of another shape: {listed(wrong)}"
        )
    student.load_state_dict(state_dict)
    return student


def share_batch_norm(module: nn.Module) -> None:
    """Replace BatchNorm layers in place by ones that see the batch of all ranks; keys and weights stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            layer = SharedBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer)
        else:
            share_batch_norm(child)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with statistics over all ranks' images in training, for the CPU, where torch has none."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, C, h, w); b may be 0 on a rank, if not on all."""
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(x)
        values = x.float()
        count = float(sum(all_gather(values.numel() // values.shape[1])))  # per channel
        mean = _summed(values.sum(dim=(0, 2, 3))) / count  # (C,)
        centred = values - mean.view(1, -1, 1, 1)
        variance = _summed(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over the ranks; the gradient is summed over the ranks as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))
