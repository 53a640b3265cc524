"""The NUS-WIDE adapter on tiny trees, whole and broken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from ccd.datasets import Dataset, load_dataset
from ccd.datasets.class_names import NUS_WIDE
from ccd.errors import CcdError
from tests.toys.datasets import nuswide_tree


def load(root: Path, train: str = "TrainImagelist", test: str | None = "TestImagelist") -> Dataset:
    return load_dataset("nuswide", root, train_split=train, test_split=test)


def present(dataset: Dataset) -> dict[str, set[str]]:
    return {
        image_id: {NUS_WIDE[c] for c in np.flatnonzero(dataset.labels[row])}
        for row, image_id in enumerate(dataset.labelled)
    }


@pytest.mark.parametrize(("photos", "newline"), [("Flickr", "\r\n"), ("images", " \n")])
def test_official_lists(tmp_path: Path, photos: str, newline: str) -> None:
    dataset = load(nuswide_tree(tmp_path, photos, newline))
    assert [(e.image_id, e.path, e.split) for e in dataset.images[2:4]] == [
        ("zoo/0003_13", f"{photos}/zoo/0003_13.jpg", "train"),
        ("zoo/0004_14", f"{photos}/zoo/0004_14.jpg", "test"),
    ]
    assert present(dataset) == {
        "actor/0001_11": {"person"},
        "actor/0002_12": {"sky", "clouds"},
        "zoo/0003_13": set(),
        "zoo/0004_14": {"zebra"},
        "actor/0005_15": {"airport"},
    }
    assert [info.name for info in dataset.classes] == list(NUS_WIDE)


def test_own_lists_find_their_labels_by_path(tmp_path: Path) -> None:
    nuswide_tree(tmp_path)
    (tmp_path / "ImageList" / "mine.txt").write_text("zoo/0004_14.jpg\nactor\\0001_11.jpg\n")
    dataset = load(tmp_path, "mine", None)
    assert present(dataset) == {"zoo/0004_14": {"zebra"}, "actor/0001_11": {"person"}}
    (tmp_path / "ImageList" / "mine.txt").write_text("actor/0001_11.jpg\nactor/9.jpg\n")
    with pytest.raises(CcdError, match=r"mine\.txt: 1 of 2 images .*: actor/9\.jpg"):
        load(tmp_path, "mine", None)


def test_dead_links_are_counted_and_the_given_command_mends_it(tmp_path: Path) -> None:
    root = tmp_path / "it's NUS-WIDE"
    root.mkdir()
    (nuswide_tree(root) / "Flickr" / "actor" / "0002_12.jpg").unlink()
    with pytest.raises(CcdError, match=r"1 of 3 images .*: Flickr/actor/0002_12\.jpg;") as caught:
        load(root)
    command = str(caught.value).partition("split:  ")[2]
    subprocess.run(["sh", "-c", command], check=False)
    assert [e.image_id for e in load(root, "TrainImagelistPresent", None).images] == [
        "actor/0001_11",
        "zoo/0003_13",
    ]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"Flickr or images.*ImageList\.zip .*lms\.comp\.nus\.edu\.sg"):
        load(tmp_path)
    nuswide_tree(tmp_path)
    with pytest.raises(CcdError, match=r"none\.txt .*TestImagelist, TrainImagelist"):
        load(tmp_path, "none")
    (tmp_path / "Groundtruth" / "TrainTestLabels" / "Labels_zebra_Train.txt").unlink()
    with pytest.raises(CcdError, match=r"Labels_zebra_Train\.txt: No such file .*Groundtruth\.zip"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["1\n0\n", "1\n0\n0\n1\n", "1\n2\n0\n", "1\n-1\n0\n", "1\nx\n0\n"])
def test_labels_must_be_one_digit_an_image(tmp_path: Path, damage: str) -> None:
    nuswide_tree(tmp_path)
    (tmp_path / "Groundtruth" / "TrainTestLabels" / "Labels_sky_Train.txt").write_text(damage)
    with pytest.raises(CcdError, match=r"Labels_sky_Train\.txt .*3 lines"):
        load(tmp_path)


@pytest.mark.parametrize("line", [".", "/"])
def test_a_line_that_names_no_file_is_said_with_its_list(line: str, tmp_path: Path) -> None:
    nuswide_tree(tmp_path)
    path = tmp_path / "ImageList" / "TrainImagelist.txt"
    path.write_text(path.read_text() + f"{line}\n")
    with pytest.raises(CcdError, match=r"TrainImagelist\.txt: 1 lines name no file"):
        load(tmp_path)
