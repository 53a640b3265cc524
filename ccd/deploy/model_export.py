"""Export a model: a folder of safetensors with a model card, or one ONNX file checked against PyTorch."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders
from ccd.artifacts.files import replacing, write_text
from ccd.deploy.classifier import HeadClassifier, ModelDescription, onnx_session, open_head, to_json
from ccd.deploy.load import DESCRIPTION, HEAD_SUFFIX, ONNX_KEY, WEIGHTS, check_exists, keep_foreign, write_folder
from ccd.deploy.model_card import is_model_card, model_card, read_facts, with_provenance
from ccd.errors import CcdError, install_advice
from ccd.student.model import PatchMap, restore_student
from ccd.teacher.clip_teacher import ImageTower, interpolate_position

CARD = "README.md"
TOLERANCE = 1e-4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Graph:
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


def export_onnx(model: Path, out: Path, licence: str) -> float:
    """Write a student, or a head on CLIP's features with its CLIP, as an ONNX file with its description as metadata.

    Its input ``pixels`` is (images, 3, height, width) float32, RGB in [0, 1]; its outputs are ``logits`` (images,
    classes) and ``cam`` (images, classes, rows, columns). The number of images and the image size may vary; a ViT takes
    images of the size it was trained at. A head has no ``cam``, and takes images of the size that its CLIP reads, in
    float32.

    Returns:
        The largest difference from PyTorch, see `parity`.

    Raises:
        CcdError: the extra ``[onnx]`` is not installed, the difference is above `TOLERANCE` (nothing is written), or
            see `read_facts`.
    """
    graph, description = _head_graph(model, licence) if model.suffix == HEAD_SUFFIX else _student_graph(model, licence)
    content = _onnx_model(graph)
    entry = content.metadata_props.add()
    entry.key = ONNX_KEY
    entry.value = json.dumps(to_json(description), ensure_ascii=False)
    with replacing(out) as temporary:
        temporary.write_bytes(content.SerializeToString(deterministic=True))
        difference = parity(graph, temporary)
        if not difference <= TOLERANCE:
            raise CcdError(
                f"the ONNX file differs from PyTorch by {difference:.2e}, more than {TOLERANCE:g}; nothing was "
                "written; try other versions of onnx, onnxscript and onnxruntime, or export safetensors with: "
                "ccd export model"
            )
    return difference


def _student_graph(path: Path, licence: str) -> tuple[_Graph, ModelDescription]:
    facts, weights = read_facts(path, licence)
    network = restore_student(facts.description.student, weights).eval()
    size_px = facts.description.spec.image_size_px
    axes = {0: "images", 2: "height", 3: "width"}
    if isinstance(network.backbone, PatchMap):
        axes = {0: "images"}
        network.backbone.vit.set_input_size((size_px, size_px))  # interpolates the position embeddings once
    return _Graph(network, ("logits", "cam"), axes, size_px), facts.description


def _head_graph(path: Path, licence: str) -> tuple[_Graph, ModelDescription]:
    check_exists(path)
    classifier = open_head(path, CPU)
    description = with_provenance(classifier.description, path, classifier.sha256, licence)
    return _Graph(_HeadNetwork(classifier), ("logits",), {0: "images"}, description.spec.image_size_px), description


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


def _onnx_model(graph: _Graph) -> Any:
    """Convert a network to an ONNX ModelProto without paths of this machine."""
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it, and its own error gives no advice
    except ImportError:
        raise CcdError(f"ONNX export needs more packages: {install_advice('onnx')}") from None
    size_px = graph.size_px
    wide_px = size_px + 32 if 3 in graph.axes else size_px
    example = torch.rand(2, 3, size_px, wide_px, generator=torch.Generator().manual_seed(0))
    sizes = {axis: torch.export.Dim(name) for axis, name in graph.axes.items()}
    program = torch.onnx.export(
        graph.network,
        (example,),
        dynamo=True,
        input_names=["pixels"],
        output_names=list(graph.outputs),
        dynamic_shapes={"pixels": sizes},
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


def parity(graph: _Graph, path: Path) -> float:
    """Compare the ONNX file in ``path`` with PyTorch on random images: 1 and 3, and 2 of another size if it may vary.

    Returns:
        The largest absolute difference of an output, divided by the output's largest absolute value if that is above 1.
    """
    session = onnx_session(path, "cpu")
    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for count, height_px, width_px in graph.sizes():
        pixels = torch.rand(count, 3, height_px, width_px, generator=generator)
        with torch.inference_mode():
            expected = [value.numpy() for value in graph.network(pixels)]
        actual = session.run(list(graph.outputs), {"pixels": pixels.numpy()})
        for torch_output, onnx_output in zip(expected, actual, strict=True):
            scale = max(1.0, float(np.abs(torch_output).max()))
            worst = max(worst, float(np.abs(torch_output - onnx_output).max()) / scale)
    return worst


@dataclass(frozen=True)
class ExportedModel:
    """The ``files`` written, and ``backups`` of replaced files that no export wrote."""

    files: list[Path]
    backups: list[Path]


def check_folder(student: Path, out: Path, *, force: bool) -> None:
    """Refuse an unsuitable folder for the exported model.

    Raises:
        CcdError: ``out`` is no folder, is the folder of ``student``, or holds files of the same names and ``force`` is
            false.
    """
    if out.exists() and not out.is_dir():
        raise CcdError(f"{out} is a file; give a folder for the model")
    if out.resolve() == student.resolve().parent:
        raise CcdError(f"{out} is the folder of {student.name}; give the model a folder of its own")
    files = _files(out)
    refuse_folders(files)
    refuse_existing(files, force=force)


def _files(out: Path) -> list[Path]:
    return [out / name for name in (WEIGHTS, DESCRIPTION, CARD)]


def export_model(student: Path, out: Path, licence: str) -> ExportedModel:
    """Write ``model.safetensors``, ``model.json`` and a model card into ``out``; see `check_folder`.

    Replaced files that no export wrote are backed up.

    Raises:
        CcdError: see `read_facts`.
    """
    facts, weights = read_facts(student, licence)
    backups = [*keep_foreign(out), *_keep_readme(out / CARD)]
    write_folder(out, facts.description, weights)
    write_text(out / CARD, model_card(facts))
    return ExportedModel(_files(out), backups)


def _keep_readme(path: Path) -> list[Path]:
    if not path.is_file() or is_model_card(path.read_text(encoding="utf-8", errors="replace")):
        return []
    backup = keep_old(path)
    return [] if backup is None else [backup]
