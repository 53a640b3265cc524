"""A project's artifacts as aligned tables, read when they are asked for and again when a file has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ccd.artifacts import bias_file, class_table, corrections_file, features_file, image_index, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS, PREDICTIONS, PSEUDO_LABELS, ClassTable, TableSpec
from ccd.artifacts.corrections_file import UNDECIDED, Decisions
from ccd.artifacts.image_index import ImageIndex, same_ids
from ccd.artifacts.image_keys import ImageKeys
from ccd.errors import CcdError
from ccd.images.file_cache import FileCache
from ccd.labels.scores import Scoring
from ccd.params.file import load, read_yaml
from ccd.params.sections import DatasetParams, IndexParams, RuntimeParams
from ccd.report import inspect, inspect_text
from ccd.report.doubt import disagreement
from ccd.review.answer_book import AnswerBook
from ccd.review.questions import asked_classes

T = TypeVar("T")
ROWS_AT_ONCE = 8192
STEPS = ("clip", "views", "student", "label")
"""The steps of the method, in their order; see `Tables`."""


@dataclass(frozen=True)
class Tables:
    """N images of C classes, from whichever artifacts there are.

    ``steps``: name -> (N, C) float32 in [0, 1], NaN where not known. ``clip``: the global label, of test images
    min(p / b, 1); ``views``: the local label, clipped, of training images; ``student``: its probability of test images;
    ``label``: the last of pseudo-label, student and CLIP that is known, never NaN. ``doubt`` (N, C): the largest
    difference between clip, views and student; where CLIP alone has looked, 1 - |2 p - 1|. ``has``: the artifacts used.
    ``notes``: artifacts that could not be used, and why.
    """

    index: ImageIndex
    classes: tuple[str, ...]
    steps: dict[str, np.ndarray]
    doubt: np.ndarray
    has: tuple[str, ...]
    notes: tuple[str, ...]


class ProjectData:
    """The project in the working directory. Safe to use from several threads.

    Raises:
        CcdError: there is no params.yaml, or it is invalid.
    """

    def __init__(self) -> None:
        dataset = load(DatasetParams)
        self.name = dataset.name
        self.root = Path(dataset.root)
        self.folder = Path("data") / dataset.name
        self.corrections = corrections_file.path_of(dataset.name)
        self.follow_links = load(IndexParams).follow_links
        self.cache = FileCache(round(load(RuntimeParams).cache_gb * 1e9))
        self._lock = threading.RLock()
        self._values: dict[str, tuple[object, Any]] = {}
        self._decided: tuple[tuple[object, ...], np.ndarray] | None = None

    def index(self) -> ImageIndex:
        """Return the index of the images. Raises CcdError if it is not there yet."""
        return self._known("index", ["images.parquet"], lambda: image_index.read(self.folder / "images.parquet"))

    def text(self) -> text_file.TextEmbeddings:
        """Return the classes with CLIP's embeddings."""
        return self._known("text", ["text.h5"], lambda: text_file.read(self.folder / "text.h5"))

    def bias(self) -> bias_file.BiasFile | None:
        """Return CLIP's class bias; None before stage ``bias``."""
        path = self.folder / "bias.json"
        return self._known("bias", ["bias.json"], lambda: bias_file.read(path) if path.is_file() else None)

    def keys(self) -> ImageKeys:
        """Return what finds images by the names that people and other tools use."""
        index = self.index()
        return self._known("keys", ["images.parquet"], lambda: ImageKeys(index.ids, self.root, index.paths))

    def features(self) -> np.ndarray:
        """Return CLIP's embeddings (N, D) float32 of all images; they stay in memory, N * D * 4 bytes."""
        return self._known("features", ["clip_global.h5", "images.parquet"], self._read_features)

    def tables(self) -> Tables:
        """Return the tables of labels and doubt.

        Raises:
            CcdError: not even CLIP's embeddings of images and classes are there.
        """
        names = ["images.parquet", "text.h5", "bias.json", "clip_global.h5", "global_labels.parquet"]
        return self._known("tables", [*names, "pseudo_labels.parquet", "predictions.parquet"], self._read_tables)

    def book(self) -> AnswerBook:
        """Return the corrections."""

        def make() -> AnswerBook:
            return AnswerBook(self.corrections, list(self.index().train().ids), self.text().classes, self.root)

        return self._known("book", ["images.parquet", "text.h5"], make)

    def row_of(self) -> dict[str, int]:
        """Return image id -> row of the index."""
        return self._known("rows", ["images.parquet"], lambda: {name: at for at, name in enumerate(self.index().ids)})

    def decided(self) -> np.ndarray:
        """Return people's decisions (N, C) int8, read-only: 1 there, 0 not there, -1 undecided.

        It is made anew once the corrections have changed, whoever wrote them.
        """
        sources = (self.row_of(), self.text(), self.book().decisions())  # not under the lock: an answer may be written
        with self._lock:
            if self._decided is None or any(one is not two for one, two in zip(sources, self._decided[0], strict=True)):
                self._decided = sources, _table_of(*sources)
            return self._decided[1]

    def asked(self, row: int, decided: np.ndarray) -> tuple[int, ...]:
        """Return the classes (columns) to ask a person about, as `ccd review export` does: the most disputed first."""
        tables = self.tables()
        return asked_classes(tables.doubt[row], decided[row], tables.steps["label"][row])

    def story(self, row: int) -> dict[str, Any]:
        """Return all that is known of an image, as ``ccd inspect --json``; less where the pipeline has not come so far.

        Raises:
            CcdError: an artifact that is there is damaged.
        """
        index = self.index()
        height_px, width_px = (int(side) for side in index.sizes_px[row])
        tables = self.tables()
        needed = ("pseudo_labels", "boxes.parquet", "clip_local.h5") if index.is_train[row] else ("predictions",)
        needed = (*needed, "bias.json", "labels.parquet")
        is_whole = all(name in tables.has or (self.folder / name).is_file() for name in needed)
        if is_whole:
            return inspect_text.story_data(inspect.image_story(self.folder, index.ids[row], index))
        return {
            "image_id": index.ids[row],
            "path": index.paths[row],
            "split": "train" if index.is_train[row] else "test",
            "width_px": width_px,
            "height_px": height_px,
            "views": [],
            "classes": {name: {} for name in tables.classes},
        }

    def clip_probs(self) -> np.ndarray:
        """Return CLIP's probabilities (N, C) float32 of all images, as stage ``global_labels`` scores them."""
        bias = self.bias()
        mean_cosines = None if bias is None else bias.mean_cosines
        out = np.empty((len(self.index()), len(self.text().classes)), np.float32)
        self._score(out, np.arange(len(out)), mean_cosines)
        return out

    def signature(self, names: Sequence[str]) -> tuple[object, ...]:
        """Return what tells whether any of these files of the data folder has changed."""
        return tuple(_facts(self.folder / name) for name in names)

    def _known(self, key: str, names: Sequence[str], make: Callable[[], T]) -> T:
        with self._lock:
            signature = self.signature(names)
            if key not in self._values or self._values[key][0] != signature:
                self._values[key] = signature, make()
            value: T = self._values[key][1]
            return value

    def _read_features(self) -> np.ndarray:
        teacher = self.text().attributes
        file = features_file.open_global(self.folder / "clip_global.h5", self.index().ids, teacher)
        return file.take(np.arange(len(file.ids)))

    def _read_tables(self) -> Tables:
        index = self.index()
        classes = self.text().classes
        notes: list[str] = []
        made = _Made(self.folder, classes, notes)
        shape = (len(index), len(classes))
        steps = {name: np.full(shape, np.nan, np.float32) for name in STEPS}
        train = index.train_rows
        test = index.test_rows
        pseudo = made.table("pseudo_labels", PSEUDO_LABELS, _USED, index.ids, train)
        predicted = made.table("predictions", PREDICTIONS, None, index.ids, test)
        labels = None if pseudo else made.table("global_labels", GLOBAL_LABELS, ["label"], index.ids, train)
        bias = made.bias()
        if pseudo is not None:
            steps["clip"][train] = pseudo.columns["global_label"]
            steps["views"][train] = np.clip(pseudo.columns["local_label"], 0, 1)
            steps["label"][train] = pseudo.columns["label"]
        elif labels is not None:
            steps["clip"][train] = labels.columns["label"]
        if predicted is not None and bias is not None:
            steps["clip"][test] = np.minimum(predicted.columns["zero_shot_prob"] / bias.bias, 1)
            steps["student"][test] = steps["label"][test] = predicted.columns["student_prob"]
        missing = np.flatnonzero(np.isnan(steps["clip"][:, 0]))
        if len(missing):
            self._score(steps["clip"], missing, None if bias is None else bias.mean_cosines)
        steps["label"] = np.where(np.isnan(steps["label"]), steps["clip"], steps["label"])
        doubt = 1 - np.abs(2 * steps["clip"] - 1)
        if pseudo is not None:
            doubt[train] = disagreement(pseudo.columns | {"correction": np.full((len(train), len(classes)), -1)})
        if predicted is not None and bias is not None:
            doubt[test] = np.abs(steps["clip"][test] - steps["student"][test])
        return Tables(index, classes, steps, doubt, tuple(made.used), tuple(notes))

    def _score(self, out: np.ndarray, rows: np.ndarray, mean_cosines: np.ndarray | None) -> None:
        features = self.features()
        score = Scoring(self.text(), mean_cosines)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            out[part] = score(features[part])


