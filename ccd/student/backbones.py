"""torchvision classifiers without their classifier: feature maps (b, K, h, w) for the student's head."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from ccd.artifacts.weights_file import load_fitting, read_state_dict
from ccd.errors import CcdError
from ccd.runtime.collectives import rank0_first

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
    """Names that `build_backbone` accepts."""
    return [name for name in models.list_models(module=models) if name.startswith(tuple(_FAMILIES))]


def build_backbone(name: str, weights: str | Path) -> tuple[nn.Module, int]:
    """A torchvision network up to its last feature map.

    Args:
        name: torchvision's name, e.g. ``resnet101``; see `backbone_names`.
        weights: ``imagenet`` for torchvision's IMAGENET1K_V1 (the paper's; torchvision's own default is V2 for some),
            ``none`` for random weights (drawn from torch's global generator), or the path of a state dict (see
            `ccd.artifacts.weights_file.read_state_dict`): that of the whole torchvision model, or without its classifier, which is
            ignored.

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
