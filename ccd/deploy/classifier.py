"""A student behind one call, whichever library computes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ccd.deploy.description import ModelDescription
from ccd.errors import CcdError
from ccd.extras import install_advice
from ccd.student.model import restore_student
from ccd.student.predict import predict
from ccd.student.transforms import to_unit


class Classifier(Protocol):
    """``description``, and ``sha256`` of the file of weights."""

    description: ModelDescription
    sha256: str

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, H, W) uint8 -> probabilities (b, C) and maps (b, C, h, w), float32 on the CPU."""
        ...


class TorchClassifier:
    """The student in PyTorch. Raises CcdError if the weights do not belong to the description."""

    def __init__(
        self, description: ModelDescription, weights: Mapping[str, Tensor], sha256: str, device: torch.device
    ) -> None:
        self.description = description
        self.sha256 = sha256
        self._student = restore_student(description.spec, weights)
        self._device = device

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        batch = [(torch.arange(len(pixels)), pixels)]
        if self._device.type == "cuda":  # float32 shall mean float32, and the caller's own settings stay
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                _, logits, cam = next(predict(self._student, batch, self._device))
        else:
            _, logits, cam = next(predict(self._student, batch, self._device))
        return logits.sigmoid().cpu(), cam.cpu()


class OnnxClassifier:
    """The student in onnxruntime; ``session`` as of `onnx_session`."""

    def __init__(self, description: ModelDescription, session: Any, sha256: str) -> None:
        self.description = description
        self.sha256 = sha256
        self._session = session

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        logits, cam = self._session.run(["logits", "cam"], {"pixels": to_unit(pixels).contiguous().numpy()})
        return torch.from_numpy(logits).sigmoid(), torch.from_numpy(cam)


def onnx_session(path: Path, device: torch.device) -> Any:
    """An onnxruntime session. Raises CcdError if it is not installed, lacks the device or refuses the file."""
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
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise CcdError(f"{path}: onnxruntime cannot read it ({' '.join(str(error).split())[:200]})") from None
