"""Tables and features a bounded number of images at a time: the same bytes as whole, however they are cut."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest

from benchmarks.synthetic import write_artifacts
from ccd.artifacts import (
    boxes_file,
    class_table,
    corrections_file,
    features_file,
    image_index,
    sealed,
)
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.errors import CcdError
from ccd.labels.debias import LEVELS, before_corrections, prevalence_levels, sharpened
from ccd.params.presets import override
from stages import aggregate, bias, global_labels
from tests.toys.artifacts import CLASSES, index, pseudo_table, reseal

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, click.Command] = {"bias": bias.main, "global_labels": global_labels.main, "aggregate": aggregate.main}
FILES = {
    "images": "images.parquet", "clip_global": "clip_global.h5", "text": "text.h5", "bias": "bias.json",
    "global_labels": "global_labels.parquet", "clip_local": "clip_local.h5", "boxes": "boxes.parquet",
    "none": "none_images.parquet", "corrections": "corrections.csv",
}  # fmt: skip
MADE = {"bias": "bias.json", "global_labels": "global_labels.parquet", "aggregate": "pseudo_labels.parquet"}


def run_label_stages() -> dict[str, str]:
    """bias, global_labels and aggregate in the working directory; the MD5 of what each wrote."""
    digests = {}
    for name, command in STAGES.items():
        inputs = [option for option in command.params if option.name in FILES]
        words = [word for each in inputs for word in (each.opts[0], FILES[str(each.name)])]
        command.main([*words, "--out", MADE[name]], standalone_mode=False)
        digests[name] = hashlib.md5(Path(MADE[name]).read_bytes()).hexdigest()
    return digests


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Synthetic artifacts of 23 images, every fifth of which is a test image; about one view each."""
    write_artifacts(tmp_path, images=23, classes=5, width=8, views=1.2)
    found = image_index.read(tmp_path / "images.parquet")
    image_index.write(tmp_path / "images.parquet", replace(found, is_train=np.arange(23) % 5 != 3))
    _drop_views_of(tmp_path, found.ids[3::5])
    corrections_file.write(tmp_path / "corrections.csv", {(found.ids[4], "class 1"): 1, (found.ids[20], "class 0"): 0})
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _drop_views_of(folder: Path, ids: list[str]) -> None:
    views = boxes_file.read(folder / "boxes.parquet")
    looked = features_file.read(folder / "clip_local.h5", features_file.LOCAL_SCHEMA)
    _write_views(folder, views, looked, np.flatnonzero([name not in ids for name in views.image_ids]))


def _write_views(folder: Path, views: boxes_file.BoxTable, looked: features_file.Features, rows: np.ndarray) -> None:
    ids, classes = ([names[row] for row in rows] for names in (views.image_ids, views.classes))
    some = boxes_file.BoxTable(
        ids, classes, views.scores[rows], views.cam_peaks[rows], views.boxes_px[rows], views.metadata
    )
    boxes_file.write(folder / "boxes.parquet", some)
    kept = features_file.Features(np.arange(len(rows)), looked.values[rows], looked.attributes)
    features_file.write(folder / "clip_local.h5", features_file.LOCAL_SCHEMA, kept)


