"""Backbones of the student: networks of torchvision, CLIP's ResNets, and timm, up to their last feature map."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ccd.artifacts.weights_file import load_fitting, read_state_dict
from ccd.errors import CcdError, install_advice, listed

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
# CLIP's own ResNets: three convolutions as stem, and an attention pool that a student does not have.
_CLIP_STEM = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3", "relu3", "avgpool")
_REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError)  # of networks that read other sizes of images
_VITS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")  # timm's modules with plain ViTs
_CLIP_RESNET = re.compile(r"clip_resnet/(\d{1,2})-(\d{1,2})-(\d{1,2})-(\d{1,2})/(\d{1,3})")
_COMPILER = "torch._dynamo.utils"


def _torchvision_models() -> Any:
    """Import ``torchvision.models`` without PyTorch's compiler, which is nine tenths of that import.

    torchvision asks the compiler for one function, by which its RoI pooling decides whether to compile itself.
    """
    if _COMPILER in sys.modules or "torchvision" in sys.modules:
        return import_module("torchvision.models")
    sys.modules[_COMPILER] = _Absent(_COMPILER)
    try:
        return import_module("torchvision.models")
    finally:
        if isinstance(sys.modules[_COMPILER], _Absent):
            del sys.modules[_COMPILER]


class _Absent(ModuleType):
    """Stands in for the compiler's module until that function is called or any other name is asked for."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """Ask the compiler."""
        return bool(import_module(_COMPILER).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        """Import the compiler. Special names are those by which Python knows modules."""
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(import_module(_COMPILER), name)


models = _torchvision_models()


def backbone_names() -> list[str]:
    """List torchvision's names that `build_backbone` accepts."""
    return [name for name in models.list_models(module=models) if name.startswith(tuple(_FAMILIES))]


def build_backbone(name: str, weights: str | Path | Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """Build a network up to its last feature map.

    Args:
        name: torchvision's name, e.g. ``resnet101``, see `backbone_names`; ``timm/NAME`` for a CNN or a plain ViT of
            the package timm (an extra); ``clip_resnet/3-4-6-3/64`` for the ResNet of a CLIP, by its blocks per layer
            and its width. ``NAME+D`` ends in a 1x1 convolution to D channels, drawn at random.
        weights: ``none`` for random weights (drawn from torch's global generator), a state dict or the path of one (see
            `ccd.artifacts.weights_file.read_state_dict`): that of the whole model, or without its classifier, which is
            ignored. For published ones see `ccd.student.pretrained`.

    Returns:
        The network, (b, 3, H, W) float -> (b, K, h, w) float, and K.

    Raises:
        CcdError: unknown name, no timm, weights that cannot be read, or a state dict with other keys or shapes.
    """
    name, _, width = name.partition("+")
    build = {"timm": _timm, "clip_resnet": _clip_resnet}.get(name.partition("/")[0], _torchvision)
    network = build(name)
    if isinstance(weights, Mapping):
        load_fitting(network.whole, weights, name, network.ignored)
    elif str(weights) != "none":
        path = Path(weights).expanduser()
        load_fitting(network.whole, read_state_dict(path, "warmup.weights"), f"{name} from {weights}", network.ignored)
    parts = OrderedDict((part.replace(".", "_"), network.whole.get_submodule(part)) for part in network.features)
    trunk = network.trunk or nn.Sequential(parts)
    if not width:
        return trunk, network.channels
    projection = nn.Conv2d(network.channels, int(width), kernel_size=1)
    return nn.Sequential(OrderedDict(trunk=trunk, projection=projection)), int(width)


@dataclass(frozen=True)
class _Network:
    """A network: the ``whole``, prefixes of keys to be ``ignored`` (its classifier), K ``channels`` before it, and its
    submodules that make the ``features``, one after the other; or else a ``trunk`` that does."""

    whole: nn.Module
    ignored: tuple[str, ...]
    channels: int
    features: tuple[str, ...] = ()
    trunk: nn.Module | None = None


def _torchvision(name: str) -> _Network:
    families = [prefix for prefix in _FAMILIES if name.startswith(prefix)]
    if not families or name not in backbone_names():
        raise CcdError(
            f"unknown backbone {name!r}; known are torchvision's {', '.join(_FAMILIES)} families: "
            f"{', '.join(backbone_names())}; and timm/NAME"
        )
    features, head = _FAMILIES[families[0]]
    model: nn.Module = models.get_model(name, weights=None)
    channels = next(layer.in_features for layer in model.get_submodule(head).modules() if isinstance(layer, nn.Linear))
    return _Network(model, (f"{head}.",), channels, features)


def _clip_resnet(name: str) -> _Network:
    from clip.model import ModifiedResNet

    numbers = _CLIP_RESNET.fullmatch(name)
    if numbers is None:
        raise CcdError(f"unknown backbone {name!r}; a ResNet of CLIP is called like clip_resnet/3-4-6-3/64")
    *blocks, width = map(int, numbers.groups())
    model = ModifiedResNet(blocks, output_dim=1, heads=1, input_resolution=32, width=width)
    layers = tuple(f"layer{number}" for number in range(1, 5))
    return _Network(model, ("attnpool.",), 32 * width, _CLIP_STEM + layers)


def timm_entry(name: str) -> tuple[Any, str]:
    """Return the package timm and its own name for the backbone ``timm/NAME``, perhaps with a tag of weights.

    Raises:
        CcdError: timm is not installed, or has no such network or tag.
    """
    try:
        import timm
    except ImportError as error:
        raise CcdError(f"the backbone {name} needs the package timm ({error}): {install_advice('timm')}") from None
    entry = name.removeprefix("timm/")
    network, _, tag = entry.partition(".")
    if not timm.is_model(network):  # other names would be looked up on a server
        raise CcdError(f"unknown backbone {name!r}; timm {timm.__version__} has no {network!r}, see timm.list_models()")
    known = timm.list_pretrained(f"{network}.*") if tag else [entry]
    if entry not in known:
        raise CcdError(f"unknown backbone {name!r}; timm {timm.__version__} has {listed(known) or f'only {network}'}")
    return timm, entry


def _timm(name: str) -> _Network:
    timm, entry = timm_entry(name)
    is_vit = timm.model_entrypoint(entry.partition(".")[0]).__module__.rpartition(".")[2] in _VITS
    how: dict[str, Any] = {"dynamic_img_size": True} if is_vit else {"global_pool": ""}
    shape: tuple[int, ...] = ()
    with suppress(*_REFUSALS):
        model: Any = timm.create_model(entry, pretrained=False, num_classes=0, **how)
        trunk = (PatchMap(model) if is_vit else model).eval()
        step_px = trunk.patch_px if is_vit else 32
        shape = _map_shape(trunk, 2 * step_px, 3 * step_px)
    if len(shape) != 4 or shape[2] * 3 != shape[3] * 2:
        raise CcdError(f"{name} gives no feature map for images of any size; take a CNN or a plain ViT")
    if is_vit or not _map_shape(trunk, 72, 104):
        trunk.side_step_px = step_px
        trunk.register_forward_pre_hook(lambda module, given: check_sides(name, step_px, *given[0].shape[-2:]))
    heads = model.pretrained_cfg.get("classifier") or "classifier"
    ignored = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return _Network(model, (*ignored, "attn_pool.") if is_vit else ignored, shape[1], trunk=trunk.train())


def _map_shape(trunk: nn.Module, height_px: int, width_px: int) -> tuple[int, ...]:
    """Return the shape of a network's map of an image, () if it reads no such image."""
    with suppress(*_REFUSALS), torch.no_grad():
        return tuple(trunk(torch.zeros(1, 3, height_px, width_px)).shape)
    return ()


def side_step_px(backbone: nn.Module) -> int:
    """Return what the sides of a backbone's images must be multiples of: a patch, or the stride of its map."""
    return max(int(getattr(part, "side_step_px", 1)) for part in backbone.modules())


def check_sides(name: str, step_px: int, *sides_px: int) -> None:
    """Check that sides are multiples of `side_step_px`. Raises CcdError, which names some that are."""
    for side_px in (side_px for side_px in sides_px if side_px % step_px):
        lower = max(side_px // step_px, 1) * step_px
        raise CcdError(
            f"{name} reads images in steps of {step_px} px, so image_size_px (of warmup, cam_boxes and train) must be "
            f"a multiple of that, e.g. {lower} or {lower + step_px}, not {side_px}"
        )


class PatchMap(nn.Module):
    """A plain ViT of timm whose patches make the feature map: pixels (b, 3, H, W) -> (b, K, H / patch, W / patch).

    Its last norm applies to every patch; class and register tokens are dropped, and so is an attention pool. Position
    embeddings are those of timm's image size, interpolated to others as they come.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        vit.reset_classifier(0, "")
        self.vit = vit
        self.patch_px = int(vit.patch_embed.feat_ratio())

    def forward(self, pixels: Tensor) -> Tensor:
        """See above."""
        grid = (pixels.shape[2] // self.patch_px, pixels.shape[3] // self.patch_px)
        tokens: Tensor = self.vit.fc_norm(self.vit.forward_features(pixels))[:, self.vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).reshape(pixels.shape[0], -1, *grid)
