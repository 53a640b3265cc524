"""Open a student from a checkpoint, an exported folder or an ONNX file, or a head on CLIP, and use it in Python:

from ccd import load_student
student = load_student("data/demo/student.pt")
table = student.predict(["a.jpg", "b.jpg"])
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ccd.artifacts import checkpoint_file
from ccd.artifacts.checkpoint_file import Weights
from ccd.artifacts.existing import keep_old
from ccd.artifacts.files import hash_of, replacing, write_json
from ccd.deploy import rows
from ccd.deploy.classifier import (
    SCHEMA,
    Classifier,
    ModelDescription,
    OnnxClassifier,
    TorchClassifier,
    describe,
    from_json,
    onnx_session,
    open_head,
    to_json,
)
from ccd.deploy.stream import scored
from ccd.errors import CcdError, listed
from ccd.images.decode import squash, upright_rgb
from ccd.images.remote import name_of
from ccd.labels.thresholds import decide
from ccd.runtime.hardware import use_device

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
ONNX_KEY = "ccd.model"
HEAD_SUFFIX = ".h5"


def write_folder(folder: Path, description: ModelDescription, weights: Weights) -> None:
    """Write weights and description into ``folder``; the same content gives the same bytes."""
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(contiguous))
    write_json(folder / DESCRIPTION, to_json(description) | {"sha256": {WEIGHTS: hash_of(folder / WEIGHTS)}})


def keep_foreign(folder: Path) -> list[Path]:
    """Back up weights and description that are about to be replaced, if no export wrote them. Return the backups."""
    try:
        content = _read_description(folder / DESCRIPTION)
        ours = [DESCRIPTION]
        stated_hash = (content.get("sha256") or {}).get(WEIGHTS)
    except (CcdError, AttributeError):
        ours = []
        stated_hash = None
    weights = folder / WEIGHTS
    if stated_hash is not None and weights.is_file() and hash_of(weights) == stated_hash:
        ours.append(WEIGHTS)
    backups = [keep_old(folder / name) for name in (DESCRIPTION, WEIGHTS) if name not in ours]
    return [backup for backup in backups if backup is not None]


def read_folder(folder: Path) -> tuple[ModelDescription, dict[str, Tensor], str]:
    """Read the description, the weights and the SHA-256 of their file.

    Raises:
        CcdError: a file is missing or damaged, or the weights have another SHA-256 than ``model.json`` states.
    """
    path = folder / WEIGHTS
    if not path.is_file() or not (folder / DESCRIPTION).is_file():
        raise CcdError(f"{folder}: holds no {WEIGHTS} with a {DESCRIPTION}; write them with: ccd export model FOLDER")
    content = _read_description(folder / DESCRIPTION)
    data = path.read_bytes()  # once, since the file may be replaced
    description = from_json(content, str(folder / DESCRIPTION))
    actual_hash = hashlib.sha256(data).hexdigest()
    stated_hash = (content.get("sha256") or {}).get(WEIGHTS)
    if stated_hash != actual_hash:
        raise CcdError(
            f"{path}: its SHA-256 is {actual_hash}, but {DESCRIPTION} states {stated_hash}; export the model again"
        )
    try:
        return description, load(data), actual_hash
    except (SafetensorError, OSError, ValueError) as error:
        raise CcdError(f"{path}: not readable as safetensors ({error}); export the model again") from None


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not readable as JSON ({error}); export the model again") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise CcdError(f"{path}: its schema is {schema!r}, expected {SCHEMA!r}; export the model again")
    return content  # type: ignore[no-any-return]


def open_model(path: Path, device: str) -> Classifier:
    """Open the classifier in ``path``; ``device``: see `ccd.runtime.hardware.find_device`.

    Raises:
        CcdError: ``path`` does not exist, is no model, or is damaged, or there is no such device.
    """
    check_exists(path)
    if path.suffix == ".onnx":
        session = onnx_session(path, device)
        return OnnxClassifier(_onnx_description(session, path), session, hash_of(path))
    if path.is_dir():
        description, weights, sha256 = read_folder(path)
        return TorchClassifier(description, weights, sha256, use_device(device))
    if path.suffix == HEAD_SUFFIX:
        return open_head(path, use_device(device))
    if path.suffix != ".pt":
        raise CcdError(
            f"{path}: no model; give a checkpoint (student.pt), an exported folder, an .onnx file, or a head.h5"
        )
    checkpoint, sha256 = read_student(path)
    return TorchClassifier(describe(checkpoint), checkpoint.weights[checkpoint.selected], sha256, use_device(device))


def check_exists(path: Path) -> None:
    """Check that a model exists. Raises CcdError, which lists the models nearby, if not."""
    if path.exists():
        return
    near = sorted(str(each) for folder in {path.parent, Path("data")} for each in folder.glob("**/student*.pt"))
    raise CcdError(f"{path}: no such file; " + (f"models nearby: {listed(near)}" if near else "check its name"))


def read_student(path: Path) -> tuple[checkpoint_file.Checkpoint, str]:
    """Read a checkpoint and its SHA-256. Errors advise to rebuild it only if it lies in ``data``, as a stage's output.

    Raises:
        CcdError: ``path`` does not exist, is damaged, or is no student.
    """
    check_exists(path)
    if path.suffix == HEAD_SUFFIX:
        raise CcdError(f"{path}: a head on CLIP's features, no student; use it with: ccd predict, or ccd export onnx")
    is_stage_output = path.resolve().is_relative_to(Path("data").resolve())
    return checkpoint_file.read_hashed(path, "train" if is_stage_output else None)


def _onnx_description(session: Any, path: Path) -> ModelDescription:
    """Read the description in the metadata of an ONNX file that ccd exported."""
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return from_json(json.loads(metadata[ONNX_KEY]), str(path))
    except (KeyError, ValueError):
        raise CcdError(f"{path}: not exported by ccd (no metadata '{ONNX_KEY}'); use: ccd export onnx FILE") from None


ImageLike = str | Path | Image.Image


class StudentModel:
    """A student ready to predict; see `load_student`."""

    def __init__(self, classifier: Classifier, batch_size: int, workers: int) -> None:
        self._classifier = classifier
        self._batch_size = batch_size
        self._workers = workers

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the C classes, in the order of the table's columns."""
        return self.description.spec.classes

    @property
    def description(self) -> ModelDescription:
        """Classes, preprocessing, thresholds, licence and provenance."""
        return self._classifier.description

    def predict(
        self, images: Sequence[ImageLike] | ImageLike, *, threshold: float | None = None, skip_bad: bool = False
    ) -> pd.DataFrame:
        """Predict probabilities and decide labels.

        Args:
            images: one or several paths, or one or several Pillow images of any mode, as opened.
            threshold: one for all classes; None: the model's own, per class.
            skip_bad: leave out files that cannot be read, with a warning, instead of raising.

        Returns:
            One row per image, indexed by ``path`` (``image 3`` for the fourth Pillow image). Column ``labels`` holds
            lists of class names; then comes one float32 column per class, named by `ccd.deploy.rows.class_columns`.

        Raises:
            CcdError: a file or a Pillow image cannot be read.
        """
        items = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        opened = [item for item in items if isinstance(item, Image.Image)]
        paths = [Path(item) for item in items if not isinstance(item, Image.Image)]
        if opened and paths:
            raise CcdError("give paths or images, not both at once")
        names = []
        probs = [np.empty((0, len(self.classes)), np.float32)]
        for batch_names, batch_probs in self._opened(opened) if opened else self._files(paths, skip_bad):
            names += batch_names
            probs.append(batch_probs)
        cuts = self.description.cuts if threshold is None else np.full(len(self.classes), threshold)
        return self._frame(names, np.concatenate(probs), cuts)

    def _opened(self, images: list[Image.Image]) -> Iterator[tuple[list[str], np.ndarray]]:
        side_px = self.description.spec.image_size_px
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size]
            names = [f"image {number}" for number in range(start, start + len(batch))]
            upright = map(upright_rgb, batch, names)
            pixels = [torch.from_numpy(squash(image, side_px, side_px)) for image in upright]
            yield names, self._classifier(torch.stack(pixels))[0].numpy()

    def _files(self, paths: list[Path], skip_bad: bool) -> Iterator[tuple[list[str], np.ndarray]]:
        for batch in scored(self._classifier, paths, self._batch_size, self._workers):
            for problem in batch.problems:
                if not skip_bad:
                    raise CcdError(problem.reason)
                warnings.warn(problem.reason, stacklevel=3)
            yield [name_of(path) for path in batch.paths], batch.probs

    def _frame(self, names: list[str], probs: np.ndarray, cuts: np.ndarray) -> pd.DataFrame:
        present = decide(probs, cuts)
        labels = [[name for name, is_present in zip(self.classes, row, strict=True) if is_present] for row in present]
        frame: pd.DataFrame = pd.DataFrame(
            probs, index=pd.Index(names, name="path"), columns=rows.class_columns(self.classes)
        )
        frame.insert(0, "labels", pd.Series(labels, frame.index, dtype=object))
        return frame


def load_student(path: str | Path, *, device: str = "auto", batch_size: int = 32, workers: int = 0) -> StudentModel:
    """Open a student: a checkpoint (``student.pt``), a folder from ``ccd export model``, an ``.onnx`` file, or a head
    on CLIP's features (``head.h5``).

    Args:
        device: auto, cpu, cuda or cuda:1.
        batch_size: images predicted at a time.
        workers: processes that decode files; 0: decode in this process.

    Raises:
        CcdError: ``path`` does not exist, is no model or is damaged, or the device is missing.
    """
    return StudentModel(open_model(Path(path), device), batch_size, workers)
