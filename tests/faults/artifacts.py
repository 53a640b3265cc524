"""Bad artifacts: damaged, of another version, data set, order or teacher; and planted code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    features_file,
    sealed,
    text_file,
)
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS
from ccd.student.model import StudentSpec
from tests.faults.case import ACCEPTED, Case, run, set_params

GROUP = "artifacts"
DATA = Path("data/toy")
CLASSES = ("cat", "dog")
IDS = ["a.png", "b.png", "test/c.png"]
TEACHER = {"teacher": "toy", "fingerprint": "0123456789ab"}
# file -> stage that wrote it, stage that reads it here
FILES = {
    "images.parquet": ("index", "bias"),
    "classes.json": ("index", "text"),
    "text.h5": ("text", "bias"),
    "clip_global.h5": ("clip_global", "bias"),
    "bias.json": ("bias", "global_labels"),
    "global_labels.parquet": ("global_labels", "aggregate"),
    "none_images.parquet": ("global_labels", "aggregate"),
    "boxes.parquet": ("cam_boxes", "aggregate"),
    "clip_local.h5": ("clip_local", "aggregate"),
    "pseudo_labels.parquet": ("aggregate", "train"),
    "warmup.pt": ("warmup", "cam_boxes"),
    "labels.parquet": ("index", "evaluate"),
}


def finish(folder: Path) -> None:
    """Every artifact up to the pseudo-labels, by the stages where they need no network."""
    data = folder / DATA
    run("index", folder)
    text_file.write(data / "text.h5", words())
    looks(data / "clip_global.h5")
    for stage in ("bias", "global_labels"):
        run(stage, folder)
    boxes_file.write(data / "boxes.parquet", views())
    features_file.write(
        data / "clip_local.h5", features_file.LOCAL_SCHEMA, features_file.Features(np.arange(2), units(2), TEACHER)
    )
    run("aggregate", folder)
    state = {"w": torch.arange(1000.0)}
    spec = StudentSpec("resnet18", CLASSES, cam_boost=1.0, image_size_px=64).to_dict()
    checkpoint_file.write(data / "warmup.pt", checkpoint_file.Checkpoint(spec, {"last": state}, "last", {}))


def units(count: int) -> np.ndarray:
    values = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def words() -> text_file.TextEmbeddings:
    return text_file.TextEmbeddings(CLASSES, units(2), 1.0, (("cat",), ("dog",)), ("a {}",), TEACHER)


def views(image: str = "b.png") -> boxes_file.BoxTable:
    corners = np.array([[0, 0, 9, 9], [1, 2, 30, 20]], np.float32)
    return boxes_file.BoxTable(
        ["a.png", image], ["cat", "dog"], np.float32([0.5, 0.6]), np.float32([1, 2]), corners, {}
    )


def looks(path: Path, ids: list[str] = IDS, teacher: dict[str, str] = TEACHER) -> None:
    features_file.write(path, features_file.GLOBAL_SCHEMA, features_file.Features(ids, units(len(ids)), teacher))


def reseal(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes and seal it again, as somebody would who wants to deceive a reader."""
    content = change(path.read_bytes())
    start = content.index(b"ccd-seal:") + 9
    path.write_bytes(content[:start] + b"0" * 32 + content[start + 32 :])
    sealed.stamp(path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def older(path: Path) -> None:
    """Another version of the schema."""
    if path.suffix == ".pt":
        torch.save({"schema": "ccd.checkpoint/0"}, path)
    elif path.suffix == ".parquet":
        rewrite(path, pq.read_table(path), schema=f"ccd.{path.stem}/0")
    else:
        reseal(path, lambda content: content.replace(f"ccd.{path.stem}/1".encode(), f"ccd.{path.stem}/0".encode()))


def rewrite(path: Path, table: pa.Table, **metadata: str) -> None:
    """Write a table in a file's place, sealed, with its metadata changed."""
    known = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(known | {"seal": sealed.BLANK} | metadata), path)
    sealed.stamp(path)


def classes_swapped(path: Path) -> None:
    found = class_table.read(path, SPECS[path.name])
    class_table.write(path, SPECS[path.name], replace(found, classes=found.classes[::-1]))


SPECS = {"pseudo_labels.parquet": PSEUDO_LABELS, "labels.parquet": LABELS}


def bias_swapped(path: Path) -> None:
    bias_file.write(path, replace(bias_file.read(path), classes=CLASSES[::-1]))


def rows_swapped(path: Path) -> None:
    table = pq.read_table(path)
    rewrite(path, table.take([1, 0, *range(2, len(table))]))


def with_nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["features"][1, 3] = np.nan
    reseal(path, bytes)


