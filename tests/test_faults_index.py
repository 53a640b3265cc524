"""Bad images decided once, in index: all of them named, or left out and recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccd.artifacts import class_table, image_index
from ccd.artifacts.class_table import LABELS
from ccd.datasets.record import ImageEntry
from ccd.datasets.scan import scan
from ccd.errors import CcdError
from tests.faults.case import fresh, picture, run, set_params

BAD = {"bad/empty.jpg": b"", "bad/page.jpg": b"<html>404</html>", "b.png": b"no image"}


def spoil(folder: Path) -> None:
    for name, data in BAD.items():
        (folder / "pictures" / name).parent.mkdir(exist_ok=True)
        (folder / "pictures" / name).write_bytes(data)


def test_all_bad_files_are_named_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    spoil(fresh(tmp_path))
    found = run("index", tmp_path)
    assert found.code == 2 and found.written == set()
    lines = found.message.splitlines()
    assert lines[0] == "error: pictures: 3 of 5 images cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == sorted(BAD)
    assert "index.on_bad_image: skip" in lines[4]


def test_skipped_files_are_recorded_and_their_labels_left_out(tmp_path: Path) -> None:
    spoil(fresh(tmp_path, index__on_bad_image="skip"))
    assert run("index", tmp_path).code == 0
    index = image_index.read(tmp_path / "data/toy/images.parquet")
    assert index.ids == ["a.png", "test/c.png"]
    assert {each.path: each.reason.split(";")[0] for each in index.skipped} == {
        "b.png": "not an image of a known format (JPEG, PNG, BMP, DIB, WEBP, GIF, TIFF, PPM, AVIF, HEIF)",
        "bad/empty.jpg": "the file is empty",
        "bad/page.jpg": "not an image but a web page or XML, probably a failed download",
    }
    assert index.train().skipped == index.skipped
    known = class_table.read(tmp_path / "data/toy/labels.parquet", LABELS)
    assert known.ids == ["a.png", "test/c.png"] and known.columns["label"].tolist() == [[1, 0], [1, 1]]


def test_the_index_does_not_know_where_the_images_lie(tmp_path: Path) -> None:
    """A moved folder reruns index alone, also with files that are left out."""
    made = []
    for name in ("one", "two"):
        spoil(fresh(tmp_path / name, index__on_bad_image="skip"))
        (tmp_path / name / "pictures").rename(tmp_path / name / name)
        set_params(tmp_path / name, index__on_bad_image="skip", dataset__root=name)
        assert run("index", tmp_path / name).code == 0
        made.append((tmp_path / name / "data/toy/images.parquet").read_bytes())
    assert made[0] == made[1]


def test_without_a_usable_training_image_there_is_no_index(tmp_path: Path) -> None:
    fresh(tmp_path, index__on_bad_image="skip")
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).write_bytes(b"")
    found = run("index", tmp_path)
    assert (found.code, found.written) == (2, set())
    assert "pictures: no training image can be used: 2 of 3 images cannot be used:" in found.message


def test_twenty_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    names = [f"{number:02}.jpg" for number in range(25)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CcdError) as caught:
        scan(tmp_path, [ImageEntry(name, name, "train") for name in names], 2)
    said = str(caught.value)
    assert "25 of 25 images" in said and "19.jpg" in said and "20.jpg" not in said and "and 5 more" in said


def test_header_finds_what_a_header_shows(tmp_path: Path) -> None:
    """`verify: header` is the cheap choice: a truncated file is met by the first stage that decodes it."""
    picture(1, 200, 150).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    entries = [ImageEntry("cut", "cut.png", "train")]
    assert scan(tmp_path, entries, 1, verify="header").sizes_px.tolist() == [[150, 200]]
    with pytest.raises(CcdError, match="damaged or truncated"):
        scan(tmp_path, entries, 1, verify="decode")


def test_links_out_of_the_root_are_followed_on_demand(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    picture().save(tmp_path / "away.png")
    (tmp_path / "root/link.png").symlink_to("../away.png")
    (tmp_path / "root/folder").symlink_to(tmp_path)
    entries = [ImageEntry(name, name, "train") for name in ("link.png", "folder/away.png")]
    assert len(scan(tmp_path / "root", entries, 1, follow_links=True)) == 2
    with pytest.raises(CcdError, match=r"2 of 2 images.*\n.*link.png: a link that leads out.*\n.*folder/away\.png"):
        scan(tmp_path / "root", entries, 1)
    (tmp_path / "alias").symlink_to("root")
    picture().save(tmp_path / "root/own.png")
    assert len(scan(tmp_path / "alias", [ImageEntry("own", "own.png", "train")], 1)) == 1, "the root may be a link"


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), read(path))[1])
    scan(tmp_path, [ImageEntry("a", "a.png", "train")], 1)
    assert opened == ["a.png"]


def test_same_content_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ccd.datasets.scan import remarks

    for name in ("a.png", "b.png", "c.png"):
        picture(1).save(tmp_path / name)
    splits = {"a.png": "train", "b.png": "train", "c.png": "test"}
    entries = [ImageEntry(name, name, split) for name, split in splits.items()]  # type: ignore[arg-type]
    said = "2 images repeat the content of another, 1 of them across training and test: they flatter the evaluation"
    assert remarks(scan(tmp_path, entries, 1)) == [said]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(CcdError, match=r"locked/a\.png: cannot be read \(Permission denied\)"):
        scan(tmp_path, [ImageEntry("a", "locked/a.png", "train")], 1)
