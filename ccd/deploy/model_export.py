"""Export a model: a folder of safetensors with a model card, or one ONNX file checked against PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders
from ccd.artifacts.files import replacing, write_text
from ccd.deploy.classifier import onnx_session, to_json
from ccd.deploy.load import DESCRIPTION, ONNX_KEY, WEIGHTS, keep_foreign, write_folder
from ccd.deploy.model_card import is_model_card, model_card, read_facts
from ccd.errors import CcdError, install_advice
from ccd.student.model import Student, restore_student

CARD = "README.md"
TOLERANCE = 1e-4
CPU = torch.device("cpu")


def export_onnx(student: Path, out: Path, licence: str) -> float:
    """Write the student as an ONNX file with the description of the model in its metadata.

    Its input ``pixels`` is (images, 3, height, width) float32, RGB in [0, 1]; its outputs are ``logits`` (images,
    classes) and ``cam`` (images, classes, rows, columns). The number of images and the image size may vary.

    Returns:
        The largest difference from PyTorch, see `parity`.

    Raises:
        CcdError: the extra ``[onnx]`` is not installed, the difference is above `TOLERANCE` (nothing is written), or
            see `read_facts`.
    """
    facts, weights = read_facts(student, licence)
    network = restore_student(facts.description.spec, weights).eval()
    model = _onnx_model(network, facts.description.spec.image_size_px)
    entry = model.metadata_props.add()
    entry.key = ONNX_KEY
    entry.value = json.dumps(to_json(facts.description), ensure_ascii=False)
    with replacing(out) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        difference = parity(network, temporary, facts.description.spec.image_size_px)
        if not difference <= TOLERANCE:
            raise CcdError(
                f"the ONNX file differs from PyTorch by {difference:.2e}, more than {TOLERANCE:g}; nothing was "
                "written; try other versions of onnx, onnxscript and onnxruntime, or export safetensors with: "
                "ccd export model"
            )
    return difference


def _onnx_model(network: Student, size_px: int) -> Any:
    """Convert a network to an ONNX ModelProto without paths of this machine."""
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it, and its own error gives no advice
    except ImportError:
        raise CcdError(f"ONNX export needs more packages: {install_advice('onnx')}") from None
    example = torch.rand(2, 3, size_px, size_px + 32, generator=torch.Generator().manual_seed(0))
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "images"), (2, "height"), (3, "width"))}
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        input_names=["pixels"],
        output_names=["logits", "cam"],
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


def parity(network: Student, path: Path, size_px: int) -> float:
    """Compare the ONNX file in ``path`` with PyTorch on random images: 1, 2 and 3 of them, also of another size.

    Returns:
        The largest absolute difference of an output, divided by the output's largest absolute value if that is above 1.
    """
    session = onnx_session(path, CPU)
    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for shape in ((1, 3, size_px, size_px), (3, 3, size_px, size_px), (2, 3, size_px + 32, size_px + 64)):
        pixels = torch.rand(*shape, generator=generator)
        with torch.inference_mode():
            expected = [value.numpy() for value in network(pixels)]
        actual = session.run(["logits", "cam"], {"pixels": pixels.numpy()})
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
