"""The student network: a CNN backbone, class activation maps and logits in one pass (method section 4)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from ccd.artifacts.weights_file import load_fitting, read_state_dict
from ccd.errors import CcdError, install_advice, listed
from ccd.student.transforms import IMAGENET_MEAN, IMAGENET_STD

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
_VITS = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")  # timm's modules with plain ViTs
_CLIP_RESNET = re.compile(r"clip_resnet/(\d{1,2})-(\d{1,2})-(\d{1,2})-(\d{1,2})/(\d{1,3})")


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
    try:
        model: Any = timm.create_model(entry, pretrained=False, num_classes=0, **how)
        trunk = PatchMap(name, model) if is_vit else model
        side_px = trunk.patch_px if is_vit else 32
        with torch.no_grad():
            shape = tuple(trunk.eval()(torch.zeros(1, 3, 2 * side_px, 3 * side_px)).shape)
    except (AssertionError, RuntimeError, TypeError, ValueError):  # networks of one image size, or without a map
        shape = ()
    if len(shape) != 4 or shape[2] * 3 != shape[3] * 2:
        raise CcdError(f"{name} gives no feature map for images of any size; take a CNN or a plain ViT")
    heads = model.pretrained_cfg.get("classifier") or "classifier"
    ignored = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return _Network(model, (*ignored, "attn_pool.") if is_vit else ignored, shape[1], trunk=trunk.train())


class PatchMap(nn.Module):
    """A plain ViT of timm whose patches make the feature map: pixels (b, 3, H, W) -> (b, K, H / patch, W / patch).

    Its last norm applies to every patch; class and register tokens are dropped, and so is an attention pool. Position
    embeddings are those of timm's image size, interpolated to others as they come. ``name``: for messages.
    """

    def __init__(self, name: str, vit: Any) -> None:
        super().__init__()
        vit.reset_classifier(0, "")
        self.name = name
        self.vit = vit
        self.patch_px = int(vit.patch_embed.feat_ratio())

    def cells(self, side_px: int) -> int:
        """Return the number of patches on a side. Raises CcdError if they do not fill it."""
        if side_px % self.patch_px:
            lower = max(side_px // self.patch_px, 1) * self.patch_px
            raise CcdError(
                f"{self.name} cuts images into patches of {self.patch_px} px, so image_size_px (of warmup, cam_boxes "
                f"and train) must be a multiple of that, e.g. {lower} or {lower + self.patch_px}, not {side_px}"
            )
        return side_px // self.patch_px

    def forward(self, pixels: Tensor) -> Tensor:
        """See above."""
        grid = (self.cells(pixels.shape[2]), self.cells(pixels.shape[3]))
        tokens: Tensor = self.vit.fc_norm(self.vit.forward_features(pixels))[:, self.vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).reshape(pixels.shape[0], -1, *grid)


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

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor

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
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the feature map (b, K, h, w) of a batch, see `forward`."""
        features: Tensor = self.backbone((pixels - self.mean) / self.std)
        return features

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            pixels: (b, 3, H, W) float RGB in [0, 1], not normalised: the network does that.

        Returns:
            ``logits`` (b, C) float32, and ``cam`` (b, C, h, w) float32 with positive activations multiplied by
            ``cam_boost``; the logits are the spatial mean of ``cam``.
        """
        cam = self.head(self.features(pixels)).float()  # (b, C, h, w)
        cam = torch.where(cam > 0, cam * self.cam_boost, cam)
        return cam.mean(dim=(2, 3)), cam


def build_student(spec: StudentSpec, weights: str | Path | Mapping[str, Tensor], seed: int) -> Student:
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
        if isinstance(backbone, PatchMap):
            backbone.cells(spec.image_size_px)
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
