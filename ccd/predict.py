"""A trained student in three lines of Python:

from ccd.predict import load_student
student = load_student("data/demo/student.pt")
table = student.predict(["a.jpg", "b.jpg"])
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ccd.deploy import rows
from ccd.deploy.classifier import Classifier
from ccd.deploy.description import ModelDescription
from ccd.deploy.load import open_model
from ccd.deploy.stream import scored
from ccd.errors import CcdError
from ccd.images import squash, upright_rgb
from ccd.labels.thresholds import decide
from ccd.runtime import find_device

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
        names, probs = [], [np.empty((0, len(self.classes)), np.float32)]
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
