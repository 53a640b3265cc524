"""What counts as an image, and that whatever else lies there is counted and named."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from ccd.datasets import image_search
from ccd.datasets.image_search import left_out_line, search
from ccd.datasets.record import ImageEntry
from ccd.datasets.scan import scan
from ccd.errors import CcdError
from ccd.images import decode
from stages import index as index_stage
from tests.faults.case import fresh

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40
MP4 = b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 40
ENDINGS = [
    *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "jpg_large", "mpo", "png", "apng", "bmp", "dib", "webp", "gif"),
    *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "pfm", "JPG", "Jpe", "TIFF"),
]


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    return stream.getvalue()


def write(root: Path, **files: bytes) -> Path:
    """Files called by keyword, ``__`` for a dot."""
    for name, data in files.items():
        (root / name.replace("__", ".")).write_bytes(data)
    return root


@pytest.fixture()
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where pillow-heif is not installed."""
    for module in (image_search, decode):
        monkeypatch.setattr(module, "is_available", lambda kind: kind != "HEIF")


def test_known_endings_in_any_case_are_images_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_search, "_head", lambda path: pytest.fail(f"{path} was opened"))
    names = sorted(f"{number}.{kind}" for number, kind in enumerate(ENDINGS))
    for name in names:
        (tmp_path / name).touch()
    assert search(tmp_path).paths == names and search(tmp_path).left_out == {}


def test_a_jpeg_is_an_image_whatever_it_is_called(tmp_path: Path) -> None:
    names = sorted(["IMG_1.HEIC", "z.avif", "cached", "photo.jpg~", "photo.jpg!large", "old.bak", "movie.mp4"])
    for name in names:
        (tmp_path / name).write_bytes(jpeg())
    assert search(tmp_path).paths == names
    index = scan(tmp_path, [ImageEntry(name, name, "train") for name in names], 1)
    assert index.sizes_px.tolist() == [[8, 8]] * len(names) and not index.skipped


def test_other_files_are_counted_by_ending(tmp_path: Path) -> None:
    write(tmp_path, a__jpg=jpeg(), b__MP4=MP4, c__mp4=MP4, d__cr3=MP4, notes__txt=b"x", README=b"x", e__psd=b"8BPS")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", f__mp4=b"", g__svg=b"<svg/>")
    found = search(tmp_path)
    assert found.paths == ["a.jpg"]
    assert found.left_out == {".mp4": 3, "(no ending)": 1, ".cr3": 1, ".psd": 1, ".svg": 1, ".txt": 1}
    assert left_out_line(found.left_out).startswith("left out: 3 .mp4, 1 (no ending), 1 .cr3")
    assert left_out_line({}) == ""


@pytest.mark.usefixtures("without_heif")
def test_real_heic_without_its_decoder_is_counted_with_the_package_to_install(tmp_path: Path) -> None:
    write(tmp_path, a__HEIC=HEIC, b__heif=HEIC, c__hif=HEIC, d__heic=HEIC, x__jpg=jpeg(), y__mp4=MP4, z__mp4=MP4)
    found = search(tmp_path)
    assert found.paths == ["x.jpg"]
    assert next(iter(found.left_out.items())) == (".heic", 2), "first what something can be done about"
    said = left_out_line(found.left_out)
    assert "2 .heic (install pillow-heif to read them)" in said and "2 .mp4" in said


@pytest.mark.usefixtures("without_heif")
def test_what_is_no_heic_in_a_heic_name_is_for_the_decoder_to_judge(tmp_path: Path) -> None:
    write(tmp_path, empty__heic=b"", page__heic=b"<html>404</html>", shot__heic=jpeg(), good__png=b"")
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    names = search(tmp_path).paths
    assert names == ["empty.heic", "good.png", "page.heic", "shot.heic"]
    index = scan(tmp_path, [ImageEntry(name, name, "train") for name in names], 1, on_bad_image="skip")
    assert [each.path for each in index.skipped] == ["empty.heic", "page.heic"]
    assert "the file is empty" in index.skipped[0].reason and "web page" in index.skipped[1].reason


