"""16-bit images that use only the lowest part of their range are named, with a way to convert them that works."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccd.artifacts.image_index import DarkImage, ImageIndex
from ccd.datasets.record import ImageEntry
from ccd.datasets.scan import dark_remark, remarks, scan
from ccd.images.decode import read_image
from stages import index as index_stage
from tests.faults.case import fresh
from tests.toys.odd_images import colour_png


def grey(top: int) -> Image.Image:
    """Noise of 16 bits from 0 to ``top``, both of which occur."""
    values = np.random.default_rng(0).integers(0, top + 1, (24, 32)).astype(np.uint16)
    values[0, :2] = 0, top
    return Image.fromarray(values)


def indexed(folder: Path, *names: str) -> ImageIndex:
    return scan(folder, [ImageEntry(name, name, "train") for name in names], 1)


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})])
def test_data_of_few_bits_in_16_bits_is_named(tmp_path: Path, name: str, options: dict[str, str], top: int) -> None:
    grey(top).save(tmp_path / name, **options)
    (said,) = remarks(indexed(tmp_path, name))
    assert "1 images use only" in said and f"{name}: 0..{top}" in said and "black" in said


@pytest.mark.parametrize("kind", ["32-bit integers", "PGM", "16-bit colour"])
def test_every_way_to_store_16_bits_is_looked_at(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.tif" if kind.startswith("32") else "a.png")
    if kind == "32-bit integers":
        Image.fromarray(np.asarray(grey(4095)).astype(np.int32)).save(path)
    elif kind == "PGM":
        path.write_bytes(b"P5 32 24 65535\n" + np.asarray(grey(4095)).astype(">u2").tobytes())
    else:
        path.write_bytes(colour_png(4095))
    (dark,) = indexed(tmp_path, path.name).dark
    assert dark == DarkImage(path.name, 4095, kind == "16-bit colour")


def test_nothing_is_said_where_the_range_is_used_or_has_no_meaning(tmp_path: Path) -> None:
    grey(65535).save(tmp_path / "full.png")
    grey(20000).save(tmp_path / "third.png")
    (tmp_path / "colour.png").write_bytes(colour_png(65535))
    (tmp_path / "pgm.pgm").write_bytes(b"P5 32 24 4095\n" + np.asarray(grey(4095)).astype(">u2").tobytes())
    Image.new("L", (8, 8), 3).save(tmp_path / "night.png")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "night.jpg")
    Image.fromarray(np.asarray(grey(4095)).astype(np.float32)).save(tmp_path / "float.tif")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert indexed(tmp_path, *names).dark == ()


def test_a_header_shows_no_range(tmp_path: Path) -> None:
    grey(4095).save(tmp_path / "a.png")
    assert scan(tmp_path, [ImageEntry("a", "a.png", "train")], 1, verify="header").dark == ()


def test_the_printed_command_converts_and_leaves_the_originals(tmp_path: Path) -> None:
    root = tmp_path / "all my 'photos'"
    (root / "sub").mkdir(parents=True)
    names = ["it's.png", "sub/b c.tif"]
    for name in names:
        grey(4095).save(root / name)
    before = [(root / name).read_bytes() for name in names]
    command = dark_remark(indexed(root, *names).dark).splitlines()[1].strip()
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], cwd=root, check=True)
    for name in names:
        converted = np.asarray(read_image(tmp_path / "8bit" / name)).astype(int)
        assert converted.min() == 0 and converted.max() == 255 and 120 < converted.mean() < 135
        expected = np.asarray(grey(4095)).astype(int) * 255 / 4095
        assert np.abs(converted[:, :, 0] - expected).max() <= 0.5
    assert [(root / name).read_bytes() for name in names] == before


def test_colour_gets_a_command_that_keeps_its_16_bits() -> None:
    said = dark_remark([DarkImage("a b.png", 4095, is_colour=True)])
    assert "mogrify" in said and "multiply 16.004" in said and "'./a b.png'" in said and "python" not in said


def test_few_are_named_and_all_are_counted() -> None:
    said = dark_remark([DarkImage(f"{number:04}.png", 4000, is_colour=False) for number in range(1200)])
    assert said.startswith("1,200 images") and "and 1,195 more" in said and "0900.png" not in said


def test_stage_index_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh(tmp_path)
    grey(4095).save(tmp_path / "pictures/a.png")
    monkeypatch.chdir(tmp_path)
    words = ["--images", "images.parquet", "--classes", "classes.json", "--labels", "labels.parquet"]
    index_stage.main.main(words, standalone_mode=False)
    said = capsys.readouterr()
    assert "a.png: 0..4095" in said.out + said.err
