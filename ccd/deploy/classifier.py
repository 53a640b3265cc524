"""A trained student, or a head on CLIP's features, ready to predict, and its description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ccd.artifacts import head_file
from ccd.artifacts.checkpoint_file import Checkpoint, thresholds
from ccd.artifacts.files import hash_of
from ccd.artifacts.head_file import HeadFile
from ccd.errors import CcdError, install_advice
from ccd.params.file import validate
from ccd.params.sections import TeacherParams
from ccd.runtime.hardware import find_device, read_later, to_device
from ccd.student.inference import predict
from ccd.student.model import StudentSpec, restore_student
from ccd.student.transforms import to_unit

if TYPE_CHECKING:
    from ccd.teacher.clip_teacher import Teacher  # CLIP is loaded for a head alone

SCHEMA = "ccd.model/1"
UNKNOWN_LICENCE = "not stated"
RESIZE = "squash to a square, antialiased bicubic, aspect ignored"


@dataclass(frozen=True)
class HeadSpec:
    """A linear head on the image embeddings of a CLIP, as `StudentSpec` is a student; it has no maps.

    ``backbone``: one line that names the CLIP.
    """

    backbone: str
    classes: tuple[str, ...]
    image_size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelDescription:
    """Description of a student, or of a head on CLIP's features, with C classes.

    ``spec``: architecture, classes and preprocessing. ``thresholds`` (C): a class is present if its probability is at
    least its threshold; ``thresholds_from``: pseudo-labels, labelled images, or 0.5. ``provenance``: teacher, images
    and parameters that the student was trained with, as far as known.
    """

    spec: StudentSpec | HeadSpec
    thresholds: tuple[float, ...]
    thresholds_from: str
    licence: str = UNKNOWN_LICENCE
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def cuts(self) -> np.ndarray:
        """The thresholds as (C,) float64."""
        return np.asarray(self.thresholds, np.float64)

    @property
    def student(self) -> StudentSpec:
        """The student's ``spec``. Raises CcdError for a head on CLIP's features."""
        if isinstance(self.spec, HeadSpec):
            raise CcdError(f"this model is a head on the features of {self.spec.backbone}; a student is needed here")
        return self.spec


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
    cam = "(images, classes, rows, columns); its mean over rows and columns is the logit"
    return {
        "schema": SCHEMA,
        "backbone": spec.backbone,
        **({"cam_boost": spec.cam_boost} if isinstance(spec, StudentSpec) else {}),
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
            **({"cam": cam} if isinstance(spec, StudentSpec) else {}),
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
        mean_std = {key: tuple(float(value) for value in preprocessing[key]) for key in ("mean", "std")}
        size_px = int(preprocessing["image_size_px"])
        spec: StudentSpec | HeadSpec
        if "cam_boost" in content or "cam" in content["outputs"]:
            fields = {"backbone": content["backbone"], "cam_boost": float(content["cam_boost"])}
            fields |= {"classes": list(content["classes"]), "image_size_px": size_px}
            spec = StudentSpec.from_dict(fields | {key: list(values) for key, values in mean_std.items()})
        else:
            spec = HeadSpec(str(content["backbone"]), tuple(content["classes"]), size_px, **mean_std)
        cuts = tuple(float(value) for value in content["thresholds"]["values"])
        if len(cuts) != len(spec.classes):
            raise ValueError(f"{len(cuts)} thresholds for {len(spec.classes)} classes")
        source = str(content["thresholds"]["source"])
        licence = str(content["licence"])
        return ModelDescription(spec, cuts, source, licence, dict(content["provenance"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CcdError(f"{where}: not a description of a model ({error!r}); export the model again") from None


class Classifier(Protocol):
    """A model ready to predict: its ``description`` and the ``sha256`` of its file of weights."""

    description: ModelDescription
    sha256: str

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for pixels (b, 3, H, W) uint8.

        Returns:
            Probabilities (b, C) and class activation maps (b, C, h, w), both float32 on the CPU. A head on CLIP's
            features has no maps: h and w are 0.
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
        self.device = device
        self._student = restore_student(description.student, weights)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        return self.start(pixels)()

    def start(self, pixels: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Start predicting; the function returned waits for the results, but for no later work of the device."""
        batch = [(torch.arange(len(pixels)), to_device(pixels, self.device))]
        if self.device.type == "cuda":  # compute in float32, not TF32, and leave the caller's settings alone
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                _, logits, cam = next(predict(self._student, batch, self.device))
        else:
            _, logits, cam = next(predict(self._student, batch, self.device))
        probs, cams = read_later(logits.sigmoid()), read_later(cam)
        return lambda: (probs(), cams())


