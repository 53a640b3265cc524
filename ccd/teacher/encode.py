"""Load the teacher, the frozen CLIP that labels the images, and send images and class names through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision, check_precision, one_ahead, rank0_first, read_later
from ccd.runtime.store import fingerprint
from ccd.teacher import open_clip, openai
from ccd.teacher.clip_teacher import Backend, Normalization, Teacher

# Smaller batches take other kernels on CPUs, whose sums round otherwise: from this size on, an image's features do not
# depend on what else is in its batch.
SMALLEST_BATCH = 16
TEXTS_PER_BATCH = 256


@rank0_first()
def load_teacher(
    backend: Backend,
    model: str,
    pretrained: str | None,
    *,
    sha256: str | None = None,
    normalization: Normalization = "clip",
    precision: Precision = "fp32",
    device: torch.device,
) -> Teacher:
    """Load a frozen CLIP.

    Args:
        backend: ``clip`` (OpenAI's models) or ``open_clip`` (an extra).
        model: a name, or the path of a local checkpoint; with open_clip also of a config JSON or a folder.
        pretrained: open_clip's tag, or the path of the weights.
        sha256: checked if the weights are a local file.
        normalization: ``clip`` (the model's own pixel mean and std) or ``imagenet`` (the published code).
        precision: ``fp16`` needs a GPU.

    Raises:
        CcdError: an unknown name, a missing or wrong file, a failed download, a precision the device does not have.
    """
    check_precision(device, precision, "teacher.precision")
    if backend == "open_clip":
        return open_clip.load(
            model, pretrained, sha256=sha256, normalization=normalization, precision=precision, device=device
        )
    if pretrained is not None:
        raise CcdError("teacher.pretrained is for the backend open_clip: leave it empty")
    return openai.load(model, sha256=sha256, normalization=normalization, precision=precision, device=device)


def encoding(teacher: Teacher, modules: tuple[str, ...] = (), **preprocessing: object) -> str:
    """Return the name of a teacher's features in the store: all that they depend on besides the pixels.

    ``modules``: dotted names of those that make them, besides the ones that every encoding uses.
    """
    return fingerprint(
        "features",
        ("ccd.teacher.encode", "ccd.views.crops", "ccd.images.batches", "ccd.runtime.hardware", *modules),
        teacher=[teacher.description, teacher.fingerprint],
        preprocessing=preprocessing,
    )


class ImageEncoder(Protocol):
    """A teacher, as far as images go, or `ccd.teacher.dense.WithRegions`."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        ...

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Encode (b, 3, h, w) uint8 to rows (b, D) float32; a GPU may still be at work when this returns."""
        ...


def encode_images(
    teacher: ImageEncoder, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Embed batches in their order.

    A batch of fewer than `SMALLEST_BATCH` images is filled up with copies, so that encoding all images or only some of
    them gives the same features, bit for bit on a CPU. A GPU, which plans anew for every shape and size of a batch,
    gets only multiples of `SMALLEST_BATCH` besides the largest size. It has the next batch before the features of the
    one before are read, so that it does not wait for the host.

    Args:
        batches: (rows (b,) int64, pixels (b, 3, h, w) uint8), e.g. of `ccd.images.batches.image_batches`; a loader
            with workers decodes the next batches while this one is computed.
        names: the image of each row, for error messages.

    Yields:
        rows (b,) int64 and features (b, D) float32, a teacher's with unit rows.

    Raises:
        CcdError: the teacher gives NaN or Inf, naming the images.
    """
    on_cpu = teacher.device.type == "cpu"

    def started() -> Iterator[tuple[Tensor, Callable[[], Tensor]]]:
        largest = 0
        for rows, pixels in batches:
            largest = 0 if on_cpu else max(largest, len(pixels))
            yield rows, read_later(teacher.embed_image(_filled(pixels, largest)))

    for rows, read in started() if on_cpu else one_ahead(started()):
        yield _checked(rows, read(), names)


def _filled(pixels: Tensor, largest: int) -> Tensor:
    """Fill a batch up with copies of its last image, to the next multiple of `SMALLEST_BATCH` below ``largest``."""
    multiple = -(-len(pixels) // SMALLEST_BATCH) * SMALLEST_BATCH
    fill = max(SMALLEST_BATCH, min(multiple, largest)) - len(pixels)
    return torch.cat([pixels, pixels[-1:].expand(fill, -1, -1, -1)]) if fill > 0 else pixels


def _checked(rows: Tensor, features: Tensor, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their features, without those of the copies. Raises CcdError for NaN or Inf."""
    features = features[: len(rows)]
    bad = rows[~torch.isfinite(features).all(dim=1)].tolist()
    if bad:
        raise CcdError(
            f"the teacher gave NaN or Inf for {listed(names[row] for row in bad)}: try teacher.precision fp32, "
            "or other weights"
        )
    return rows.numpy(), features.numpy()


def class_embeddings(teacher: Teacher, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """Embed each class: t_c, the normalised mean of the unit embeddings of every template with every text.

    Args:
        classes: the texts of each of the C classes; several are averaged.
        templates: prompts such as ``a photo of the {}``.

    Returns:
        (C, D) float32, unit rows.

    Raises:
        CcdError: no class, template or text, a template without exactly one ``{}``, a prompt that is too long, or
            the teacher gives NaN or Inf.
    """
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise CcdError(f"a template must hold {{}} exactly once; wrong: {listed(map(repr, wrong)) or 'there is none'}")
    empty = [place for place, texts in enumerate(classes) if not texts]
    if empty or not classes:
        raise CcdError(f"every class needs a text; without one (from 0): {listed(empty) or 'there is no class'}")
    prompts = [
        (place, template.replace("{}", text))
        for place, texts in enumerate(classes)
        for template in templates
        for text in texts
    ]
    sums = torch.zeros((len(classes), teacher.embed_dim), dtype=torch.float64)
    for start in range(0, len(prompts), TEXTS_PER_BATCH):
        places, texts = zip(*prompts[start : start + TEXTS_PER_BATCH], strict=True)
        sums.index_add_(0, torch.tensor(places), teacher.encode_text(texts).double())
    means = F.normalize(sums, dim=1).float()
    broken = [texts[0] for texts, finite in zip(classes, torch.isfinite(means).all(dim=1), strict=True) if not finite]
    if broken:
        raise CcdError(f"the teacher gave NaN or Inf for the text of {listed(broken)}: try other weights")
    return means


@dataclass(frozen=True)
class StudentStart:
    """The convolutional image tower of a teacher, as a student's backbone (no section of the paper).

    ``origin``: one line for a person. ``backbone``: name for `ccd.student.model.build_backbone`; ``weights``: a state
    dict of it, on the teacher's device. ``mean`` and ``std``: per RGB channel. ``projection``: the state dict of the
    1x1 convolution in which the backbone ends, that of the tower's projection into CLIP's space, on the CPU; None where
    that is no linear map.
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
        CcdError: the tower is no CNN that `ccd.student.model.build_backbone` knows, e.g. a ViT.
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
