"""Batches of images: order, shapes, and errors that reach the user from worker processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ccd.images.batches
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles, batches_of_rows, image_batches, load_in_order
from ccd.images.decode import read_checked

GREYS = [0, 40, 80, 120, 160, 200, 240]


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    """Seven images of one grey each, of different shapes."""
    paths = [tmp_path / f"{grey}.png" for grey in GREYS]
    for place, (path, grey) in enumerate(zip(paths, GREYS, strict=True)):
        Image.new("RGB", (10 + place, 30 - place), (grey, grey, 255 - grey)).save(path)
    return ImageFiles(paths, [path.stat().st_size for path in paths])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_the_order(files: ImageFiles, workers: int) -> None:
    order = [5, 0, 3, 3, 6]
    batches = list(image_batches(files, order, 8, 2, workers))
    assert [rows.tolist() for rows, _ in batches] == [[5, 0], [3, 3], [6]]
    assert [tuple(pixels.shape) for _, pixels in batches] == [(2, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8)]
    assert all(rows.dtype == torch.int64 and pixels.dtype == torch.uint8 for rows, pixels in batches)
    for row, pixels in zip(order, torch.cat([pixels for _, pixels in batches]), strict=True):
        grey = GREYS[row]
        assert (pixels == torch.tensor([grey, grey, 255 - grey], dtype=torch.uint8).view(3, 1, 1)).all()


def test_nothing_to_do(files: ImageFiles) -> None:
    assert list(image_batches(files, [], 4, 3, 0)) == []
    ((rows, pixels),) = batches_of_rows(files, lambda index: torch.arange(0), 1, 4, 0)
    assert rows.tolist() == [] and pixels.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named_without_a_traceback(files: ImageFiles, workers: int) -> None:
    files.paths[4].write_bytes(b"x" * files.bytes_[4])  # type: ignore[index]
    with pytest.raises(CcdError) as caught:
        list(image_batches(files, range(7), 4, 2, workers))
    assert str(files.paths[4]) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_file_that_changed_since_the_index_is_an_error(files: ImageFiles) -> None:
    files.paths[1].write_bytes(files.paths[1].read_bytes() + b"\0")
    with pytest.raises(CcdError, match="bytes"):
        list(image_batches(files, [1], 4, 1, 0))
    assert len(list(image_batches(ImageFiles(files.paths), [1], 4, 1, 0))) == 1


def die(path: Path, *_: object) -> bytes:
    if path.name == "160.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_checked(path, None)


@pytest.mark.slow
def test_a_dead_worker_names_its_files(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccd.images.batches, "read_checked", die)
    with pytest.raises(CcdError, match=r"died.*reading: \S+/160\.png, \S+/200\.png\. Most often.*runtime\.workers"):
        list(image_batches(files, range(7), 4, 2, 2))


def test_a_dead_worker_raises_at_the_loader_alone(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the middle of whatever this process does meanwhile, e.g. writing a file."""
    monkeypatch.setattr(ccd.images.batches, "read_checked", die)
    batches = image_batches(files, [0, 1, 2, 3, 4], 4, 1, 1)
    next(batches)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass
    with pytest.raises(CcdError, match="died"):
        list(batches)


def test_what_the_machine_refuses_a_worker_is_said(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(ccd.images.batches, "read_checked", refuse)
    with pytest.raises(CcdError, match=r"0\.png: Too many open files; raise the limit"):
        list(image_batches(files, range(7), 4, 2, 1))
    with pytest.raises(OSError, match="Too many open files"):
        list(image_batches(files, range(7), 4, 2, 0))


def test_other_errors_are_not_disguised() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(load_in_order(_broken, 1, 0))


def _broken(index: int) -> np.ndarray:
    raise RuntimeError("a bug")


class Unpicklable:
    def __reduce__(self) -> str:
        raise OSError(errno.EMFILE, "Too many open files")


def hand_over(index: int) -> object:
    return Unpicklable() if index == 2 else torch.zeros(1)


def test_what_fails_behind_a_workers_queue_reaches_this_process() -> None:
    with pytest.raises(CcdError, match=r"Too many open files.*runtime\.workers: 0"):
        list(load_in_order(hand_over, 4, 2))


@pytest.mark.slow
def test_a_temporary_folder_with_a_long_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    code = (
        "import torch; from ccd.images.batches import load_in_order as load; print(len(list(load(torch.zeros, 2, 1))))"
    )
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "2\n", done.stderr
