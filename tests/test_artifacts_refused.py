"""Files whose seal holds and whose content does not: every check of a reader behind its seal, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    classes_file,
    features_file,
    files,
    image_index,
    metrics_file,
    text_file,
)
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.artifacts.files import write_csv
from ccd.errors import CcdError
from tests.faults.artifacts import reseal, rewrite
from tests.toys.artifacts import CLASSES, IDS, READERS, WRITERS, embeddings, index, pseudo_table

CHECKPOINT = checkpoint_file.SCHEMA


def resealed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: reseal(path, change)


def in_hdf5(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)
        reseal(path, bytes)

    return spoil


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def columns_changed(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, change(pq.read_table(path)))


def metadata_changed(**changed: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, pq.read_table(path), **changed)


def without_nulls(table: pa.Table) -> pa.Table:
    """The same columns, one of which may hold no value any more."""
    place = table.schema.get_field_index("label")
    values = pa.array([None, *table["label"].to_pylist()[1:]], pa.float32())
    return table.set_column(place, pa.field("label", pa.float32(), True), values)


SPOILT: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("bias.json", "no JSON", resealed(lambda content: content.replace(b"{", b"[", 1)), "bias.json: Expecting|Invalid"),
    ("bias.json", "a list", resealed(lambda content: b"[" + content + b"]"), "its schema is None"),
    ("bias.json", "a key less", resealed(lambda content: content.replace(b'"shrinkage"', b'"shrinkagE"')), "malformed"),
    ("classes.json", "a key less", resealed(lambda content: content.replace(b'"texts"', b'"textS"')), "malformed"),
    ("classes.json", "not UTF-8", resealed(lambda content: content.replace(b"cat", b"ca\xff")), "utf-8"),
    ("images.parquet", "skipped is no JSON", metadata_changed(skipped="{"), "its list of skipped images is malformed"),
    ("images.parquet", "skipped lacks keys", metadata_changed(skipped="[{}]"), "its list of skipped images is"),
    ("images.parquet", "a column less", columns_changed(lambda table: table.drop_columns(["bytes"])), "its schema is"),
    ("pseudo_labels.parquet", "classes no JSON", metadata_changed(classes="["), "its class names are malformed"),
    ("pseudo_labels.parquet", "no class", metadata_changed(classes="[]"), r"its class names are malformed \(there is"),
    ("pseudo_labels.parquet", "other classes", metadata_changed(classes='["dog", "cat"]'), "images x classes in order"),
    ("pseudo_labels.parquet", "a row less", columns_changed(lambda table: table.slice(1)), "5 rows are not a multiple"),
    ("pseudo_labels.parquet", "nullable", columns_changed(without_nulls), "its schema is"),
    ("clip_global.h5", "no features", in_hdf5(lambda file: file.__delitem__("features")), "features"),
    ("clip_global.h5", "a row less", in_hdf5(lambda file: put(file, "features", np.ones((2, 4)))), "3 ids for 2 rows"),
    ("clip_global.h5", "Inf", in_hdf5(lambda file: put(file, "features", np.full((3, 4), np.inf))), "holds NaN or Inf"),
    ("clip_global.h5", "ids no strings", in_hdf5(lambda file: put(file, "image_id", np.arange(3))), "rebuild"),
    ("text.h5", "a row less", in_hdf5(lambda file: put(file, "embedding", np.ones((1, 3)))), "2 texts, 1 embeddings"),
    ("text.h5", "NaN", in_hdf5(lambda file: put(file, "embedding", np.full((2, 3), np.nan))), "it holds NaN or Inf"),
    ("text.h5", "scale", in_hdf5(lambda file: file.attrs.__setitem__("logit_scale", np.inf)), "it holds NaN or Inf"),
    ("text.h5", "no scale", in_hdf5(lambda file: file.attrs.__delitem__("logit_scale")), "logit_scale"),
    ("warmup.pt", "no weights", lambda path: torch.save({"schema": CHECKPOINT, "spec": {}}, path), "it has no"),
    ("warmup.pt", "no mapping", lambda path: torch.save([1], path), "its schema is None"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm", "spoil", "says"), SPOILT, ids=[f"{each[0]}: {each[1]}" for each in SPOILT])
def test_what_is_wrong_is_said_with_the_stage(
    name: str, harm: str, spoil: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    READERS[name](path)
    spoil(path)
    with pytest.raises(CcdError, match=says) as caught:
        READERS[name](path)
    assert str(caught.value).startswith(f"{path}: ") and "; rebuild it with: dvc repro -f -s " in str(caught.value)


def test_columns_that_nobody_asked_for_are_not_checked(tmp_path: Path) -> None:
    """And are not there; the others are."""
    table = pseudo_table()
    table.columns["label"][0, 0] = np.nan
    class_table.write(tmp_path / "x", PSEUDO_LABELS, table)
    with pytest.raises(CcdError, match="its column label holds NaN or Inf"):
        class_table.read(tmp_path / "x", PSEUDO_LABELS)
    found = class_table.read(tmp_path / "x", PSEUDO_LABELS, ["global_prob"])
    assert list(found.columns) == ["global_prob"]


def test_classes_are_compared_where_they_are_given(tmp_path: Path) -> None:
    class_table.write(tmp_path / "x", PSEUDO_LABELS, pseudo_table())
    assert class_table.read(tmp_path / "x", PSEUDO_LABELS, of=CLASSES).ids == IDS
    with pytest.raises(CcdError, match="dvc repro -f -s aggregate"):
        class_table.read(tmp_path / "x", PSEUDO_LABELS, of=CLASSES[::-1])


def test_a_table_of_one_class(tmp_path: Path) -> None:
    column = np.float32([[0.25], [0.5], [0.75]])
    table = class_table.ClassTable(IDS, ("cat",), dict.fromkeys(("prob", "entropy_nats", "label"), column), {})
    class_table.write(tmp_path / "x", GLOBAL_LABELS, table)
    found = class_table.read(tmp_path / "x", GLOBAL_LABELS)
    assert (found.ids, found.classes) == (IDS, ("cat",)) and found.columns["label"].tolist() == column.tolist()


def test_thresholds_come_with_the_student_or_are_one_half() -> None:
    bare = checkpoint_file.Checkpoint({"classes": ["a", "b"]}, {}, "last", {})
    assert checkpoint_file.thresholds(bare) == ([0.5, 0.5], "0.5")
    own = replace(bare, info={"thresholds": {"values": (0.25, 0.75), "source": "labels"}})
    assert checkpoint_file.thresholds(own) == ([0.25, 0.75], "labels")


def test_splits_of_the_index(tmp_path: Path) -> None:
    skipped = (image_index.SkippedImage("bad.jpg", "empty"),)
    image_index.write(tmp_path / "x", replace(index(), skipped=skipped))
    found = image_index.read(tmp_path / "x")
    assert (found.train().ids, found.test().ids, found.skipped) == (["a", "c"], ["b/ü"], skipped)
    assert found.sizes_px.tolist() == [[3, 4], [5, 6], [7, 8]] and found.sizes_px.dtype == np.int32
    assert len(found) == 3 and found.test().file_bytes.tolist() == [8] and found.test().digests == ["1"]
    table = pq.read_table(tmp_path / "x")
    assert (table["height_px"].to_pylist(), table["width_px"].to_pylist()) == ([3, 5, 7], [4, 6, 8])


METRICS = {
    split: {
        "mAP": {"student": 50.0, "zero_shot": None},
        "labelled_images": 7,
        "classes_counted": 2,
        "classes_left_out": "cat",
    }
    for split in ("train", "test")
}


def test_metrics_and_tables_come_back(tmp_path: Path) -> None:
    json_file = tmp_path / "metrics.json"
    table = tmp_path / "per_class.csv"
    curve = tmp_path / "curves.csv"
    metrics_file.write(json_file, table, METRICS, [{"class": "cat, big", "ap": 0.5}, {"class": "dog", "ap": ""}])
    assert json_file.read_text().startswith('{\n  "train": {\n    "mAP"') and json_file.read_text().endswith("}\n")
    assert json.loads(json_file.read_text()) == METRICS
    expected = metrics_file.SplitMetrics({"student": 50.0, "zero_shot": None}, 7, 2, "cat")
    assert metrics_file.read_metrics(json_file) == {"train": expected, "test": expected}
    assert metrics_file.read_per_class(table) == {"cat, big": {"ap": 0.5}, "dog": {}}
    write_csv(curve, [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1.0}])
    assert curve.read_bytes() == b"epoch,loss\n1,0.30000000000000004\n2,1.0\n"
    assert metrics_file.read_curve(curve, "train") == [{"epoch": 1.0, "loss": 0.1 + 0.2}, {"epoch": 2.0, "loss": 1.0}]


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (metrics_file.read_metrics, "{"),
        (metrics_file.read_metrics, '{"train": {}, "test": {}}'),
        (metrics_file.read_metrics, None),
        (metrics_file.read_per_class, "class,ap\ncat,high\n"),
        (metrics_file.read_per_class, "name,ap\ncat,1\n"),
        (metrics_file.read_per_class, None),
        (lambda path: metrics_file.read_curve(path, "train"), 'epoch\n"1'),
        (lambda path: metrics_file.read_curve(path, "train"), "epoch\none\n"),
        (lambda path: metrics_file.read_curve(path, "train"), None),
    ],
)
def test_metrics_and_tables_that_are_malformed_name_the_stage(
    read: Callable[[Path], object], content: str | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "x").write_text(content)
    with pytest.raises(CcdError, match=r"run: dvc repro$|dvc repro -f -s (evaluate|train)"):
        read(tmp_path / "x")


def test_what_may_be_missing_is_declared() -> None:
    schemas = [boxes_file.SCHEMA, image_index.SCHEMA]
    schemas += [spec.schema for spec in (GLOBAL_LABELS, LABELS, PREDICTIONS, PSEUDO_LABELS)]
    nullable = {
        (schema.metadata[b"schema"].decode(), field.name) for schema in schemas for field in schema if field.nullable
    }
    named = ("local_prob", "box_id", "correction", "uncorrected_label")
    assert nullable == {("ccd.pseudo_labels/2", name) for name in named}


def test_json_has_no_nan(tmp_path: Path) -> None:
    for write in (
        lambda path: files.write_json(path, {"a": float("nan")}),
        lambda path: bias_file.write(
            path, bias_file.BiasFile(("a",), np.array([np.nan]), np.array([1]), 1.0, 2.0, 1.0, True, ())
        ),
    ):
        with pytest.raises(ValueError, match="JSON"):
            write(tmp_path / "x")
        assert list(tmp_path.iterdir()) == []


def test_what_every_field_comes_back_as(tmp_path: Path) -> None:
    content = bias_file.BiasFile(CLASSES, np.array([0.7, 0.9]), np.array([3, 0]), 0.5, 1.75, 10.0, False, ("<script>",))
    bias_file.write(tmp_path / "bias.json", content)
    found = bias_file.read(tmp_path / "bias.json")
    assert replace(found, bias=0, top1_counts=0) == replace(content, bias=0, top1_counts=0)  # type: ignore[arg-type]
    assert (found.bias.tolist(), found.top1_counts.tolist()) == ([0.7, 0.9], [3, 0])
    classes_file.write(tmp_path / "classes.json", classes_file.ClassList(("a", "ü"), (("x", "y"), ())))
    assert classes_file.read(tmp_path / "classes.json") == classes_file.ClassList(("a", "ü"), (("x", "y"), ()))
    assert "ü" in (tmp_path / "classes.json").read_text(encoding="utf-8"), "readable by a person"
    text_file.write(tmp_path / "text.h5", embeddings())
    words = text_file.read(tmp_path / "text.h5")
    nothing = {"values": 0, "background": 0}
    assert replace(words, **nothing) == replace(embeddings(), **nothing)  # type: ignore[arg-type]


def test_features_refuse_what_is_no_number_and_rows_of_another_index(tmp_path: Path) -> None:
    with (
        pytest.raises(CcdError, match=r"NaN or Inf for rows \[2\]"),
        features_file.writing(tmp_path / "x", features_file.GLOBAL_SCHEMA, IDS, 2, {}) as writer,
    ):
        writer.write(np.array([0, 2]), np.float32([[1, 1], [1, np.inf]]))
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "clip_global.h5"
    teacher = {"teacher": "t", "fingerprint": "a"}
    features_file.write(
        path, features_file.GLOBAL_SCHEMA, features_file.Features(IDS, np.ones((3, 2), np.float32), teacher)
    )
    assert features_file.open_global(path, index().ids, teacher).take(np.arange(3)).tolist() == [[1, 1]] * 3
    with pytest.raises(CcdError, match="clip_global"):
        features_file.open_global(path, index().train().ids, teacher)
    with pytest.raises(CcdError, match="teacher"):
        features_file.open_global(path, index().ids, teacher | {"fingerprint": "b"})