def linked(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink("/etc/passwd", "x")
    reseal(path, bytes)


def misaligned(path: Path) -> None:
    features_file.write(path, features_file.LOCAL_SCHEMA, features_file.Features(np.arange(3), units(3), TEACHER))


def by_hand(path: Path) -> None:
    content = json.loads(path.read_text())
    content["classes"]["cat"]["bias"] = 0.1
    path.write_text(json.dumps(content))


class Planted:
    """A pickle that would make a file where it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


def planted(path: Path) -> None:
    torch.save({"schema": checkpoint_file.SCHEMA, "weights": Planted()}, path)


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("missing", Path.unlink),
    ("empty", lambda path: path.write_bytes(b"")),
    ("truncated", cut),
    ("one bit flipped", flip),
    ("of another schema version", older),
]
OTHER_TEACHER = TEACHER | {"fingerprint": "ba9876543210"}
STRANGE: list[tuple[str, str, Callable[[Path], object], str]] = [
    (
        "another data set's",
        "clip_global.h5",
        lambda path: looks(path, ["x", "y", "z"]),
        "rows are not the 3 expected images",
    ),
    ("ids permuted", "clip_global.h5", lambda path: looks(path, IDS[::-1]), "(first difference at row 0)"),
    ("fewer rows", "clip_global.h5", lambda path: looks(path, IDS[:2]), "its 2 rows are not the 3 expected images"),
    (
        "another teacher",
        "clip_global.h5",
        lambda path: looks(path, teacher=OTHER_TEACHER),
        "its teacher is ba987654321",
    ),
    ("NaN in it", "clip_global.h5", with_nan, "it holds NaN or Inf"),
    ("another class order", "bias.json", bias_swapped, "its 2 classes are not the 2 of the data set, in their order"),
    ("edited by hand", "bias.json", by_hand, "its content is not what was written: damaged or edited"),
    ("rows permuted", "global_labels.parquet", rows_swapped, "rows are not images x classes in order"),
    (
        "another data set's",
        "boxes.parquet",
        lambda path: boxes_file.write(path, views("z.png")),
        "'z.png' (and 0 more) is",
    ),
    ("not the boxes' rows", "clip_local.h5", misaligned, "its 3 rows are not the 2 expected images"),
    ("another class order", "pseudo_labels.parquet", classes_swapped, "its 2 classes are not the 2 of the data set"),
    ("another class order", "labels.parquet", classes_swapped, "its 2 classes are not the 2 of the data set"),
    ("refers to another file", "clip_global.h5", linked, "it refers to data in other files"),
    ("planted pickle", "warmup.pt", planted, "damaged, or no checkpoint of ccd"),
]


def _case(harm: str, file: str, spoil: Callable[[Path], object], *says: str) -> Case:
    def make(folder: Path) -> None:
        finish(folder)
        spoil(folder / DATA / file)

    made_by, stage = FILES[file]
    stage = "evaluate" if spoil is classes_swapped else stage
    advice = "No such file; run: dvc repro" if harm == "missing" else f"rebuild it with: dvc repro -f -s {made_by}"
    return Case(GROUP, f"{file}: {harm}", stage, make, (f"{DATA / file}: ", *says, advice))


def scored(logits: list[list[float]], **changed: str) -> Callable[[Path], None]:
    """CLIP's scores of the three images, up to stage bias."""

    def make(folder: Path) -> None:
        set_params(folder, **changed)
        run("index", folder)
        values = np.asarray(logits, np.float32)
        features_file.write(
            folder / DATA / "clip_global.h5", features_file.GLOBAL_SCHEMA, features_file.Features(IDS, values, TEACHER)
        )
        text_file.write(folder / DATA / "text.h5", replace(words(), values=np.eye(2, dtype=np.float32)))

    return make


ALL_CATS = [[3.0, 0.0], [4.0, 0.0], [5.0, 0.0]]
SCORES = [
    Case("scores", "a class that is nobody's top-1, bias.shrinkage = 0", "bias",
         scored(ALL_CATS, bias__shrinkage="0.0"),
         ("no image has dog as CLIP's top-1 class", "set bias.shrinkage above 0", "or drop the class")),
    Case("scores", "a class that is nobody's top-1, bias.shrinkage = 10", "bias", scored(ALL_CATS), (ACCEPTED,)),
    Case("scores", "no image of which CLIP is sure", "bias", scored([[0.0, 0.0]] * 3, bias__max_entropy_nats="0.5"),
         ("bias.max_entropy_nats = 0.5: CLIP is surer than that of no image; raise it",)),
]  # fmt: skip
CASES = [
    *[_case(harm, file, spoil) for file in FILES for harm, spoil in DAMAGE],
    *[_case(harm, file, spoil, says) for harm, file, spoil, says in STRANGE],
    *SCORES,
]
