"""Build the network to export, for ONNX and `torch.export`, from a student or a head on CLIP's features."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.deploy.classifier import HeadClassifier, ModelDescription, open_head
from ccd.deploy.load import HEAD_SUFFIX, check_exists
from ccd.deploy.model_card import read_facts, with_provenance
from ccd.errors import CcdError, install_advice
from ccd.student.backbones import PatchMap, side_step_px
from ccd.student.model import restore_student
from ccd.teacher.clip_teacher import ImageTower, interpolate_position

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Graph:
    """A network to export: the names of its ``outputs``, the axes of its input that may vary, and ``size_px``."""

    network: nn.Module
    outputs: tuple[str, ...]
    axes: dict[int, str]
    size_px: int

    def sizes(self) -> list[tuple[int, int, int]]:
        """Return numbers, heights and widths of images to compare with PyTorch."""
        side = self.size_px
        others = [(2, side + 32, side + 64)] if len(self.axes) > 1 else []
        return [(1, side, side), (3, side, side), *others]


def graph_of(model: Path, licence: str) -> tuple[Graph, ModelDescription]:
    """Read a student, or a head on CLIP's features with its CLIP (``head.h5``), and describe it.

    A student takes images of any size, a ViT of the size it was trained at, and gives ``logits`` and ``cam``; a head
    takes those of the size that its CLIP reads, in float32, and gives ``logits``.

    Raises:
        CcdError: see `ccd.deploy.model_card.read_facts` and `ccd.deploy.classifier.open_head`.
    """
    return _of_head(model, licence) if model.suffix == HEAD_SUFFIX else _of_student(model, licence)


def _of_student(path: Path, licence: str) -> tuple[Graph, ModelDescription]:
    facts, weights = read_facts(path, licence)
    network = restore_student(facts.description.student, weights).eval()
    size_px = facts.description.spec.image_size_px
    axes = {0: "images", 2: "height", 3: "width"}
    if side_step_px(network.backbone) > 1:  # a graph of open sides would not say which it reads
        axes = {0: "images"}
    if isinstance(network.backbone, PatchMap):
        network.backbone.vit.set_input_size((size_px, size_px))  # interpolates the position embeddings once
    return Graph(network, ("logits", "cam"), axes, size_px), facts.description


def _of_head(path: Path, licence: str) -> tuple[Graph, ModelDescription]:
    check_exists(path)
    classifier = open_head(path, CPU)
    description = with_provenance(classifier.description, path, classifier.sha256, licence)
    return Graph(_HeadNetwork(classifier), ("logits",), {0: "images"}, description.spec.image_size_px), description


class _HeadNetwork(nn.Module):
    """A CLIP's image tower for images of one size, and the head: pixels (b, 3, S, S) in [0, 1] -> (logits (b, C),)."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, classifier: HeadClassifier) -> None:
        super().__init__()
        teacher = classifier.teacher
        mean, std = teacher.pixel_mean_std
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.tower = _tower_at(teacher.tower, classifier.description.spec.image_size_px)
        self.register_buffer("weight", torch.from_numpy(classifier.linear.weight))
        self.register_buffer("offset", torch.from_numpy(classifier.linear.offset))
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        features = self.tower((pixels - self.mean) / self.std)
        pooled = features[0] if isinstance(features, tuple) else features
        return (F.normalize(pooled, dim=-1) @ self.weight.T + self.offset,)


def _tower_at(tower: ImageTower, size_px: int) -> nn.Module:
    """Copy an image tower with its positional embedding interpolated to squares of ``size_px``."""
    module = copy.deepcopy(tower.module)
    cells = size_px // tower.stride_px
    if tower.computed is not None and tower.grid != (cells, cells):
        for place, value in tower.computed((cells, cells)).items():
            setattr(module.get_submodule(place.rpartition(".")[0]), place.rpartition(".")[2], value)
    if tower.position is not None:
        table = interpolate_position(module.get_parameter(tower.position), tower.grid, (cells, cells))
        owner, _, name = tower.position.rpartition(".")
        setattr(module.get_submodule(owner), name, nn.Parameter(table, requires_grad=False))
    return module


def example(graph: Graph) -> tuple[Tensor, dict[str, dict[int, Any]]]:
    """Return pixels to trace a network with, and the axes that may vary as `torch.export` takes them."""
    size_px = graph.size_px
    wide_px = size_px + 32 if 3 in graph.axes else size_px
    pixels = torch.rand(2, 3, size_px, wide_px, generator=torch.Generator().manual_seed(0))
    return pixels, {"pixels": {axis: torch.export.Dim(name) for axis, name in graph.axes.items()}}


def onnx_model(graph: Graph) -> Any:
    """Convert a network to an ONNX ModelProto without paths of this machine."""
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it, and its own error gives no advice
    except ImportError:
        raise CcdError(f"ONNX export needs more packages: {install_advice('onnx')}") from None
    pixels, sizes = example(graph)
    program = torch.onnx.export(
        graph.network,
        (pixels,),
        dynamo=True,
        input_names=["pixels"],
        output_names=list(graph.outputs),
        dynamic_shapes=sizes,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise CcdError("torch.onnx.export returned no program; use a newer PyTorch")
    model = program.model_proto
    for node in model.graph.node:  # stack traces with paths
        del node.metadata_props[:]
    for value in model.graph.value_info:
        del value.metadata_props[:]
    return model


def parity(graph: Graph, run: Callable[[Tensor], Sequence[np.ndarray]]) -> float:
    """Compare an exported network with PyTorch on random images: 1 and 3, and 2 of another size if it may vary.

    Args:
        run: pixels (b, 3, H, W) float32 in [0, 1] -> the outputs, in the order of the graph's.

    Returns:
        The largest absolute difference of an output, divided by the output's largest absolute value if that is above 1.
    """
    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for count, height_px, width_px in graph.sizes():
        pixels = torch.rand(count, 3, height_px, width_px, generator=generator)
        with torch.inference_mode():
            expected = [value.numpy() for value in graph.network(pixels)]
        for torch_output, other_output in zip(expected, run(pixels), strict=True):
            scale = max(1.0, float(np.abs(torch_output).max()))
            worst = max(worst, float(np.abs(torch_output - other_output).max()) / scale)
    return worst
