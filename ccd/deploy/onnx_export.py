"""Export a model as one ONNX file, in float32, float16 or int8, checked against PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ccd.artifacts.files import replacing
from ccd.deploy.agreement import (
    Agreement,
    ImageChoice,
    RealImages,
    choose_images,
    compare,
    images_per_second,
    unit_batches,
)
from ccd.deploy.classifier import ModelDescription, onnx_session, to_json
from ccd.deploy.export_graph import Graph, graph_of, onnx_model, parity
from ccd.deploy.load import ONNX_KEY
from ccd.deploy.lower_precision import METHOD, Precision, to_fp16, to_int8
from ccd.errors import CcdError

TOLERANCE = 1e-4
EXPORT_KEY = "ccd.export"


@dataclass(frozen=True)
class ExportedOnnx:
    """Figures of a file that `export_onnx` wrote.

    ``largest_difference``: of the float32 graph from PyTorch, see `parity`. ``file_bytes`` and ``images_per_s``: of the
    float32 file and of the one written, by precision. ``agreement``: with PyTorch on real images. Without real images
    the last two are empty and None.
    """

    precision: Precision
    largest_difference: float
    file_bytes: dict[str, int]
    images_per_s: dict[str, float]
    agreement: Agreement | None


def export_onnx(
    model: Path,
    out: Path,
    licence: str,
    precision: Precision = "fp32",
    choice: ImageChoice | None = None,
    max_difference: float | None = None,
) -> ExportedOnnx:
    """Write a student, or a head on CLIP's features with its CLIP, as an ONNX file with its description as metadata.

    Its input ``pixels`` is (images, 3, height, width), RGB in [0, 1]; its outputs are ``logits`` (images, classes) and
    ``cam`` (images, classes, rows, columns); all are float32 in every precision. The number of images and the image
    size may vary. A head has no ``cam``, and takes images of the size that its CLIP reads.

    Args:
        choice: of images to calibrate on (int8) and to compare with PyTorch on; fp32 can do without.
        max_difference: the largest difference of a probability on these images; None: `TOLERANCE` for fp32, else any.

    Raises:
        CcdError: the extra ``[onnx]`` is not installed, the float32 graph differs by more than `TOLERANCE` or the
            written one by more than ``max_difference`` (nothing is written), there are no images, one of them is
            missing or damaged, or see `graph_of`.
    """
    graph, description = graph_of(model, licence)
    images = None if choice is None else choose_images(choice, model, description.spec.classes)
    if images is None and (precision != "fp32" or max_difference is not None):
        raise CcdError(
            f"{model}: no images are known to compare {precision} with PyTorch on; run this in the project that it was "
            "trained in, or give --images FOLDER"
        )
    content = onnx_model(graph)
    _set_metadata(content, {ONNX_KEY: to_json(description)})
    with replacing(out) as temporary, TemporaryDirectory() as scratch:
        plain = Path(scratch) / "fp32.onnx"
        _write(content, plain)
        difference = _checked_parity(graph, plain)
        if images is None:
            _write(content, temporary)
            return ExportedOnnx(precision, difference, {precision: temporary.stat().st_size}, {}, None)
        if precision == "fp16":
            content = to_fp16(content)
        elif precision == "int8":
            content = to_int8(plain, unit_batches(images.calibrate, graph.size_px), Path(scratch))
        _set_metadata(content, {ONNX_KEY: to_json(description)})
        _write(content, temporary)
        agreement, speeds = _compared(graph, plain, temporary, images, description, precision)
        _refuse_above(TOLERANCE if (precision, max_difference) == ("fp32", None) else max_difference, agreement)
        figures = _figures(precision, images, agreement)
        _set_metadata(content, {ONNX_KEY: to_json(description), EXPORT_KEY: figures})
        _write(content, temporary)
        sizes = {"fp32": plain.stat().st_size} | {precision: temporary.stat().st_size}
    return ExportedOnnx(precision, difference, sizes, speeds, agreement)


def _checked_parity(graph: Graph, plain: Path) -> float:
    """Return the result of `parity` for the float32 file. Raises CcdError if it is above `TOLERANCE`."""
    session = onnx_session(plain, "cpu")
    difference = parity(graph, lambda pixels: session.run(list(graph.outputs), {"pixels": pixels.numpy()}))
    if not difference <= TOLERANCE:
        raise CcdError(
            f"the ONNX file differs from PyTorch by {difference:.2e}, more than {TOLERANCE:g}; nothing was written; "
            "try other versions of onnx, onnxscript and onnxruntime, or export safetensors with: ccd export model"
        )
    return difference


def _compared(
    graph: Graph, plain: Path, written: Path, images: RealImages, description: ModelDescription, precision: Precision
) -> tuple[Agreement, dict[str, float]]:
    """Compare the file ``written`` with PyTorch, and time it beside the float32 file, see `images_per_second`."""
    session = onnx_session(written, "cpu")

    @torch.inference_mode()
    def student(pixels: Tensor) -> Tensor:
        logits: Tensor = graph.network(pixels)[0]
        return logits.sigmoid()

    def export(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"pixels": pixels.contiguous().numpy()})[0]).sigmoid()

    spec = description.spec
    agreement = compare(student, export, images, spec.classes, description.cuts, spec.image_size_px)
    sessions: dict[str, Any] = {} if precision == "fp32" else {"fp32": onnx_session(plain, "cpu")}
    return agreement, images_per_second(
        sessions | {precision: session}, next(unit_batches(images.check, spec.image_size_px))
    )


def _refuse_above(limit: float | None, agreement: Agreement) -> None:
    if limit is not None and not agreement.largest <= limit:
        raise CcdError(
            f"a probability differs from PyTorch's by {agreement.largest:.2e} on {agreement.images:,} real images, "
            f"more than {limit:g}; nothing was written; take another --precision or --max-difference"
        )


def _figures(precision: Precision, images: RealImages, agreement: Agreement) -> dict[str, Any]:
    """Return what the metadata says of the export; how fast it is depends on the machine, and is left out."""
    figures: dict[str, Any] = {"precision": precision, "check": agreement.to_json()}
    if precision == "int8":
        figures["calibration"] = {
            "images": len(images.calibrate),
            "images_from": images.calibrate_from,
            "method": METHOD,
        }
    return figures


def _set_metadata(content: Any, entries: dict[str, dict[str, Any]]) -> None:
    """Make ``entries`` the metadata of a ModelProto; what tools have left there goes."""
    del content.metadata_props[:]
    for name, value in entries.items():
        entry = content.metadata_props.add()
        entry.key = name
        entry.value = json.dumps(value, ensure_ascii=False)


def _write(content: Any, path: Path) -> None:
    path.write_bytes(content.SerializeToString(deterministic=True))
