"""Label images now: with the project's student, or with CLIP itself where no student has been trained yet."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from starlette.exceptions import HTTPException

from ccd.artifacts.files import hash_of
from ccd.artifacts.sealed import short_digest
from ccd.errors import CcdError
from ccd.labels.scores import Scoring
from ccd.labels.thresholds import LABELLED, decide
from ccd.ui.project_data import ProjectData
from ccd.ui.search import TextTower

if TYPE_CHECKING:
    from torch import Tensor

    from ccd.deploy.classifier import Classifier
    from ccd.deploy.labelled import LabelledImage
    from ccd.deploy.stream import Scored
    from ccd.teacher.clip_teacher import Teacher

BATCH = 16
KEPT_ANSWERS = 50_000


@dataclass(frozen=True)
class Model:
    """What labels images: ``name``, ``student`` or ``clip``, and ``version``, which changes with its weights."""

    name: str
    version: str


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be labelled, and why."""

    reason: str


@dataclass(frozen=True)
class Answers:
    """What ``model`` says of C ``classes`` in images: ``of`` a path."""

    model: Model
    classes: tuple[str, ...]
    of: dict[Path, LabelledImage | Unreadable]


class LiveModel:
    """The model of ``project``, loaded at its first use and anew when a stage has written another one.

    One request is computed at a time. Answers about the project's own images are kept in memory.
    """

    def __init__(self, project: ProjectData, tower: TextTower) -> None:
        self._project = project
        self._tower = tower
        self._student = project.folder / "student.pt"
        self._lock = threading.Lock()
        self._known: tuple[object, Model] | None = None
        self._loaded: tuple[Model, Classifier] | None = None
        self._kept: OrderedDict[tuple[Model, Path], LabelledImage] = OrderedDict()

    def model(self) -> Model:
        """Return which model answers now, without loading it.

        Raises:
            CcdError: there is neither a student nor CLIP's view of the classes.
        """
        signature = self._project.signature(["student.pt", "text.h5", "bias.json"])
        if self._known is None or self._known[0] != signature:
            self._known = signature, self._find()
        return self._known[1]

    def _find(self) -> Model:
        if self._student.is_file():
            return Model("student", f"student {hash_of(self._student)[:8]}")
        text = self._project.text()
        facts = [text.attributes.get("fingerprint", ""), short_digest(text.values.tobytes())]
        if (bias := self._project.bias()) is not None:
            facts.append(short_digest(bias.bias.tobytes()))
        return Model("clip", f"clip {short_digest(' '.join(facts).encode())[:8]}")

    def label(self, paths: Sequence[Path], until: float, passing: Sequence[Path] = ()) -> Answers:
        """Label images.

        Args:
            paths: images of the project, whose answers are kept in memory.
            until: `time.monotonic` at which the answer must be there; checked after each batch.
            passing: files of others.

        Raises:
            HTTPException: 503, other requests are still computed, or 504, time is up; what was done is kept.
            CcdError: the model cannot be loaded.
        """
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise HTTPException(503, "busy with other requests; try again")
        try:
            model, classifier = self._current()
            of = self._label(model, classifier, paths, passing, until)
        finally:
            self._lock.release()
        return Answers(model, classifier.description.spec.classes, of)

    def _label(
        self, model: Model, classifier: Classifier, paths: Sequence[Path], passing: Sequence[Path], until: float
    ) -> dict[Path, LabelledImage | Unreadable]:
        from ccd.deploy.stream import scored

        wanted = dict.fromkeys([*paths, *passing])
        own = set(paths)
        of: dict[Path, LabelledImage | Unreadable] = {}
        of |= {path: self._kept[model, path] for path in own if (model, path) in self._kept}
        for batch in scored(classifier, [path for path in wanted if path not in of], BATCH, workers=0):
            labelled = _labelled(classifier, batch)
            of |= {problem.path: Unreadable(problem.reason) for problem in batch.problems}
            of |= labelled
            self._kept |= {(model, path): image for path, image in labelled.items() if path in own}
            while len(self._kept) > KEPT_ANSWERS:
                self._kept.popitem(last=False)
            if len(of) < len(wanted) and time.monotonic() > until:
                raise HTTPException(504, f"time is up after {len(of):,} images; ask for fewer at once, or again")
        return of

    def _current(self) -> tuple[Model, Classifier]:
        model = self.model()
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = None  # frees the old one first
            self._loaded = model, self._load(model)
        return self._loaded

    def _load(self, model: Model) -> Classifier:
        from ccd.deploy.load import open_model
        from ccd.runtime.hardware import set_up_hardware

        if model.name == "student":
            return open_model(self._student, str(set_up_hardware().device))
        return ZeroShot(self._project, self._tower.teacher())


class ZeroShot:
    """CLIP on whole images as a `ccd.deploy.classifier.Classifier`: min(p / b, 1), the global label without a floor."""

    def __init__(self, project: ProjectData, teacher: Teacher) -> None:
        """Raises CcdError if the project's texts are of another CLIP than ``teacher``."""
        from ccd.deploy.classifier import HeadSpec, ModelDescription
        from ccd.params.file import load
        from ccd.params.sections import ClipGlobalParams

        text = project.text()
        if text.attributes.get("fingerprint") != teacher.fingerprint:
            raise CcdError("the class embeddings are of another CLIP than params.yaml names; run: dvc repro text")
        mean, std = (tuple(map(float, values)) for values in teacher.pixel_mean_std)
        size_px = load(ClipGlobalParams).image_size_px
        spec = HeadSpec(teacher.description, text.classes, size_px, mean, std)
        self.description = ModelDescription(spec, (LABELLED,) * len(text.classes), "0.5")
        self.sha256 = teacher.fingerprint
        self._teacher = teacher
        bias = project.bias()
        self._score = Scoring(text, None if bias is None else bias.mean_cosines)
        self._bias = np.ones(len(text.classes)) if bias is None else bias.bias

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels (b, C) float32 and no maps (b, C, 0, 0)."""
        import torch

        from ccd.deploy.classifier import embedded, no_maps

        labels = np.minimum(self._score(embedded(self._teacher, pixels)) / self._bias, 1).astype(np.float32)
        return torch.from_numpy(labels), no_maps(len(pixels), self.description)


def _labelled(classifier: Classifier, batch: Scored) -> dict[Path, LabelledImage]:
    from ccd.deploy.labelled import Box, LabelledImage
    from ccd.deploy.outputs import localize

    description = classifier.description
    decided = decide(batch.probs, description.cuts)
    boxes: dict[int, list[Box]] = {}
    if batch.cams.numel():
        found = localize(batch, decided, description.spec.image_size_px).boxes
        for row, column, corners in zip(found.rows.tolist(), found.classes.tolist(), found.boxes_px, strict=True):
            box = Box(column, float(batch.probs[row, column]), *map(float, corners))
            boxes.setdefault(row, []).append(box)
    labelled = {}
    for row, path in enumerate(batch.paths):
        height_px, width_px = map(int, batch.sizes_px[row])
        present = tuple(np.flatnonzero(decided[row]).tolist())
        size = (width_px, height_px)
        labelled[path] = LabelledImage(
            str(path), str(path), "", *size, batch.probs[row], present, tuple(boxes.get(row, ()))
        )
    return labelled
