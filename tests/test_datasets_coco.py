"""The COCO adapter on tiny trees, whole and broken, and on real photos in that layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccd.datasets import Dataset, load_dataset
from ccd.errors import CcdError
from tests.toys.datasets import COCO_CATEGORIES, coco_content, coco_tree


def load(root: Path, test: str | None = "val2014") -> Dataset:
    return load_dataset("coco", root, train_split="train2014", test_split=test)


def test_presence_by_category_id_with_crowds_and_empty_images(tmp_path: Path) -> None:
    coco_tree(tmp_path, "train2014", {7: [13, 13, 1], 2: [], 5: [90]})
    coco_tree(tmp_path, "val2014", {1: [1]})
    dataset = load(tmp_path)
    assert [(info.name, info.texts) for info in dataset.classes] == [
        ("person", ("person",)),
        ("stop sign", ("stop sign",)),
        ("toothbrush", ("toothbrush",)),
    ]
    assert [(e.path, e.split) for e in dataset.images] == [
        ("train2014/COCO_train2014_000000000002.jpg", "train"),
        ("train2014/COCO_train2014_000000000005.jpg", "train"),
        ("train2014/COCO_train2014_000000000007.jpg", "train"),
        ("val2014/COCO_val2014_000000000001.jpg", "test"),
    ]
    assert dataset.labelled == tuple(entry.image_id for entry in dataset.images)
    assert dataset.labelled[3] == "COCO_val2014_000000000001"
    assert dataset.labels.tolist() == [[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 0]]
    assert (dataset.labels.dtype.name, bool(dataset.difficult.any())) == ("int8", False)


def test_missing_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"instances_train2014\.json .*splits there: none; .*train2014"):
        load(tmp_path)
    coco_tree(tmp_path, "train2014", {2: [1], 3: [1]})
    with pytest.raises(CcdError, match=r"val2014\.json .*train2014; .*annotations_trainval2014\.zip"):
        load(tmp_path)
    (tmp_path / "train2014" / "COCO_train2014_000000000003.jpg").unlink()
    with pytest.raises(CcdError, match=r"1 of 2 images .*000000000003\.jpg; .*train2014\.zip"):
        load(tmp_path, None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b'{"categories": [', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[]", "not COCO's instances format"),
        (b'{"images": []}', "not COCO's instances format"),
        (
            json.dumps(coco_content("train2014", {2: [1, 17]})).encode(),
            "unknown images or categories: image 2, category 17",
        ),
    ],
)
def test_malformed_annotations(tmp_path: Path, damage: bytes, message: str) -> None:
    coco_tree(tmp_path, "train2014", {2: [1]})
    (tmp_path / "annotations" / "instances_train2014.json").write_bytes(damage)
    with pytest.raises(CcdError, match=message) as caught:
        load(tmp_path, None)
    assert "instances_train2014.json" in str(caught.value)


def test_splits_must_agree_on_categories(tmp_path: Path) -> None:
    coco_tree(tmp_path, "train2014", {2: [1]})
    coco_tree(tmp_path, "val2014", {3: [1]}, categories=COCO_CATEGORIES[:2])
    with pytest.raises(CcdError, match=r"train2014 and val2014 .*categories"):
        load(tmp_path)


def test_file_names_must_stay_inside(tmp_path: Path) -> None:
    coco_tree(tmp_path, "train2014", {2: [1]})
    (tmp_path / "secret.jpg").write_bytes(b"x")
    path = tmp_path / "annotations" / "instances_train2014.json"
    path.write_text(path.read_text().replace("COCO_train2014_000000000002.jpg", "../secret.jpg"))
    with pytest.raises(CcdError, match=r"lead out of the data set's root: train2014/\.\./secret\.jpg"):
        load(tmp_path, None)


def write_coco(root: Path, split: str, names: list[str], paths: list[str]) -> None:
    """An annotation file that calls the images ``names``, which lie at ``paths``."""
    written = coco_content(split, {number: [1] for number in range(1, len(names) + 1)})
    for item, name in zip(written["images"], names, strict=True):
        item["file_name"] = name
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(written))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"not read here")


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["cam1/1.jpg", "cam2/1.jpg"], ["train2014/cam1/1.jpg", "train2014/cam2/1.jpg"]),
        (["1.jpg", "1.jpeg"], ["train2014/1.jpg", "train2014/1.jpeg"]),
        (["cam1\\1.jpg", "cam2\\1.jpg"], ["train2014/cam1/1.jpg", "train2014/cam2/1.jpg"]),
        (["images\\1.jpg", "images\\2.jpg"], ["images/1.jpg", "images/2.jpg"]),
        (["train2014/1.jpg", "./train2014/2.jpg"], ["train2014/1.jpg", "train2014/2.jpg"]),
        (["1.jpg", "2.jpg"], ["images/1.jpg", "images/2.jpg"]),
        (["1.jpg", "2.jpg"], ["images/train2014/1.jpg", "images/train2014/2.jpg"]),
        (["C:\\photos\\1.jpg", "C:\\photos\\2.jpg"], ["train2014/1.jpg", "train2014/2.jpg"]),
        (["/elsewhere/1.jpg", "/elsewhere/2.jpg"], ["train2014/1.jpg", "train2014/2.jpg"]),
    ],
)
def test_images_are_found_whatever_their_names_count_from(names: list[str], paths: list[str], tmp_path: Path) -> None:
    write_coco(tmp_path, "train2014", names, paths)
    dataset = load(tmp_path, None)
    assert [entry.path for entry in dataset.images] == paths
    stems = [Path(path).stem for path in paths]
    assert [entry.image_id for entry in dataset.images] == (stems if len(set(stems)) == 2 else paths)


def test_absolute_names_below_the_root_are_found(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2014", [f"{tmp_path}/train2014/1.jpg"], ["train2014/1.jpg"])
    assert load(tmp_path, None).images[0].path == "train2014/1.jpg"


def test_one_file_name_in_train_and_val_means_two_images(tmp_path: Path) -> None:
    for split in ("train2014", "val2014"):
        write_coco(tmp_path, split, ["1.jpg", f"{split}.jpg"], [f"{split}/1.jpg", f"{split}/{split}.jpg"])
    dataset = load(tmp_path)
    assert [entry.image_id for entry in dataset.images] == ["train2014/1.jpg", "train2014", "val2014/1.jpg", "val2014"]
    assert dataset.labelled == tuple(entry.image_id for entry in dataset.images)


def test_one_file_listed_twice_is_an_error(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2014", ["1.jpg", "1.jpg"], ["train2014/1.jpg"])
    with pytest.raises(CcdError, match=r"not unique.*train2014/1\.jpg"):
        load(tmp_path, None)


def test_a_list_of_images_without_annotations_has_no_labels(tmp_path: Path) -> None:
    coco_tree(tmp_path, "train2014", {1: [1]})
    coco_tree(tmp_path, "val2014", {2: []})
    path = tmp_path / "annotations" / "instances_val2014.json"
    written = json.loads(path.read_text())
    del written["annotations"]
    path.write_text(json.dumps(written))
    assert load(tmp_path).labelled == ("COCO_train2014_000000000001",)


@pytest.mark.shared
def test_real_photos(shared_dir: Path) -> None:
    dataset = load(shared_dir / "data" / "coco_photos")
    assert [info.name for info in dataset.classes][:3] == ["person", "bicycle", "car"]
    assert dataset.labels.shape == (256, 80)
    assert dataset.labels[:128].sum(0)[:4].tolist() == [61, 3, 12, 4]
    assert dataset.labels[128:].sum(0)[-4:].tolist() == [1, 2, 0, 0]
    assert (dataset.labels[:128].sum(1) == 0).sum() == 2
