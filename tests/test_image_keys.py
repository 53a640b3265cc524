"""What people call an image in a list, and which image is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccd.artifacts.image_keys import ImageKeys

PATHS = ["a.jpg", "b/c.jpg", "b/d.jpg", "e/d.jpg", "back\\slash.jpg", "=1+1.jpg"]


@pytest.fixture()
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageKeys:
    """Images in the folder photos of the working directory, which has another name too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    return ImageKeys(PATHS, Path("photos"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a.jpg", "a.jpg"), (" a.jpg ", "a.jpg"), ("./a.jpg", "a.jpg"), (".\\a.jpg", "a.jpg"), ("b\\c.jpg", "b/c.jpg"),
        ("b//./c.jpg", "b/c.jpg"), ("back\\slash.jpg", "back\\slash.jpg"), ("'=1+1.jpg", "=1+1.jpg"),
        ("photos/b/c.jpg", "b/c.jpg"), ("./photos/a.jpg", "a.jpg"), ("HERE/photos/b/c.jpg", "b/c.jpg"),
        ("HERE/link/b/c.jpg", "b/c.jpg"), ("link/a.jpg", "a.jpg"), ("/mnt/disk/photos/b/c.jpg", "b/c.jpg"),
        ("C:\\Users\\me\\photos\\a.jpg", "a.jpg"),
        ("", None), ("z.jpg", None), ("x/a.jpg", None), ("photos", None), ("../../etc/passwd", None), ("c.jpg", None),
        ("photos/x/a.jpg", None), ("a\0.jpg", None), ("\ud800.jpg", None), ("/", None),
    ],
)  # fmt: skip
def test_a_path_that_leads_to_the_image_names_it(text: str, path: str | None, keys: ImageKeys) -> None:
    assert keys.find(text.replace("HERE", os.fspath(Path.cwd()))) == path


def test_a_unique_end_of_a_path_is_enough_in_a_list(keys: ImageKeys) -> None:
    found = keys.find_all(["a.jpg", "c.jpg", "c", "b\\c", "d.jpg", "b/d", "z"])
    assert found == {
        "a.jpg": ["a.jpg"],
        "c.jpg": ["b/c.jpg"],
        "c": ["b/c.jpg"],
        "b\\c": ["b/c.jpg"],
        "d.jpg": ["b/d.jpg", "e/d.jpg"],
        "b/d": ["b/d.jpg"],
        "z": [],
    }


def test_an_image_that_is_not_there_is_never_taken_for_another_of_its_name(keys: ImageKeys) -> None:
    assert keys.find_all(["test/a.jpg", "/elsewhere/a.jpg"]) == {"test/a.jpg": [], "/elsewhere/a.jpg": []}


def test_images_whose_ids_are_no_paths_are_found_by_both() -> None:
    keys = ImageKeys(["0001", "0002"], Path("voc"), ["JPEGImages/0001.jpg", "JPEGImages/0002.jpg"])
    assert keys.find("0001") == keys.find("JPEGImages/0001.jpg") == keys.find("voc/JPEGImages/0001.jpg") == "0001"
    assert keys.find_all(["0002.jpg"]) == {"0002.jpg": ["0002"]}