@pytest.mark.usefixtures("without_heif")
def test_heic_behind_another_ending_is_named_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccd.images.decode.is_available", lambda kind: False)
    write(tmp_path, IMG_1__jpg=HEIC)
    with pytest.raises(CcdError, match=r"IMG_1\.jpg: .*HEIF.*pip install pillow-heif"):
        scan(tmp_path, [ImageEntry(name, name, "train") for name in search(tmp_path).paths], 1)


def test_avif_without_its_decoder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_search, "is_available", lambda kind: False)
    write(tmp_path, a__avif=b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", b__jpg=jpeg())
    line = left_out_line(search(tmp_path).left_out)
    assert "1 .avif" in line and "Pillow 11.3" in line


def test_own_lists_and_hidden_files_are_not_counted(tmp_path: Path) -> None:
    for folder in (".git", "lists", "sub"):
        (tmp_path / folder).mkdir()
    write(tmp_path, a__jpg=jpeg(), classes__txt=b"x", labels__csv=b"x", scenes__json=b"x", __hidden=b"x")
    write(tmp_path / ".git", config=b"x")
    write(tmp_path / "lists", names__txt=b"x", other__txt=b"x")
    write(tmp_path / "sub", classes__txt=b"x")
    (tmp_path / "alias").symlink_to(tmp_path)
    assert search(tmp_path / "alias", [tmp_path / "lists/names.txt"]).left_out == {".txt": 2}


def test_what_is_no_regular_file_is_neither_opened_nor_lost(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "gone").symlink_to("nowhere")
    found = search(tmp_path)
    assert found.left_out == {"(no ending)": 2} and found.paths == ["gone.png", "pipe.jpg"]
    with pytest.raises(CcdError, match=r"(?s)gone\.png: cannot be read.*pipe\.jpg: a pipe or device"):
        scan(tmp_path, [ImageEntry(name, name, "train") for name in found.paths], 1)


def test_a_folder_that_cannot_be_opened_is_reported_like_a_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub/lost+found").mkdir(parents=True)
    write(tmp_path, a__jpg=jpeg())
    whole = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("lost+found"):  # the tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "scandir", refuse)
    names = search(tmp_path).paths
    assert names == ["a.jpg", "sub/lost+found"]
    index = scan(tmp_path, [ImageEntry(name, name, "train") for name in names], 1, on_bad_image="skip")
    (skipped,) = index.skipped
    assert skipped.path == "sub/lost+found" and "Permission denied" in skipped.reason


def test_a_root_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"nowhere: No such file .*set dataset\.root"):
        search(tmp_path / "nowhere")


def test_names_that_are_not_utf8_are_listed_or_counted(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff.png")).touch()
        (tmp_path / os.fsdecode(b"a.\xfftxt")).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    found = search(tmp_path)
    assert len(found.paths) == 1 and left_out_line(found.left_out).isascii()


def test_stage_index_counts_what_it_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh(tmp_path, index__classes_file="pictures/mine.list")
    write(tmp_path / "pictures", film__mov=MP4, mine__list=b"cat\ndog\n", scan=jpeg(), odd__jfif=jpeg())
    monkeypatch.chdir(tmp_path)
    words = ["--images", "images.parquet", "--classes", "classes.json", "--labels", "labels.parquet"]
    index_stage.main.main(words, standalone_mode=False)
    said = capsys.readouterr()
    assert "left out: 1 .mov\n" in said.out + said.err and "4 training and 1 test images" in said.out + said.err


def test_many_endings_are_summed_up() -> None:
    said = left_out_line({f".x{number:02}": 1 for number in range(30)} | {".mp4": 5000})
    assert said.startswith("left out: 5,000 .mp4, 1 .x00") and said.endswith("19 with 19 other endings")
