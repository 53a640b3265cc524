"""The folder and demo adapters, and the rules that every data set must keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ccd.datasets import ClassInfo, Dataset, ImageEntry, load_dataset
from ccd.datasets.class_names import read_classes
from ccd.datasets.image_search import find_images
from ccd.datasets.record import check
from ccd.errors import CcdError

ROOT = Path("photos")


def make_tree(root: Path, *names: str, classes: str = "cat\ndog\n") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read here")
    (root / "classes.txt").write_text(classes)
    return root


def load(root: Path, test: str | None = "test", labels_file: Path | None = None) -> Dataset:
    return load_dataset("folder", root, train_split="train", test_split=test, labels_file=labels_file)


def splits(dataset: Dataset) -> dict[str, str]:
    return {entry.image_id: entry.split for entry in dataset.images}


def labels(dataset: Dataset) -> dict[str, list[int]]:
    return dict(zip(dataset.labelled, dataset.labels.tolist(), strict=True))


def test_a_folder_and_class_names_are_enough(tmp_path: Path) -> None:
    dataset = load(make_tree(tmp_path, "b.JPG", "a/c.png", "a/c.jpeg"))
    assert splits(dataset) == {"a/c.jpeg": "train", "a/c.png": "train", "b.JPG": "train"}
    assert [entry.path for entry in dataset.images] == ["a/c.jpeg", "a/c.png", "b.JPG"]
    assert (dataset.labelled, dataset.labels.shape) == ((), (0, 2))


def test_images_are_found_by_extension_and_hidden_ones_left_out(tmp_path: Path) -> None:
    kinds = ["jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff", "ppm"]
    make_tree(tmp_path, *[f"x.{kind}" for kind in kinds], ".hidden/a.jpg", "._b.jpg", "notes.md", "jpg")
    assert find_images(tmp_path) == sorted(f"x.{kind}" for kind in kinds)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "root", "a.jpg")
    make_tree(tmp_path / "disk", "b.jpg")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(root)
    (tmp_path / "disk" / "circle").symlink_to(tmp_path / "disk")
    assert find_images(root) == ["a.jpg", "linked/b.jpg"]


def test_class_file_with_comments_and_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeff# my classes\n\n hot_dog \ntv: tv monitor, television\n", encoding="utf-8")
    assert read_classes(path) == (ClassInfo("hot_dog", ("hot dog",)), ClassInfo("tv", ("tv monitor", "television")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "holds no class names; write the class names there"),
        ("cat\ncat\n", "1 class names are not unique: cat"),
        ("cat;dog\nbird\n", "must not contain ';': cat;dog"),
        ("cat\n", "one class alone, 'cat'.*add at least one more"),
        ("Cat\ncat\n", "'Cat' and 'cat'"),
        ("traffic light\ntraffic_light\n", "'traffic light' and 'traffic_light'"),
        ("caf\u00e9\ncafe\u0301\n", "same but for case"),
        ("sofa: couch\nsettee: couch\n", "cannot tell them apart: 'sofa' and 'settee'"),
        ("a\tb\nc\n", "control characters or tabs"),
        ("cat:\n", "classes have no text, or an empty one, for CLIP to read: cat"),
        (": a cat\n", "1 class names are empty: ''"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CcdError, match=message):
        load(make_tree(tmp_path, "a.jpg", classes=text))


@pytest.mark.parametrize(
    "text",
    [
        "cat, dog, sea lion\n",
        "cat;dog;sea lion",
        '["cat", "dog", "sea lion"]',
        "['cat',\n 'dog',\n 'sea lion']\n",
        "names: [cat, dog, sea lion]",
        '{"0": "cat", "1": "dog", "2": "sea lion"}',
        "0 cat\n1 dog\n2 sea lion\n",
        "1. cat\n2. dog\n3. sea lion\n",
        "0: cat\n1: dog\n2: sea lion\n",
        "names:\n  0: cat\n  1: dog\n  2: sea lion\n",
        "cat 0\ndog 1\nsea lion 2\n",
        "- cat\n- dog\n- sea lion\n",
        "names:\n  - cat\n  - 'dog'\n  - sea lion\n",
        '"cat"\n"dog"\n"sea lion"\n',
        "cat,\ndog,\nsea lion\n",
        "class_name\ncat\ndog\nsea lion\n",
    ],
)
def test_another_kind_of_list_is_refused_with_the_lines_to_write(tmp_path: Path, text: str) -> None:
    with pytest.raises(CcdError, match=r"classes\.txt: this looks like .*; write one class a line") as refused:
        load(make_tree(tmp_path, "a.jpg", classes=text))
    assert str(refused.value).endswith("\n    cat\n    dog\n    sea lion")


def test_synonyms_behind_commas_get_a_colon(tmp_path: Path) -> None:
    with pytest.raises(CcdError) as refused:
        load(make_tree(tmp_path, "a.jpg", classes="tench, Tinca tinca\ngoldfish\n"))
    assert str(refused.value).endswith("\n    tench: tench, Tinca tinca\n    goldfish")


@pytest.mark.parametrize("text", ["7 up\ncola\n", "3\n8\n", "1 euro\n5 euro\n", "names: name\ncat\n", "cat\n#1\ndog"])
def test_names_with_numbers_and_such_are_names(tmp_path: Path, text: str) -> None:
    assert len(load(make_tree(tmp_path, "a.jpg", classes=text)).classes) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_list_of_classes_may_be_utf_16_and_hold_what_nobody_sees(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "names.txt"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    path.write_bytes(mark + "cat\u200b\r\n\u00a0dog\u00a0\r\n".encode(encoding))
    assert [info.name for info in read_classes(path)] == ["cat", "dog"]


def test_labels_csv_in_the_root_with_splits(tmp_path: Path) -> None:
    make_tree(tmp_path, "a.jpg", "b.jpg", "test/c.jpg", "test/d.jpg", "e.jpg")
    (tmp_path / "labels.csv").write_text("image_id,split,classes\na.jpg,test,cat; dog\nb,,\nc,train,dog\n")
    dataset = load(tmp_path)
    assert splits(dataset) == {
        "a.jpg": "test",
        "b.jpg": "train",
        "e.jpg": "train",
        "test/c.jpg": "train",
        "test/d.jpg": "test",
    }
    assert labels(dataset) == {"a.jpg": [1, 1], "b.jpg": [0, 0], "test/c.jpg": [0, 1]}


def test_labels_csv_elsewhere_without_splits(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", "a.jpg", "test/c.jpg")
    table = tmp_path / "truth.csv"
    table.write_bytes('\ufeffpath,classes\r\ntest/c.jpg,cat\r\na.jpg,"dog;cat"\r\n'.encode())
    dataset = load(root, labels_file=table)
    assert splits(dataset) == {"a.jpg": "train", "test/c.jpg": "test"}
    assert labels(dataset) == {"a.jpg": [1, 1], "test/c.jpg": [1, 0]}
    assert splits(load(root, None, labels_file=table)) == {"a.jpg": "train"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image_id,classes\nzebra.jpg,cat\n", r"1 row cannot be used: line 2: 'zebra.jpg' names no images"),
        ("image_id,classes\nc,cat\n", "line 2: 'c' names 2 images"),
        ("image_id,classes\na,cow\n", r"line 2: unknown class cow \(classes: cat, dog\)"),
        ("image_id,classes\na,cat\na.jpg,dog\n", "line 3: 'a.jpg' has an earlier row"),
        ("image_id,classes,split\na,cat,trian\n", r"splits trian are neither index.train_split \(train\)"),
        ("image_id,kinds\na,cat\n", "columns are image_id, kinds; needed: image_id or path, classes"),
        ("image_id,classes\na,cat,dog\n", r"line 2: 3 cells under 2 columns: 'a,cat,dog'"),
        ("", "columns are none; needed"),
        ('image_id,classes\na,"cat\n', "not valid CSV"),
    ],
)
def test_bad_label_tables(tmp_path: Path, table: str, message: str) -> None:
    make_tree(tmp_path, "a.jpg", "x/c.jpg", "y/c.jpg")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(CcdError, match=message) as caught:
        load(tmp_path)
    assert "labels.csv" in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        b'\xef\xbb\xbfPath;Classes;Remark\r\na.jpg;cat;\r\nsub/b.jpg;"cat;dog";x, y\r\n;;\r\n',
        b'sep=;\r\nPATH;CLASSES\r\n.\\a.jpg;cat\r\nsub\\b.jpg;"cat;dog"\r\n',
        "path\tlabels\r\n./a.jpg\tcat\r\n./sub/b.jpg\tcat;dog\r\n".encode("utf-16"),
        b"file,classes,split\rROOT/a.jpg,cat,\rROOT/sub/b.jpg,cat;dog,train\r",
        b"path,labels,cat,dog\nROOT/a.jpg,cat,0.9,0.1\nROOT/./sub/b.jpg,cat;dog,0.9,0.8\n",
        b"image_id,path,split,classes,label of cat\nx1,a.jpg,train,cat,1\nx2,sub/b.jpg,train,cat;dog,1\n",
    ],
)
def test_a_table_is_read_as_people_and_programs_save_it(table: bytes, tmp_path: Path) -> None:
    make_tree(tmp_path, "a.jpg", "sub/b.jpg")
    (tmp_path / "labels.csv").write_bytes(table.replace(b"ROOT", str(tmp_path).encode()))
    assert labels(load(tmp_path)) == {"a.jpg": [1, 0], "sub/b.jpg": [1, 1]}


def test_all_rows_that_cannot_be_used_are_counted_and_each_has_its_reason(tmp_path: Path) -> None:
    make_tree(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = ["a.jpg;cat", "z.jpg;cat", "b.jpg;cat;dog", "b.jpg;cow", 'c.jpg;"cat', "a.jpg;dog", "c.jpg;emu"]
    (tmp_path / "labels.csv").write_text("\n".join(["path;classes", *rows]) + "\n")
    with pytest.raises(CcdError) as caught:
        load(tmp_path)
    reasons = (
        "line 3: 'z.jpg'",
        "line 4: 3 cells under 2 columns: 'b.jpg;cat;dog'",
        "line 5: unknown class cow",
        "line 6: not valid CSV",
        "line 7: 'a.jpg' has an earlier row",
    )
    assert "6 rows cannot be used" in str(caught.value)
    assert str(caught.value).count("(classes: cat, dog)") == 1
    assert [reason for reason in reasons if reason not in str(caught.value)] == []


def test_a_label_of_a_deleted_image_is_not_given_to_another_of_its_name(tmp_path: Path) -> None:
    make_tree(tmp_path, "train/1.jpg", "test/2.jpg", "1.jpg")
    (tmp_path / "labels.csv").write_text("path,classes\ntest/1.jpg,cat\ntest/2.jpg,dog\n")
    with pytest.raises(CcdError, match=r"line 2: 'test/1.jpg' names no images"):
        load(tmp_path)


def test_ambiguous_tail_gives_way_to_a_full_path(tmp_path: Path) -> None:
    make_tree(tmp_path, "c.jpg", "x/c.jpg")
    (tmp_path / "labels.csv").write_text("image_id,classes\nc.jpg,cat\n")
    assert labels(load(tmp_path)) == {"c.jpg": [1, 0]}


def test_missing_folder_or_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"nowhere .*dataset\.root"):
        load(tmp_path / "nowhere")
    with pytest.raises(CcdError, match=r"classes\.txt: No such file .*class names"):
        load(tmp_path)
    with pytest.raises(CcdError, match=r"no images .*no other files.*dataset\.root"):
        load(make_tree(tmp_path))
    with pytest.raises(CcdError, match=r"no images .*2 \.mp4, 1 \.psd.*dataset\.root"):
        load(make_tree(tmp_path / "films", "a.mp4", "b/c.MP4", "d.psd"))
    with pytest.raises(CcdError, match=r"gone\.csv: No such file.*; set index\.labels_file"):
        load(make_tree(tmp_path, "a.jpg"), labels_file=tmp_path / "gone.csv")
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(CcdError, match="not UTF-8 text"):
        load(tmp_path)
    with pytest.raises(CcdError, match=r"'imagenet'.*: demo, voc, coco, nuswide, folder"):
        load_dataset("imagenet", tmp_path, train_split="train", test_split=None)


def dataset_of(ids: list[str]) -> Dataset:
    entries = tuple(ImageEntry(name, f"{name}.jpg", "train") for name in ids)
    shape = (len(ids), 2)
    return Dataset(
        (ClassInfo("cat", ("cat",)), ClassInfo("dog", ("dog",))),
        entries,
        tuple(ids),
        np.ones(shape, np.int8),
        np.zeros(shape, np.bool_),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "has no classes"),
        ({"classes": (ClassInfo("\ud800", ("a",)),)}, r"1 class names or texts are not valid UTF-8: '\\ud800'"),
        ({"images": (ImageEntry("a", "a\0.jpg", "train"),)}, "lead out of the data set's root"),
        ({"images": ()}, "training split has no images"),
        ({"images": (ImageEntry("a", "a.jpg", "test"),)}, "training split has no images"),
        ({"labelled": ("a", "z")}, "1 labelled images are not in the data set: z"),
        ({"labelled": ("a", "a")}, "1 images are labelled twice: a"),
        ({"labels": np.ones((2, 1), np.int8)}, r"\(labelled images, classes\) = \(2, 2\), found \(2, 1\)"),
        ({"labels": np.full((2, 2), -1, np.int8)}, "labels must be 0 or 1, found -1"),
        ({"images": (ImageEntry("a", "/etc/a.jpg", "train"),)}, "lead out of the data set's root: /etc/a.jpg"),
        ({"images": (ImageEntry("a", "", "train"),)}, "lead out of the data set's root"),
    ],
)
def test_check_refuses(change: dict[str, Any], message: str) -> None:
    good = dataset_of(["a", "b"])
    check(good, ROOT)
    with pytest.raises(CcdError, match=message):
        check(replace(good, **change), ROOT)


@given(st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=30))
def test_repeated_ids_are_counted_and_listed(ids: list[str]) -> None:
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if not repeated:
        return check(dataset_of(ids), ROOT)
    with pytest.raises(CcdError) as caught:
        check(dataset_of(ids), ROOT)
    message = str(caught.value)
    assert message.startswith(f"photos: {len(repeated)} image ids are not unique")
    assert message.split(": ")[2].partition(";")[0].partition(" and ")[0].split(", ") == repeated[:10]


def load_demo(root: Path, train: int = 3, seed: int = 0) -> Dataset:
    return load_dataset(
        "demo", root, train_split="train", test_split="test", demo_train=train, demo_test=2, demo_seed=seed
    )


def test_demo_is_rendered_once_and_again_when_it_changed(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    dataset = load_demo(root)
    assert list(splits(dataset).values()).count("train") == 3
    assert len(dataset.labelled) == len(dataset.images) == 5
    assert (dataset.labels.sum(1) >= 1).all()
    photo = root / dataset.images[0].path
    first = photo.read_bytes()
    stamp = photo.stat().st_mtime_ns
    load_demo(root)
    assert photo.stat().st_mtime_ns == stamp
    assert len(load_demo(root, train=4).images) == 6
    assert photo.read_bytes() == first
    photo.unlink()
    assert len(load_demo(root, train=4).images) == 6
    load_demo(root, train=4, seed=1)
    assert photo.read_bytes() != first
    settings = json.loads((root / "scenes.json").read_text())
    (root / "scenes.json").write_text(json.dumps(settings | {"renderer": "older"}))
    stamp = photo.stat().st_mtime_ns
    load_demo(root, train=4, seed=1)
    assert photo.stat().st_mtime_ns > stamp


def test_demo_never_clears_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CcdError, match=r"holds other files than rendered scenes \(thesis\.tex\)"):
        load_demo(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
