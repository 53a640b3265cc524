"""docs/onnx_predict.py reads every image as the library does, to the last bit: it is a copy of the preprocessing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ccd.errors import CcdError
from ccd.images.decode import MAX_PIXELS, read_image, squash, upright_rgb
from ccd.student.transforms import to_unit
from tests.toys.odd_images import noise, write_all

SCRIPT = Path(__file__).resolve().parent.parent / "docs/onnx_predict.py"
SIZE_PX = 64


@pytest.fixture()
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's functions; onnxruntime, which decodes nothing, need not be installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return runpy.run_path(str(SCRIPT))


def by_library(path: Path) -> np.ndarray:
    pixels = squash(read_image(path, min_size=SIZE_PX), SIZE_PX, SIZE_PX)
    return np.asarray(to_unit(torch.from_numpy(pixels)[None])[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_script_and_library_read_the_same_pixels(script: dict[str, Any], tmp_path: Path) -> None:
    paths = write_all(tmp_path)
    compared = set()
    for path in paths:
        try:
            expected = by_library(path)
        except CcdError:
            with pytest.raises((ValueError, OSError)):
                script["read"](path, SIZE_PX)
            continue
        np.testing.assert_array_equal(script["read"](path, SIZE_PX), expected, err_msg=path.name)
        compared.add(path.name)
    assert len(compared) > 90 and {path.name for path in paths} - compared == {"no_image.png", "not_finite.tif"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_opened_picture_is_read_like_its_file(tmp_path: Path) -> None:
    for path in write_all(tmp_path):
        try:
            expected = np.asarray(read_image(path))
        except CcdError:
            continue
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(upright_rgb(opened, path.name)), expected, err_msg=path.name)


def test_a_picture_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise(0, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as opened, pytest.raises(CcdError, match="image 3: damaged or truncated"):
        upright_rgb(opened, "image 3")


def test_the_script_has_the_librarys_limit(script: dict[str, Any]) -> None:
    assert script["Image"].MAX_IMAGE_PIXELS == MAX_PIXELS