class HeadClassifier:
    """The head in ``head.h5`` and its CLIP, which encodes as the pipeline does."""

    def __init__(self, head: HeadFile, teacher: Teacher, sha256: str) -> None:
        """Describe the head. ``teacher``: the CLIP that `HeadFile.teacher` names."""
        mean, std = (tuple(map(float, values)) for values in teacher.pixel_mean_std)
        spec = HeadSpec(head.attributes["teacher"], head.classes, head.image_size_px, mean, std)
        self.description = ModelDescription(spec, tuple(head.thresholds.tolist()), head.thresholds_from)
        self.linear = head.linear
        self.teacher = teacher
        self.sha256 = sha256

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`. Raises CcdError if CLIP gives NaN or Inf."""
        features = embedded(self.teacher, pixels)
        return torch.from_numpy(self.linear.logits(features)).sigmoid().float(), no_maps(len(pixels), self.description)


def embedded(teacher: Teacher, pixels: Tensor) -> np.ndarray:
    """Embed a batch of pixels (b, 3, H, W) uint8, (b, D) float32. Raises CcdError if CLIP gives NaN or Inf."""
    from ccd.teacher.encode import encode_images

    names = [f"image {number}" for number in range(len(pixels))]
    _, features = next(encode_images(teacher, [(torch.arange(len(pixels)), pixels)], names))
    return features


def open_head(path: Path, device: torch.device) -> HeadClassifier:
    """Open ``head.h5`` and the CLIP that it names.

    A local checkpoint is looked for where ``params.yaml`` had it, from the working directory and from the project that
    the head lies in, and beside the head.

    Raises:
        CcdError: the head is missing or damaged, or its CLIP cannot be loaded, or is not the one it was fitted with.
    """
    from ccd.teacher.encode import load_teacher

    head = head_file.read(path)
    params = validate(TeacherParams, head.teacher, path)
    changes = {key: _near(getattr(params, key), path) for key in TeacherParams.paths}
    if params.precision in ("fp16", "tf32") and device.type == "cpu":
        changes["precision"] = "fp32"
    try:
        teacher = load_teacher(**params.model_copy(update=changes).model_dump(), device=device)
    except CcdError as error:
        raise CcdError(
            f"{path} is a head on the features of {head.attributes.get('teacher')} and needs that CLIP: {error}; a "
            "local checkpoint may lie beside the head"
        ) from None
    if teacher.fingerprint != head.attributes.get("fingerprint"):
        raise CcdError(
            f"{path}: it was fitted to another CLIP ({head.attributes.get('fingerprint', 'unknown')[:12]}) than "
            f"{teacher.description} ({teacher.fingerprint[:12]}); put the right checkpoint beside the head"
        )
    return HeadClassifier(head, teacher, hash_of(path))


def _near(name: str | None, head: Path) -> str | None:
    """Return where a local file of the teacher is; names of models, and files that are nowhere, stay as they are."""
    if name is None or Path(name).expanduser().exists():
        return name
    folder = head.resolve().parent
    places = [project / name for project in folder.parents[1:2]] + [folder / Path(name).name]
    return next((str(place) for place in places if place.exists()), name)


def no_maps(images: int, description: ModelDescription) -> Tensor:
    """Return the maps (b, C, 0, 0) of a classifier that has none."""
    return torch.empty(images, len(description.spec.classes), 0, 0)


class OnnxClassifier:
    """The model in onnxruntime; ``session`` is the result of `onnx_session`."""

    def __init__(self, description: ModelDescription, session: Any, sha256: str) -> None:
        self.description = description
        self.sha256 = sha256
        self._session = session

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Classifier`."""
        inputs = {"pixels": to_unit(pixels).contiguous().numpy()}
        if isinstance(self.description.spec, HeadSpec):
            (logits,) = self._session.run(["logits"], inputs)
            return torch.from_numpy(logits).sigmoid(), no_maps(len(pixels), self.description)
        logits, cam = self._session.run(["logits", "cam"], inputs)
        return torch.from_numpy(logits).sigmoid(), torch.from_numpy(cam)


def onnx_session(path: Path, device: str) -> Any:
    """Open an onnxruntime session on a device, see `ccd.runtime.hardware.find_device`.

    ``auto`` is the CPU too where onnxruntime is the package without CUDA.

    Raises:
        CcdError: onnxruntime is not installed, does not support the device or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CcdError(f"{path}: ONNX files need onnxruntime: {install_advice('onnx')}") from None
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[find_device(device).type]
    if provider not in onnxruntime.get_available_providers() and device == "auto":
        provider = "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise CcdError(f"this onnxruntime has no {provider}; install onnxruntime-gpu, or use --device cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime has many exception classes without a common base
        raise CcdError(f"{path}: onnxruntime cannot read it ({' '.join(str(error).split())[:200]})") from None
