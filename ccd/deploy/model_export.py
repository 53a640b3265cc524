"""Models to ship: a folder of safetensors with a card, or one ONNX file checked against PyTorch."""

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
from ccd.deploy.model_card import background, is_model_card, model_card
from ccd.errors import CcdError, install_advice
from ccd.student.model import Student, restore_student

TOLERANCE = 1e-4
CPU = torch.device("cpu")


def export_onnx(student: Path, out: Path, licence: str) -> float:
    """Write ``out``: input ``pixels`` (images, 3, height, width) float32 RGB in [0, 1], outputs ``logits`` and ``cam``,
    all of whose sizes may vary but that of the classes; the description of the model is in its metadata.

    Returns:
        The largest difference from PyTorch that the check found.

    Raises:
        CcdError: the extra ``[onnx]`` is not installed, the difference is above `TOLERANCE` (nothing is written), or
            see `background`.
    """
    about, weights = background(student, licence)
    network = restore_student(about.description.spec, weights).eval()
    content = _converted(network, about.description.spec.image_size_px)
    entry = content.metadata_props.add()
    entry.key = ONNX_KEY
    entry.value = json.dumps(to_json(about.description), ensure_ascii=False)
    with replacing(out) as temporary:
        temporary.write_bytes(content.SerializeToString(deterministic=True))
        difference = parity(network, temporary, about.description.spec.image_size_px)
        if not difference <= TOLERANCE:
            raise CcdError(
                f"the ONNX file differs from PyTorch by {difference:.2e}, more than {TOLERANCE:g}: nothing is kept; "
                "try other versions of onnx, onnxscript and onnxruntime, or export the safetensors: ccd export model"
            )
    return difference


def _converted(network: Student, size_px: int) -> Any:
    """An ONNX ModelProto without traces of this machine."""
    try:
        import onnxscript  # noqa: F401 - what torch.onnx needs, asked for here so that the error says what to do
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
        raise CcdError("torch.onnx.export gave no program; use a newer PyTorch")
    content = program.model_proto
    for node in content.graph.node:  # stack traces with paths
        del node.metadata_props[:]
    for value in content.graph.value_info:
        del value.metadata_props[:]
    return content


def parity(network: Student, path: Path, size_px: int) -> float:
    """The largest absolute difference of logits, and of maps relative to their largest value where that is above 1,
    between PyTorch and onnxruntime: one and three images, at the trained size and at another that is not square."""
    session = onnx_session(path, CPU)
    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for shape in ((1, 3, size_px, size_px), (3, 3, size_px, size_px), (2, 3, size_px + 32, size_px + 64)):
        pixels = torch.rand(*shape, generator=generator)
        with torch.inference_mode():
            expected = [value.numpy() for value in network(pixels)]
        found = session.run(["logits", "cam"], {"pixels": pixels.numpy()})
        for one, other in zip(expected, found, strict=True):
            scale = max(1.0, float(np.abs(one).max()))
            worst = max(worst, float(np.abs(one - other).max()) / scale)
    return worst


CARD = "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """``files`` that were written; ``kept``: copies of others' files that lay in their place."""

    files: list[Path]
    kept: list[Path]


def check_folder(student: Path, out: Path, *, force: bool) -> None:
    """Refuse a folder that is not the model's own.

    Raises:
        CcdError: files of these names are there and ``force`` is not given, it is the folder of ``student``, or no
            folder.
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

    What no export wrote is kept beside what replaces it.

    Raises:
        CcdError: see `background`.
    """
    about, weights = background(student, licence)
    kept = [*keep_foreign(out), *_keep_readme(out / CARD)]
    write_folder(out, about.description, weights)
    write_text(out / CARD, model_card(about))
    return ExportedModel(_files(out), kept)


def _keep_readme(path: Path) -> list[Path]:
    if not path.is_file() or is_model_card(path.read_text(encoding="utf-8", errors="replace")):
        return []
    copy = keep_old(path)
    return [] if copy is None else [copy]
