"""Every artifact: what is written is read back, byte for byte the same each time; nothing damaged is accepted."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    features_file,
    files,
    image_index,
    sealed,
    text_file,
)
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.errors import CcdError
from tests.toys.artifacts import CLASSES, IDS, READERS, WRITERS, box_table, embeddings, index, pseudo_table, reseal


@pytest.mark.parametrize("name", WRITERS)
def test_same_content_same_bytes_and_nothing_beside_it(name: str, tmp_path: Path) -> None:
    digests = set()
    for folder in ("one", "another_place"):
        WRITERS[name](tmp_path / folder / name)
        digests.add(hashlib.md5((tmp_path / folder / name).read_bytes()).hexdigest())
        assert [path.name for path in (tmp_path / folder).iterdir()] == [name]
    assert len(digests) == 1


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "other"])
def test_a_missing_damaged_or_foreign_file_names_the_stage_to_rerun(name: str, harm: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if harm == "other":
        same_kind = {".parquet": "images.parquet", ".h5": "text.h5", ".json": "bias.json", ".pt": "warmup.pt"}
        other = same_kind[path.suffix]
        if other == name:
            other = {"images.parquet": "boxes.parquet", "text.h5": "clip_global.h5", "bias.json": "classes.json"}.get(
                name
            )
        if other is None:
            torch.save({"schema": "another"}, path)
        else:
            WRITERS[other](path)
    elif harm != "missing":
        WRITERS[name](path)
        content = path.read_bytes()
        path.write_bytes(b"" if harm == "empty" else content[: len(content) * 2 // 3])
    advice = r"No such file; run: dvc repro$" if harm == "missing" else r"rebuild it with: dvc repro -f -s \w+"
    with pytest.raises(CcdError, match=advice):
        READERS[name](path)


def test_image_index_comes_back(tmp_path: Path) -> None:
    image_index.write(tmp_path / "i", index())
    found = image_index.read(tmp_path / "i")
    assert (found.ids, found.paths, found.digests) == (IDS, index().paths, index().digests)
    np.testing.assert_array_equal(found.sizes_px, index().sizes_px)
    assert found.train().ids == ["a", "c"] and found.test().ids == ["b/ü"]


def test_class_table_comes_back_with_nulls(tmp_path: Path) -> None:
    class_table.write(tmp_path / "t", PSEUDO_LABELS, pseudo_table())
    found = class_table.read(tmp_path / "t", PSEUDO_LABELS)
    assert (found.ids, found.classes, found.metadata["alpha"]) == (IDS, CLASSES, "0.4")
    for name, column in pseudo_table().columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    frame = pq.read_table(tmp_path / "t").to_pandas()
    assert list(frame.columns) == ["image_id", "class", *pseudo_table().columns]
    assert frame[frame["image_id"] == "b/ü"]["box_id"].isna().all()
    assert frame.loc[5, "class"] == "<script>" and frame.loc[5, "box_id"] == 4


@pytest.mark.parametrize("rows_per_batch", [1, 2, 5, 100])
def test_class_table_in_pieces_of_any_size(
    rows_per_batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_table, "ROWS_PER_BATCH", rows_per_batch)
    class_table.write(tmp_path / "t", PSEUDO_LABELS, pseudo_table())
    found = class_table.read(tmp_path / "t", PSEUDO_LABELS, ["label"])
    assert found.ids == IDS and list(found.columns) == ["label"]
    np.testing.assert_array_equal(found.columns["label"], pseudo_table().columns["label"])


def test_class_table_without_images(tmp_path: Path) -> None:
    columns = {"label": np.empty((0, 2), np.int8), "difficult": np.empty((0, 2), bool)}
    class_table.write(tmp_path / "t", LABELS, class_table.ClassTable([], CLASSES, columns, {}))
    found = class_table.read(tmp_path / "t", LABELS)
    assert found.ids == [] and found.columns["label"].shape == (0, 2)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_one_image_is_read_as_among_all_from_the_row_groups_that_may_hold_it(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_table, "ROWS_PER_BATCH", 3 * len(CLASSES))
    monkeypatch.setattr(boxes_file, "ROWS_PER_GROUP", 4)
    rng = np.random.default_rng(0)
    ids = [f"größe/{number:02}" for number in (range(20) if order == "sorted" else rng.permutation(20))]
    columns = {name: rng.random((20, len(CLASSES))).astype(kind.to_pandas_dtype())
               for name, kind, *_ in PSEUDO_LABELS.columns}  # fmt: skip
    columns["local_prob"][::2, 0] = np.nan
    class_table.write(tmp_path / "p", PSEUDO_LABELS, class_table.ClassTable(ids, CLASSES, columns, {"a": "1"}))
    owners = [ids[number // 2] for number in range(30)]
    numbers = np.arange(30, dtype=np.float32)
    boxes = boxes_file.BoxTable(owners, owners, numbers, numbers, np.tile(numbers[:, None], 4), {"tau": "0.4"})
    boxes_file.write(tmp_path / "b", boxes)
    groups: list[list[int]] = []
    usual = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda file, some, **more: (groups.append(some), usual(file, some, **more))[1],
    )
    for row, name in enumerate(ids):
        one = class_table.read_image(tmp_path / "p", PSEUDO_LABELS, name)
        assert (list(one.ids), one.classes, one.metadata["a"]) == ([name], CLASSES, "1")
        for column, values in columns.items():
            assert np.array_equal(one.columns[column], values[row : row + 1], equal_nan=values.dtype.kind == "f")
        box_ids, own, count = boxes_file.read_image(tmp_path / "b", name)
        assert box_ids.tolist() == [box for box, owner in enumerate(owners) if owner == name] and count == 30
        assert (
            own.classes == [name] * len(box_ids)
            and own.boxes_px[:, 2].tolist() == own.scores.tolist() == box_ids.tolist()
        )
    if order == "sorted":
        assert max(map(len, groups)) <= 2, "an image's boxes may lie in two groups"
    for absent in ("größe/00a", "a", "z"):
        none = class_table.read_image(tmp_path / "p", PSEUDO_LABELS, absent)
        assert len(none.ids) == 0 and none.columns["label"].shape == (0, len(CLASSES))
        assert len(boxes_file.read_image(tmp_path / "b", absent)[0]) == 0


def test_a_seal_is_checked_once_and_again_when_the_file_was_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[object] = []
    usual = sealed._digest
    monkeypatch.setattr(sealed, "_digest", lambda file, start: (checked.append(file), usual(file, start))[1])
    path = tmp_path / "boxes.parquet"
    WRITERS["boxes.parquet"](path)
    checked.clear()
    for _ in range(2):
        READERS["boxes.parquet"](path)
    assert len(checked) == 2, "a file this young may change without another time"
    monkeypatch.setattr(sealed, "_SETTLED_S", -1.0)
    for _ in range(3):
        READERS["boxes.parquet"](path)
    assert len(checked) == 3
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(CcdError, match="not what was written"):
        READERS["boxes.parquet"](path)


def test_permuted_rows_are_refused(tmp_path: Path) -> None:
    class_table.write(tmp_path / "t", PSEUDO_LABELS, pseudo_table())
    table = pq.read_table(tmp_path / "t")
    with files.replacing(tmp_path / "t") as temporary:
        pq.write_table(table.take([1, 0, 2, 3, 4, 5]), temporary)
        with pytest.raises(CcdError, match="not what was written"):  # the seal in its metadata is another file's
            class_table.read(temporary, PSEUDO_LABELS)
        reseal(temporary)
    with pytest.raises(CcdError, match="not images x classes in order"):
        class_table.read(tmp_path / "t", PSEUDO_LABELS)


def test_features_come_in_any_order_but_each_row_once(tmp_path: Path) -> None:
    with features_file.writing(tmp_path / "f", features_file.LOCAL_SCHEMA, np.arange(3), 2, {}) as writer:
        writer.write(np.array([2, 0]), np.array([[5, 6], [1, 2]], np.float32))
        writer.write(np.array([1]), np.array([[3, 4]], np.float32))
    found = features_file.read(tmp_path / "f", features_file.LOCAL_SCHEMA)
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 6]] and list(found.ids) == [0, 1, 2]


@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 1, 1]])
def test_missing_or_repeated_rows_leave_no_file(rows: list[int], tmp_path: Path) -> None:
    with (
        pytest.raises(CcdError),
        features_file.writing(tmp_path / "f", features_file.LOCAL_SCHEMA, np.arange(2), 1, {}) as writer,
    ):
        for row in rows:
            writer.write(np.array([row]), np.ones((1, 1), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_in_features_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    values = np.full((3, 4), 1.2345, np.float32)
    features_file.write(path, features_file.GLOBAL_SCHEMA, features_file.Features(IDS, values, {}))
    content = bytearray(path.read_bytes())
    content[content.index(values.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CcdError, match="clip_global"):
        features_file.read(path, features_file.GLOBAL_SCHEMA)


def test_features_of_no_view(tmp_path: Path) -> None:
    features_file.write(
        tmp_path / "f", features_file.LOCAL_SCHEMA, features_file.Features(np.arange(0), np.empty((0, 4)), {})
    )
    assert features_file.read(tmp_path / "f", features_file.LOCAL_SCHEMA).values.shape == (0, 4)


def test_the_rest_comes_back(tmp_path: Path) -> None:
    for name in ("boxes.parquet", "text.h5", "bias.json", "warmup.pt", "classes.json"):
        WRITERS[name](tmp_path / name)
    found = boxes_file.read(tmp_path / "boxes.parquet")
    assert found.metadata == {"tau": "0.1"} and found.boxes_px.tolist() == box_table().boxes_px.tolist()
    words = text_file.read(tmp_path / "text.h5")
    assert (words.classes, words.texts, words.logit_scale) == (CLASSES, embeddings().texts, 100.0)
    back = bias_file.read(tmp_path / "bias.json")
    assert back.bias.tolist() == [0.7, 0.9] and back.shrunk == ("<script>",)
    state = checkpoint_file.read(tmp_path / "warmup.pt", "warmup")
    assert torch.equal(state.weights["last"]["w"], torch.arange(4.0)) and state.info == {"epochs": 2}


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"schema": checkpoint_file.SCHEMA, "x": Planted()}, tmp_path / "p.pt")
    with pytest.raises(CcdError, match="train"):
        checkpoint_file.read(tmp_path / "p.pt", "train")
    assert not (tmp_path / "ran").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_alignment_errors_name_place_and_stage() -> None:
    with pytest.raises(CcdError, match=r"first difference at row 1.*dvc repro -f -s bias"):
        image_index.same_ids(Path("x"), "bias", ["a", "c"], ["a", "b"])
    with pytest.raises(CcdError, match=r"'z' \(and 1 more\)"):
        image_index.rows_of(Path("x"), "bias", ["a", "z", "y"], ["a", "b"])
    assert image_index.rows_of(Path("x"), "bias", ["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]


@pytest.mark.parametrize("spec", [LABELS, GLOBAL_LABELS, PSEUDO_LABELS, PREDICTIONS])
def test_every_column_is_documented(spec: class_table.TableSpec) -> None:
    for field in spec.schema:
        assert len(field.metadata[b"doc"]) > 10


@pytest.mark.parametrize("outside", [(), ("a photo of the sky", "Himmel über der Stadt")])
def test_texts_of_classes_and_of_backgrounds_come_back(outside: tuple[str, ...], tmp_path: Path) -> None:
    given = replace(embeddings(), templates=("a {}", "ein Bild von {}: ü"))
    assert given.background.shape == (0, 0), "none unless asked for"
    if outside:
        given = replace(given, background_texts=outside, background=np.eye(2, 3, 1, dtype=np.float32))
    text_file.write(tmp_path / "text.h5", given)
    found = text_file.read(tmp_path / "text.h5")
    assert (found.background_texts, found.texts, found.templates) == (outside, given.texts, given.templates)
    assert found.background.shape == (len(outside), 3)
    np.testing.assert_array_equal(found.background, given.background.reshape(-1, 3))


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_boxes_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(boxes_file, "ROWS_PER_GROUP", rows)
    corners = np.arange(12, dtype=np.float32).reshape(3, 4)
    scores = np.float32([0.5, 0.6, 0.7])
    wrote = boxes_file.BoxTable(["a", "a", "c"], ["cat", "dog", ""], scores, scores + 1, corners, {"tau": "0.1"})
    boxes_file.write(tmp_path / "boxes.parquet", wrote)
    found = boxes_file.read(tmp_path / "boxes.parquet")
    assert (found.image_ids, found.classes, found.metadata) == (wrote.image_ids, wrote.classes, wrote.metadata)
    np.testing.assert_array_equal(found.boxes_px, corners)
    assert pq.read_table(tmp_path / "boxes.parquet")["box_id"].to_pylist() == [0, 1, 2]
    assert pq.ParquetFile(tmp_path / "boxes.parquet").num_row_groups == -(-3 // rows)
    assert found.images_with_requests == 1
