"""A trained student ready to predict, and its description: classes, preprocessing, thresholds, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts.checkpoint_file import Checkpoint, thresholds
from ccd.errors import CcdError, install_advice
from ccd.student.inference import predict
from ccd.student.model import StudentSpec, restore_student
from ccd.student.transforms import to_unit

SCHEMA = "ccd.model/1"
UNKNOWN_LICENCE = "not stated"
RESIZE = "squash to a square, antialiased bicubic, aspect ignored"


@dataclass(frozen=True)
class ModelDescription:
    """Description of a student with C classes.

    ``spec``: architecture, classes and preprocessing. ``thresholds`` (C): a class is present if its probability is at
    least its threshold; ``thresholds_from``: pseudo-labels, labelled images, or 0.5. ``provenance``: teacher, images
    and parameters that the student was trained with, as far as known.
    """

    spec: StudentSpec
    thresholds: tuple[float, ...]
    thresholds_from: str
    licence: str = UNKNOWN_LICENCE
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def cuts(self) -> np.ndarray:
        """The thresholds as (C,) float64."""
        return np.asarray(self.thresholds, np.float64)


def describe(checkpoint: Checkpoint) -> ModelDescription:
    """Describe a student by its checkpoint alone."""
    cuts, source = thresholds(checkpoint)
    training = {key: value for key, value in checkpoint.info.items() if key != "thresholds"}
    return ModelDescription(
        StudentSpec.from_dict(checkpoint.spec),
        tuple(cuts),
        source,
        provenance={"weights": checkpoint.selected, "training": training},
    )


def to_json(description: ModelDescription) -> dict[str, Any]:
    """Convert a description to plain lists, strings and numbers."""
    spec = description.spec
    return {
        "schema": SCHEMA,
        "backbone": spec.backbone,
        "cam_boost": spec.cam_boost,
        "classes": list(spec.classes),
        "thresholds": {"source": description.thresholds_from, "values": list(description.thresholds)},
        "preprocessing": {
            "image_size_px": spec.image_size_px,
            "resize": RESIZE,
            "input": "RGB in [0, 1], upright (EXIF orientation applied), channels first; the network itself subtracts "
            "the mean and divides by the standard deviation",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "outputs": {
            "logits": "(images, classes); probability = sigmoid(logit)",
            "cam": "(images, classes, rows, columns); its mean over rows and columns is the logit",
        },
        "licence": description.licence,
        "provenance": description.provenance,
    }


def from_json(content: Mapping[str, Any], where: str) -> ModelDescription:
    """Convert the result of `to_json` back; ``where`` names it in errors.

    Raises:
        CcdError: the content has another schema or is malformed.
    """
    try:
        if content["schema"] != SCHEMA:
            raise CcdError(f"{where}: its schema is {content['schema']!r}, expected {SCHEMA!r}; export the model again")
        preprocessing = content["preprocessing"]
        spec = StudentSpec.from_dict(
            {
                "backbone": content["backbone"],
                "classes": list(content["classes"]),
                "cam_boost": float(content["cam_boost"]),
                "image_size_px": int(preprocessing["image_size_px"]),
                "mean": [float(value) for value in preprocessing["mean"]],
                "std": [float(value) for value in preprocessing["std"]],
            }
        )
        cuts = tuple(float(value) for value in content["thresholds"]["values"])
        if len(cuts) != len(spec.classes):
            raise ValueError(f"{len(cuts)} thresholds for {len(spec.classes)} classes")
        source = str(content["thresholds"]["source"])
        licence = str(content["licence"])
        return ModelDescription(spec, cuts, source, licence, dict(content["provenance"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CcdError(f"{where}: not a description of a model ({error!r}); export the model again") from None


class Classifier(Protocol):
    """A student ready to predict: its ``description`` and the ``sha256`` of its file of weights."""

    description: ModelDescription
    sha256: str

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for pixels (b, 3, H, W) uint8.

        Returns:
            Probabilities (b, C) and class activation maps (b, C, h, w), both float32 on the CPU.
        """
        ...


class TorchClassifier:
    """The student in PyTorch."""

    def __init__(
        self, description: ModelDescription, weights: Mapping[str, Tensor], sha256: str, device: torch.device
    ) -> None:
        """Restore the student on ``device``. Raises CcdError if the weights do not fit the description."""
        self.description = description
        self.sha256 = sha256
        self._student = restore_student(description.spec, weights)
        self._device = device

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        batch = [(torch.arange(len(pixels)), pixels)]
        if self._device.type == "cuda":  # compute in float32, not TF32, and leave the caller's settings alone
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                _, logits, cam = next(predict(self._student, batch, self._device))
        else:
            _, logits, cam = next(predict(self._student, batch, self._device))
        return logits.sigmoid().cpu(), cam.cpu()


class OnnxClassifier:
    """The student in onnxruntime; ``session`` is the result of `onnx_session`."""

    def __init__(self, description: ModelDescription, session: Any, sha256: str) -> None:
        self.description = description
        self.sha256 = sha256
        self._session = session

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        logits, cam = self._session.run(["logits", "cam"], {"pixels": to_unit(pixels).contiguous().numpy()})
        return torch.from_numpy(logits).sigmoid(), torch.from_numpy(cam)


def onnx_session(path: Path, device: torch.device) -> Any:
    """Open an onnxruntime session.

    Raises:
        CcdError: onnxruntime is not installed, does not support the device or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CcdError(f"{path}: ONNX files need onnxruntime: {install_advice('onnx')}") from None
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    if provider not in onnxruntime.get_available_providers():
        raise CcdError(f"this onnxruntime has no {provider}; install onnxruntime-gpu, or use --device cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime has many exception classes without a common base
        raise CcdError(f"{path}: onnxruntime cannot read it ({' '.join(str(error).split())[:200]})") from None
