"""The VOC adapter on tiny development kits, whole and broken, and on real photos in that layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccd.datasets import Dataset, load_dataset
from ccd.datasets.voc import CLASSES
from ccd.errors import CcdError
from tests.toys.datasets import VOC_TRAIN, voc_annotation, voc_kit

TEST = {"000009": {"tvmonitor": 1}, "000010": {}}


def load(root: Path, train: str = "train", test: str | None = "test") -> Dataset:
    return load_dataset("voc", root, train_split=train, test_split=test)


def labels_by_name(dataset: Dataset) -> dict[str, dict[str, str]]:
    names = [info.name for info in dataset.classes]
    return {
        image_id: {
            names[c]: "difficult" if dataset.difficult[row, c] else "plain" for c in np.flatnonzero(dataset.labels[row])
        }
        for row, image_id in enumerate(dataset.labelled)
    }


EXPECTED = {
    "000001": {"cat": "plain"},
    "000002": {"cat": "difficult", "person": "plain"},
    "000003": {"train": "plain"},
    "000009": {"tvmonitor": "plain"},
    "000010": {},
}


@pytest.mark.parametrize(("lists", "xml"), [(True, True), (True, False), (False, True)])
def test_labels_come_from_lists_or_annotations(tmp_path: Path, lists: bool, xml: bool) -> None:
    dataset = load(voc_kit(tmp_path, {"train": VOC_TRAIN, "test": TEST}, lists=lists, xml=xml))
    assert labels_by_name(dataset) == EXPECTED
    assert [(e.image_id, e.path, e.split) for e in dataset.images[2:4]] == [
        ("000003", "JPEGImages/000003.jpg", "train"),
        ("000009", "JPEGImages/000009.jpg", "test"),
    ]


def test_classes_are_the_twenty_with_words_for_clip(tmp_path: Path) -> None:
    classes = load(voc_kit(tmp_path, {"train": VOC_TRAIN}), test=None).classes
    assert len(classes) == 20
    texts = {info.name: info.texts for info in classes}
    assert texts["diningtable"] == ("dining table",)
    assert texts["tvmonitor"] == ("tv monitor",)
    assert [info.name for info in classes] == sorted(texts)


def test_class_with_plain_and_difficult_object_is_not_difficult(tmp_path: Path) -> None:
    voc_kit(tmp_path, {"train": {"000001": {}}}, lists=False)
    both = voc_annotation({"cat": 0}).replace("</annotation>", "<object><name>cat</name></object></annotation>")
    (tmp_path / "Annotations" / "000001.xml").write_text(both)
    assert labels_by_name(load(tmp_path, test=None)) == {"000001": {"cat": "plain"}}


def test_parts_of_objects_are_not_objects(tmp_path: Path) -> None:
    voc_kit(tmp_path, {"train": {"000001": {}}}, lists=False)
    part = "<annotation><object><name>person</name><part><name>head</name></part></object></annotation>"
    (tmp_path / "Annotations" / "000001.xml").write_text(part)
    assert labels_by_name(load(tmp_path, test=None)) == {"000001": {"person": "plain"}}


def test_split_without_any_label_is_unlabelled(tmp_path: Path) -> None:
    voc_kit(tmp_path, {"train": VOC_TRAIN})
    voc_kit(tmp_path, {"test": TEST}, lists=False, xml=False)
    dataset = load(tmp_path)
    assert dataset.labelled == tuple(VOC_TRAIN)
    assert len(dataset.images) == 5


@pytest.mark.parametrize("parent", ["VOC2007", "VOCdevkit/VOC2012"])
def test_a_parent_of_one_kit_will_do(tmp_path: Path, parent: str) -> None:
    voc_kit(tmp_path / parent, {"train": VOC_TRAIN, "test": TEST})
    dataset = load(tmp_path)
    assert dataset.images[0].path == f"{parent}/JPEGImages/000001.jpg"
    assert labels_by_name(dataset) == EXPECTED


def test_a_parent_of_two_kits_is_ambiguous(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc_kit(tmp_path / "VOCdevkit" / year, {"train": VOC_TRAIN})
    with pytest.raises(CcdError, match=r"several VOC folders.*VOC2007.*VOC2012"):
        load(tmp_path)


def test_missing_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"VOCtrainval_06-Nov-2007\.tar .*VOCtrainval_11-May-2012\.tar from host"):
        load(tmp_path)
    voc_kit(tmp_path, {"train": VOC_TRAIN, "val": TEST})
    with pytest.raises(CcdError, match=r"test\.txt.*: train, val; .*VOCtest_06-Nov-2007\.tar"):
        load(tmp_path)
    (tmp_path / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(CcdError, match=r"1 of 3 images .*: JPEGImages/000002\.jpg"):
        load(tmp_path, test=None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("000001\n", "lines are not '<image> 1'.*: 000001;"),
        ("000001 2\n", "lines are not"),
        ("000001 1\n000002 1\n", "lists 2 images, its split 3; not listed: 000003"),
        ("000001 1\n000002 1\n000003 1\n000004 1\n", "lists 4 images, its split 3; not listed: none"),
    ],
)
def test_malformed_class_list(tmp_path: Path, damage: str, message: str) -> None:
    voc_kit(tmp_path, {"train": VOC_TRAIN})
    (tmp_path / "ImageSets" / "Main" / "dog_train.txt").write_text(damage)
    with pytest.raises(CcdError, match=message) as caught:
        load(tmp_path, test=None)
    assert "dog_train.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", "not well-formed XML"),
        ('<!DOCTYPE a [<!ENTITY b "cat">]><annotation/>', "a document type declaration has no place"),
        (voc_annotation({"unicorn": 1}), "'unicorn' is no VOC class; correct it to one of: aeroplane, "),
    ],
)
def test_malformed_annotation(tmp_path: Path, xml: str, message: str) -> None:
    voc_kit(tmp_path, {"train": VOC_TRAIN}, lists=False)
    (tmp_path / "Annotations" / "000002.xml").write_text(xml)
    with pytest.raises(CcdError, match=message) as caught:
        load(tmp_path, test=None)
    assert "000002.xml" in str(caught.value)


def test_annotations_that_are_there_in_part(tmp_path: Path) -> None:
    voc_kit(tmp_path, {"train": VOC_TRAIN}, lists=False)
    (tmp_path / "Annotations" / "000003.xml").unlink()
    with pytest.raises(CcdError, match=r"1 of 3 annotations .*000003\.xml"):
        load(tmp_path, test=None)


def test_splits_must_not_share_images(tmp_path: Path) -> None:
    voc_kit(tmp_path, {"trainval": VOC_TRAIN, "val": {"000002": VOC_TRAIN["000002"]}})
    with pytest.raises(CcdError, match=r"1 image ids are not unique.*000002"):
        load(tmp_path, "trainval", "val")
    with pytest.raises(CcdError, match="are both 'val'"):
        load(tmp_path, "val", "val")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("train", "test", "counts", "cats", "persons"),
    [
        ("train", "val", (1697, 940), (539, 227), (347, 247)),
        ("mixtrain", "mixval", (1738, 899), (497, 269), (398, 196)),
    ],
)
def test_real_photos(
    shared_dir: Path, train: str, test: str, counts: tuple[int, int], cats: tuple[int, int], persons: tuple[int, int]
) -> None:
    dataset = load(shared_dir / "data" / "voc_photos", train, test)
    in_train = np.array([entry.split == "train" for entry in dataset.images])
    assert (in_train.sum(), (~in_train).sum()) == counts
    for name, expected in (("cat", cats), ("person", persons)):
        column = dataset.labels[:, CLASSES.index(name)]
        assert (column[in_train].sum(), column[~in_train].sum()) == expected
    assert not dataset.difficult.any()


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1251", "GB2312", "UTF-16", "utf-8", "utf-8-sig"])
def test_an_annotation_is_read_in_the_encoding_that_it_states(encoding: str, tmp_path: Path) -> None:
    letters = {"ISO-8859-1": "\u00e9", "windows-1251": "\u0436", "GB2312": "\u732b"}.get(encoding, "\u732b\u0436")
    home = voc_kit(tmp_path, {"train": {"1": {"cat": 1}}}, lists=False)
    text = voc_annotation({"cat": 1}).replace("<folder>VOC", f"<folder>{letters}")
    declared = encoding.removesuffix("-sig")
    (home / "Annotations/1.xml").write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{text}'.encode(encoding))
    assert load(home, test=None).labels[0, CLASSES.index("cat")] == 1


def test_an_unknown_encoding_and_a_hidden_document_type_are_refused(tmp_path: Path) -> None:
    home = voc_kit(tmp_path, {"train": {"1": {"cat": 1}}}, lists=False)
    path = home / "Annotations/1.xml"
    path.write_text('<?xml version="1.0" encoding="klingon"?><annotation/>')
    with pytest.raises(CcdError, match=r"1\.xml.*klingon.*UTF-8"):
        load(home, test=None)
    path.write_bytes('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a><annotation/>'.encode("utf-16"))
    with pytest.raises(CcdError, match=r"1\.xml.*document type"):
        load(home, test=None)