def _table_of(row_of: Mapping[str, int], text: text_file.TextEmbeddings, decisions: Decisions) -> np.ndarray:
    class_of = {name: column for column, name in enumerate(text.classes)}
    table = np.full((len(row_of), len(class_of)), UNDECIDED, np.int8)
    for (image, name), label in decisions.items():
        table[row_of[image], class_of[name]] = label
    table.flags.writeable = False
    return table


_USED = ["global_label", "local_label", "label"]


class _Made:
    """Reads the tables that exist and fit; the others are noted."""

    def __init__(self, folder: Path, classes: tuple[str, ...], notes: list[str]) -> None:
        self._folder = folder
        self._classes = classes
        self._notes = notes
        self.used: list[str] = []

    def table(
        self, name: str, spec: TableSpec, columns: Sequence[str] | None, ids: Sequence[str], rows: np.ndarray
    ) -> ClassTable | None:
        path = self._folder / f"{name}.parquet"
        if not path.is_file() or not len(rows):
            return None
        try:
            table = class_table.read(path, spec, columns, of=self._classes)
            same_ids(path, spec.stage, table.ids, image_index.Names(ids).take(rows))
        except CcdError as error:
            self._notes.append(str(error))
            return None
        self.used.append(name)
        return table

    def bias(self) -> bias_file.BiasFile | None:
        path = self._folder / "bias.json"
        if not path.is_file():
            return None
        try:
            bias = bias_file.read(path)
        except CcdError as error:
            self._notes.append(str(error))
            return None
        return bias if bias.classes == self._classes else None


def reruns(dataset: str) -> list[str]:
    """Return the stages that a changed correction reruns, in the order of dvc.yaml; empty without a dvc.yaml."""
    path = Path("dvc.yaml")
    if not path.is_file():
        return []
    stages = read_yaml(path).get("stages") or {}
    changed = {f"corrections/{dataset}.csv", "corrections/${dataset.name}.csv"}
    names: set[str] = set()
    for _ in stages:  # as many rounds as the longest chain may need
        before = len(names)
        for name, stage in stages.items():
            if changed & {str(dep) for dep in stage.get("deps", ())}:
                names.add(name)
                changed |= {_output(each) for kind in ("outs", "metrics", "plots") for each in stage.get(kind, ())}
        if len(names) == before:
            break
    return [name for name in stages if name in names]


def _output(entry: object) -> str:
    """Return the path of an output, which may be written with settings: ``{path: {cache: false}}``."""
    return str(next(iter(entry))) if isinstance(entry, dict) else str(entry)


def _facts(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
