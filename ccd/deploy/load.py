"""Open a student from a checkpoint, a model folder or an ONNX file, and use it in three lines of Python:

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
    to_json,
)
from ccd.deploy.stream import scored
from ccd.errors import CcdError, listed
from ccd.images.decode import squash, upright_rgb
from ccd.labels.thresholds import decide
from ccd.runtime.hardware import find_device

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"


def write_folder(folder: Path, description: ModelDescription, weights: Weights) -> None:
    """Write both files; the same content gives the same bytes."""
    plain = {name: value.contiguous() for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(plain))
    write_json(folder / DESCRIPTION, to_json(description) | {"sha256": {WEIGHTS: hash_of(folder / WEIGHTS)}})


def keep_foreign(folder: Path) -> list[Path]:
    """Copy weights and description beside themselves if no export wrote them, before one does. Returns the copies."""
    try:
        content = _read_description(folder / DESCRIPTION)
        ours = [DESCRIPTION]
        stated = (content.get("sha256") or {}).get(WEIGHTS)
    except (CcdError, AttributeError):
        ours = []
        stated = None
    weights = folder / WEIGHTS
    if stated is not None and weights.is_file() and hash_of(weights) == stated:
        ours.append(WEIGHTS)
    copies = [keep_old(folder / name) for name in (DESCRIPTION, WEIGHTS) if name not in ours]
    return [copy for copy in copies if copy is not None]


def read_folder(folder: Path) -> tuple[ModelDescription, dict[str, Tensor], str]:
    """The description, the weights and their SHA-256.

    Raises:
        CcdError: a file is missing or damaged, or the weights are not those that ``model.json`` names.
    """
    path = folder / WEIGHTS
    if not path.is_file() or not (folder / DESCRIPTION).is_file():
        raise CcdError(f"{folder}: no {WEIGHTS} with a {DESCRIPTION} in it; make one with: ccd export model FOLDER")
    content = _read_description(folder / DESCRIPTION)
    data = path.read_bytes()  # once, since the file may be replaced
    description = from_json(content, str(folder / DESCRIPTION))
    found = hashlib.sha256(data).hexdigest()
    stated = (content.get("sha256") or {}).get(WEIGHTS)
    if stated != found:
        raise CcdError(f"{path}: its SHA-256 is {found}, but {DESCRIPTION} says {stated}; export the model again")
    try:
        return description, load(data), found
    except (SafetensorError, OSError, ValueError) as error:
        raise CcdError(f"{path}: not readable as safetensors ({error}); export the model again") from None


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not readable as JSON ({error}); export the model again") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise CcdError(f"{path}: its schema is {found!r}, expected {SCHEMA!r}; export the model again")
    return content  # type: ignore[no-any-return]


ONNX_KEY = "ccd.model"


def open_model(path: Path, device: torch.device) -> Classifier:
    """The classifier in ``path``.

    Raises:
        CcdError: nothing there, not a model, or damaged.
    """
    check_exists(path)
    if path.suffix == ".onnx":
        session = onnx_session(path, device)
        return OnnxClassifier(_onnx_description(session, path), session, hash_of(path))
    if path.is_dir():
        description, weights, sha256 = read_folder(path)
        return TorchClassifier(description, weights, sha256, device)
    if path.suffix != ".pt":
        raise CcdError(f"{path}: no model; give a checkpoint (student.pt), an exported folder, or an .onnx file")
    found, sha256 = read_student(path)
    return TorchClassifier(describe(found), found.weights[found.selected], sha256, device)


def check_exists(path: Path) -> None:
    """Raises CcdError if a person named a model that is not there; the models that are nearby are listed."""
    if path.exists():
        return
    near = sorted(str(each) for folder in {path.parent, Path("data")} for each in folder.glob("**/student*.pt"))
    raise CcdError(f"{path}: no such file; " + (f"models here: {listed(near)}" if near else "check its name"))


def read_student(path: Path) -> tuple[checkpoint_file.Checkpoint, str]:
    """A checkpoint that a person named, and its SHA-256. A stage is named to rebuild it only if a stage made it.

    Raises:
        CcdError: it is not there, damaged, or no student.
    """
    check_exists(path)
    made_here = path.resolve().is_relative_to(Path("data").resolve())
    return checkpoint_file.read_hashed(path, "train" if made_here else None)


def _onnx_description(session: Any, path: Path) -> ModelDescription:
    """The description in the metadata of an ONNX file that ccd exported."""
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
        """Class names, in the order of the table's columns."""
        return self.description.spec.classes

    @property
    def description(self) -> ModelDescription:
        """Classes, preprocessing, thresholds, licence and provenance."""
        return self._classifier.description

    def predict(
        self, images: Sequence[ImageLike] | ImageLike, *, threshold: float | None = None, skip_bad: bool = False
    ) -> pd.DataFrame:
        """Probabilities and decided labels.

        Args:
            images: one or several paths, or one or several Pillow images, of any mode, as they were opened.
            threshold: one for all classes; None: the model's own, per class.
            skip_bad: warn about files that cannot be read and leave them out, instead of raising.

        Returns:
            One row per image, indexed by ``path`` (``image 3`` for the fourth Pillow image); ``labels``, a list of
            class names; then one float32 column per class, named as in `ccd.deploy.rows.class_columns`.

        Raises:
            CcdError: a file or a Pillow image cannot be read.
        """
        items = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        pictures = [item for item in items if isinstance(item, Image.Image)]
        paths = [Path(item) for item in items if not isinstance(item, Image.Image)]
        if pictures and paths:
            raise CcdError("give paths or images, not both at once")
        named = self._pictures(pictures) if pictures else self._files(paths, skip_bad)
        names = []
        probs = [np.empty((0, len(self.classes)), np.float32)]
        for some, rows_of_batch in named:
            names += some
            probs.append(rows_of_batch)
        cuts = self.description.cuts if threshold is None else np.full(len(self.classes), threshold)
        return self._frame(names, np.concatenate(probs), cuts)

    def _pictures(self, pictures: list[Image.Image]) -> Iterator[tuple[list[str], np.ndarray]]:
        side_px = self.description.spec.image_size_px
        for start in range(0, len(pictures), self._batch_size):
            batch = pictures[start : start + self._batch_size]
            names = [f"image {number}" for number in range(start, start + len(batch))]
            upright = map(upright_rgb, batch, names)
            pixels = [torch.from_numpy(squash(picture, side_px, side_px)) for picture in upright]
            yield names, self._classifier(torch.stack(pixels))[0].numpy()

    def _files(self, paths: list[Path], skip_bad: bool) -> Iterator[tuple[list[str], np.ndarray]]:
        for batch in scored(self._classifier, paths, self._batch_size, self._workers):
            for problem in batch.problems:
                if not skip_bad:
                    raise CcdError(problem.reason)
                warnings.warn(problem.reason, stacklevel=3)
            yield [path.as_posix() for path in batch.paths], batch.probs

    def _frame(self, names: list[str], probs: np.ndarray, cuts: np.ndarray) -> pd.DataFrame:
        labels = [[name for name, there in zip(self.classes, row, strict=True) if there] for row in decide(probs, cuts)]
        frame: pd.DataFrame = pd.DataFrame(
            probs, index=pd.Index(names, name="path"), columns=rows.class_columns(self.classes)
        )
        frame.insert(0, "labels", pd.Series(labels, frame.index, dtype=object))
        return frame


def load_student(path: str | Path, *, device: str = "auto", batch_size: int = 32, workers: int = 0) -> StudentModel:
    """Open a student: a checkpoint (``student.pt``), a folder from ``ccd export model``, or an ``.onnx`` file.

    Args:
        device: auto, cpu, cuda or cuda:1.
        batch_size: images computed at a time.
        workers: processes that decode files; 0: decode here.

    Raises:
        CcdError: nothing there, not a model, damaged, or no such device.
    """
    return StudentModel(open_model(Path(path), find_device(device)), batch_size, workers)