def test_label_stages_write_the_same_bytes_in_small_pieces(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_label_stages()
    monkeypatch.setattr(features_file, "ROWS_PER_PIECE", 4)
    monkeypatch.setattr(class_table, "IMAGES_PER_PIECE", 3)
    assert run_label_stages() == whole
    monkeypatch.setattr(class_table, "IMAGES_PER_PIECE", 1000)
    monkeypatch.setattr(features_file, "ROWS_PER_PIECE", 1000)
    assert run_label_stages() == whole


def test_labels_are_sharpened_at_the_prevalence_of_each_class(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The middles are those of the mixed labels, before any correction, whatever the pieces; the file tells them."""
    text = (run_folder / "params.yaml").read_text()
    Path("params.yaml").write_text(override(text, {"aggregate.sharpen_width": "null"}))
    run_label_stages()
    mixed = class_table.read(Path("pseudo_labels.parquet"), PSEUDO_LABELS)
    assert class_table.middles_of(mixed) is None and "sharpen_at" not in mixed.metadata
    Path("params.yaml").write_text(
        override(text, {"aggregate.sharpen_width": "0.1", "aggregate.sharpen_at": "prevalence"})
    )
    whole = run_label_stages()
    monkeypatch.setattr(class_table, "IMAGES_PER_PIECE", 3)
    assert run_label_stages() == whole
    table = class_table.read(Path("pseudo_labels.parquet"), PSEUDO_LABELS)
    middles = class_table.middles_of(table)
    assert middles is not None and middles.shape == (5,) and len(set(middles.tolist())) > 1
    before = before_corrections(mixed.columns)
    after = before_corrections(table.columns)
    np.testing.assert_allclose(after, sharpened(before, middles, 0.1), rtol=1e-5)
    np.testing.assert_allclose(middles, prevalence_levels([before]), atol=1 / LEVELS)
    assert ((after >= 0.5) == (before >= middles)).all()
    assert json.loads(table.metadata["sharpen_at"]) == dict(zip(table.classes, middles.tolist(), strict=True))


def test_views_may_come_in_any_order(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_table, "IMAGES_PER_PIECE", 3)
    run_label_stages()
    before = class_table.read(run_folder / "pseudo_labels.parquet", PSEUDO_LABELS).columns
    views = boxes_file.read(run_folder / "boxes.parquet")
    looked = features_file.read(Path("clip_local.h5"), features_file.LOCAL_SCHEMA)
    order = np.random.default_rng(0).permutation(len(views.image_ids))
    _write_views(run_folder, views, looked, order)
    run_label_stages()
    after = class_table.read(run_folder / "pseudo_labels.parquet", PSEUDO_LABELS).columns
    for name in ("local_prob", "label"):
        np.testing.assert_array_equal(after[name], before[name])
    seen = after["box_id"] >= 0
    assert seen.any() and not seen.all()
    np.testing.assert_array_equal(order[after["box_id"][seen]], before["box_id"][seen])


def test_a_table_in_pieces_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of two images, however they come; pieces of one image, whatever the row groups."""
    monkeypatch.setattr(class_table, "ROWS_PER_BATCH", 2 * len(CLASSES))
    monkeypatch.setattr(class_table, "IMAGES_PER_PIECE", 1)
    table = pseudo_table()
    class_table.write(tmp_path / "whole", PSEUDO_LABELS, table)
    with class_table.writing(tmp_path / "parts", PSEUDO_LABELS, CLASSES, table.metadata) as writer:
        for part in (slice(0, 1), slice(1, 1), slice(1, None)):
            writer.write(table.ids[part], {name: values[part] for name, values in table.columns.items()})
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    found = list(class_table.pieces(tmp_path / "whole", PSEUDO_LABELS, ["label", "box_id"]))
    assert [piece.ids for piece in found] == [[name] for name in table.ids]
    for name in ("label", "box_id"):
        np.testing.assert_array_equal(np.concatenate([piece.columns[name] for piece in found]), table.columns[name])
    with pytest.raises(CcdError, match="classes are not"):
        next(class_table.pieces(tmp_path / "whole", PSEUDO_LABELS, of=CLASSES[::-1]))


def test_features_are_read_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_file, "ROWS_PER_PIECE", 3)
    values = np.arange(44, dtype=np.float32).reshape(22, 2)
    features_file.write(tmp_path / "f", features_file.LOCAL_SCHEMA, features_file.Features(np.arange(22), values, {}))
    file = features_file.FeatureFile(tmp_path / "f", features_file.LOCAL_SCHEMA)
    for rows in ([0, 1, 2, 3], [5], [1, 4, 5, 20, 21], [], list(range(22))):
        np.testing.assert_array_equal(file.take(np.asarray(rows, np.int64)), values[rows].reshape(-1, 2))
    some = np.asarray([0, 2, 3, 9, 21])
    found = list(file.pieces(some))
    assert [rows.tolist() for rows, _ in found] == [[0, 2, 3], [9, 21]]
    np.testing.assert_array_equal(np.concatenate([each for _, each in found]), values[some])
    assert [each.shape for _, each in file.pieces(some[:0])] == [(0, 2)]


def test_a_few_views_in_any_order_and_of_these_boxes_alone(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    features_file.write(tmp_path / "f", features_file.LOCAL_SCHEMA, features_file.Features(np.arange(6), values, {}))
    np.testing.assert_array_equal(features_file.read_views(tmp_path / "f", [4, 0, 3], 6), values[[4, 0, 3]])
    assert features_file.read_views(tmp_path / "f", [], 6).shape == (0, 2)
    with pytest.raises(CcdError, match="not the 7 boxes"):
        features_file.read_views(tmp_path / "f", [0], 7)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_the_seal_does_not_depend_on_how_a_file_is_read(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_index.write(tmp_path / "one", index())
    content = (tmp_path / "one").read_bytes()
    monkeypatch.setattr(sealed, "_BLOCK", size)
    sealed.verify(tmp_path / "one", "index")
    reseal(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == content
    for at in (0, content.index(b"ccd-seal:") + 12, len(content) - 1):
        (tmp_path / "one").write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(CcdError, match="not what was written"):
            sealed.verify(tmp_path / "one", "index")


def test_a_seal_may_be_the_first_thing_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(sealed.BLANK + " and more")
    sealed.stamp(tmp_path / "one")
    sealed.verify(tmp_path / "one", "index")


@pytest.mark.parametrize(("content", "says"), [(b"", "it is empty"), (b"no seal at all", "it has no seal")])
def test_a_file_without_a_seal(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(content)
    with pytest.raises(CcdError, match=says):
        sealed.verify(tmp_path / "one", "index")


def test_what_the_machine_refuses_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        sealed.verify(tmp_path / "one", "index")


def test_rows_of_images_in_any_order() -> None:
    rows_of = image_index.RowsOfImages(np.asarray([4, 0, 2, 0, 3, 2]))
    for start, end, rows, images in ((0, 2, [1, 3], [0, 0]), (2, 4, [2, 4, 5], [0, 1, 0]), (5, 9, [], [])):
        found = rows_of.between(start, end)
        assert [each.tolist() for each in found] == [rows, images]


def test_features_that_are_no_table(tmp_path: Path) -> None:
    with features_file.creating(tmp_path / "f", features_file.LOCAL_SCHEMA, {}) as (file, _):
        features_file.write_array(file, "box_id", np.arange(2), np.int64)
        features_file.write_array(file, "features", np.zeros(2), np.float32)
    with pytest.raises(CcdError, match="no table"):
        features_file.read(tmp_path / "f", features_file.LOCAL_SCHEMA)
