"""What is fuzzed: every reader of parameters, artifacts, annotations and images, with a small good file of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ccd.artifacts import measured, seal
from ccd.datasets import Dataset, load_dataset
from ccd.datasets.record import check
from ccd.errors import CcdError
from ccd.indexing import FileReader
from ccd.params.base import Section, load, read_yaml
from ccd.params.sections import SECTIONS
from tests import (
    test_artifacts as artifacts,
    test_datasets_coco as coco,
    test_datasets_nuswide as nuswide,
    test_datasets_voc as voc,
)
from tests.faults.pictures import GOOD_BYTES
from tests.fuzz.mutate import Mutation, spoil_bytes, spoil_text, spoil_tree, spoil_values
from tests.test_params_properties import within

PAPER = Path(__file__).resolve().parents[2] / "ccd/presets/paper.yaml"


@dataclass(frozen=True)
class Subject:
    """``file`` lies in a folder that `prepare_all` filled. ``read`` gives its content or raises CcdError.

    ``whole``: a changed file is refused, or read exactly as the good one.
    """

    name: str
    family: str
    file: str
    mutate: Mutation
    read: Callable[[Path], object]
    whole: bool = False


def _params(model: type[Section]) -> Subject:
    def read(path: Path) -> object:
        section = load(model, path)
        for key, field in model.model_fields.items():
            value = getattr(section, key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and not (np.isfinite(value) and within(field.metadata, value)):
                raise AssertionError(f"{key} = {value!r} was accepted")
            if isinstance(value, bool) != (field.annotation is bool):
                raise AssertionError(f"{key} = {value!r} was accepted")
        return section

    return Subject(f"params {model.section}", "params", f"{model.section}.yaml", spoil_values, read)


def _dataset(adapter: str, folder: str, file: str, mutate: Mutation, **options: Any) -> Subject:
    def read(path: Path) -> Dataset:
        root = path
        while root.name != folder:
            root = root.parent
        dataset = load_dataset(adapter, root, **options)
        check(dataset, root)
        return dataset

    return Subject(f"{adapter} {Path(file).name}", "files", f"{folder}/{file}", mutate, read)


def _facts(path: Path) -> object:
    facts = FileReader(path.parent, "decode", False)(path.name)
    if facts.problem:
        raise CcdError(facts.problem)
    return facts


def _resealed(rng: Any, data: bytes) -> bytes:
    """A tree that was changed by somebody who can seal."""
    spoilt = spoil_tree(rng, data)
    start = spoilt.find(b"ccd-seal:") + 9
    return spoilt if start < 9 else spoilt[:start] + b"0" * 32 + spoilt[start + 32 :]


def _curve(path: Path) -> object:
    return measured.read_curve(path, "train")


def _stamp_and_read(name: str, path: Path) -> object:
    seal.stamp(path)  # refuses what has lost its place for a seal
    return artifacts.READERS[name](path)


TEXT_SPLITS = {"train_split": "train", "test_split": None}
SUBJECTS = [
    *[_params(model) for model in SECTIONS],
    *[
        Subject(f"artifact {name}", "files", f"artifacts/{name}", spoil_bytes, read, whole=True)
        for name, read in artifacts.READERS.items()
    ],
    *[
        Subject(f"resealed {name}", "files", f"artifacts/{name}", _resealed, partial(_stamp_and_read, name))
        for name in ("classes.json", "bias.json")
    ],
    Subject("metrics.json", "files", "artifacts/metrics.json", spoil_tree, measured.read_metrics),
    Subject("per_class.csv", "files", "artifacts/per_class.csv", spoil_text("lines"), measured.read_per_class),
    Subject("curves.csv", "files", "artifacts/curves.csv", spoil_text("lines"), _curve),
    _dataset("folder", "photos", "classes.txt", spoil_text("lines"), **TEXT_SPLITS),
    _dataset("folder", "photos", "labels.csv", spoil_text("lines"), **TEXT_SPLITS),
    _dataset("coco", "coco", "annotations/instances_train.json", spoil_tree, **TEXT_SPLITS),
    _dataset("voc", "voc", "Annotations/000002.xml", spoil_text("xml"), **TEXT_SPLITS),
    _dataset("voc", "voc", "ImageSets/Main/train.txt", spoil_text("lines"), **TEXT_SPLITS),
    _dataset("voc", "voc_lists", "ImageSets/Main/cat_train.txt", spoil_text("lines"), **TEXT_SPLITS),
    _dataset("nuswide", "nus", "ImageList/TrainImagelist.txt", spoil_text("lines"), train_split="TrainImagelist",
             test_split=None),
    _dataset("nuswide", "nus", "Groundtruth/TrainTestLabels/Labels_sky_Train.txt", spoil_text("lines"),
             train_split="TrainImagelist", test_split=None),
    *[Subject(f"image {kind}", "files", f"images/{name}", spoil_bytes, _facts) for kind, name, data in GOOD_BYTES
      if name.startswith("odd.") and not ("EXIF" in kind and "6" not in kind)],
]  # fmt: skip


def prepare(folder: Path) -> None:
    """Write a good file for every subject, and what it needs around it."""
    for model in SECTIONS:
        content = {model.section: read_yaml(PAPER)[model.section]}
        (folder / f"{model.section}.yaml").write_text(_as_yaml(content))
    (folder / "artifacts").mkdir()
    for name, write in artifacts.WRITERS.items():
        write(folder / "artifacts" / name)
    split = {"mAP": {"a": 1.5, "b": None}, "labelled_images": 3, "classes_counted": 2, "classes_left_out": ""}
    (folder / "artifacts/metrics.json").write_text(json.dumps({"train": split, "test": split}))
    (folder / "artifacts/per_class.csv").write_text("class,test_student,train_x\ncat,1.5,\ndog,,2\n")
    photos = folder / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (photos / name).write_bytes(b"not read here")
    (photos / "classes.txt").write_text("# classes\ncat\ndog: hound, puppy\n")
    (photos / "labels.csv").write_text("path,classes,split\na.jpg,cat;dog,train\nb,,\n")
    coco.make_tree(folder / "coco", "train", {7: [13, 13, 1], 2: [], 5: [90]})
    voc.make_kit(folder / "voc", {"train": voc.TRAIN}, lists=False)
    voc.make_kit(folder / "voc_lists", {"train": voc.TRAIN}, xml=False)
    (folder / "nus").mkdir()
    nuswide.make_tree(folder / "nus")
    (folder / "images").mkdir()
    for _, name, data in GOOD_BYTES:
        if name.startswith("odd."):
            (folder / "images" / name).write_bytes(data)


def _as_yaml(content: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, values in content.items():
        lines += [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def plain(content: object) -> str:
    """Content as text that is equal where the content is."""
    if dataclasses.is_dataclass(content):
        fields = [(field.name, plain(getattr(content, field.name))) for field in dataclasses.fields(content)]
        return repr((type(content).__name__, fields))
    if isinstance(content, dict):
        return repr([(key, plain(value)) for key, value in content.items()])
    if isinstance(content, (list, tuple)):
        return repr([plain(value) for value in content])
    return repr((str(content.dtype), content.tolist())) if hasattr(content, "tolist") else repr(content)
