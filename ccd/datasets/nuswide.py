"""Reads NUS-WIDE in its usual layout: ImageList/, Groundtruth/TrainTestLabels/ and the photos in Flickr/ (or images/).

A split is the stem of a list in ImageList/. The official ones are TrainImagelist (161,789 images) and TestImagelist
(107,859). The paper trains on 150,000 and tests on 60,260, a selection it does not publish: put such lists beside the
official ones and name them as splits; their labels are found by path. Some 22 % of the images have none of the 81
concepts.
"""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ccd.datasets.class_names import NUS_WIDE
from ccd.datasets.record import (
    ClassInfo,
    Dataset,
    ImageEntry,
    Split,
    Truth,
    assemble,
    read_bytes,
    read_lines,
    require_present,
)
from ccd.errors import CcdError, listed

PHOTO_FOLDERS = ("Flickr", "images")
HINT = (
    "get ImageList.zip and Groundtruth.zip, and by request the photos, from the authors' page at "
    "lms.comp.nus.edu.sg (NUS-WIDE), and unpack them into one folder as ImageList, Groundtruth and Flickr"
)


def load_nuswide(root: Path, train_split: str, test_split: str | None) -> Dataset:
    """Read the named lists of a NUS-WIDE folder.

    Raises:
        CcdError: a part is missing or malformed, or listed photos are missing (Flickr links die); then the message
            counts them and has a command that lists the photos present.
    """
    folder = next((name for name in PHOTO_FOLDERS if (root / name).is_dir()), None)
    if folder is None:
        raise CcdError(f"{root} has no folder of photos ({' or '.join(PHOTO_FOLDERS)}); {HINT}")
    rows, labels = _ground_truth(root)
    parts = [_read_split(root, folder, train_split, "train", rows, labels)]
    if test_split is not None:
        parts.append(_read_split(root, folder, test_split, "test", rows, labels))
    return assemble(root, (ClassInfo(name, (name,)) for name in NUS_WIDE), parts)


def _read_split(
    root: Path, folder: str, name: str, split: Split, rows: dict[str, int], labels: NDArray[np.int8]
) -> tuple[list[ImageEntry], Truth | None]:
    paths = _read_list(root, name)
    unknown = [path for path in paths if path not in rows]
    if unknown:
        raise CcdError(
            f"{root / 'ImageList' / name}.txt: {len(unknown)} of {len(paths)} images are in neither "
            f"TrainImagelist.txt nor TestImagelist.txt: {listed(unknown)}; write them as "
            "there, for instance actor\\0001_2124494179.jpg"
        )
    entries = [ImageEntry(str(PurePosixPath(path).with_suffix("")), f"{folder}/{path}", split) for path in paths]
    require_present(root, (entry.path for entry in entries), _present_hint(root, folder, name))
    split_labels = labels[[rows[path] for path in paths]]
    return entries, Truth(split_labels, np.zeros(split_labels.shape, np.bool_))


def _read_list(root: Path, name: str) -> list[str]:
    path = root / "ImageList" / f"{name}.txt"
    if not path.is_file():
        lists = sorted(item.stem for item in path.parent.glob("*.txt"))
        raise CcdError(f"{path} does not exist; lists there: {listed(lists) or 'none'}; {HINT}")
    paths = [line.replace("\\", "/") for line in read_lines(path, HINT)]
    nameless = [repr(each) for each in paths if not PurePosixPath(each).name]
    if nameless:
        raise CcdError(f"{path}: {len(nameless)} lines name no file: {listed(nameless)}; correct or delete them")
    return paths


def _ground_truth(root: Path) -> tuple[dict[str, int], NDArray[np.int8]]:
    """Return the row of each image of both official lists, and the labels (images, 81) int8."""
    paths: list[str] = []
    labels = []
    for part in ("Train", "Test"):
        official = _read_list(root, f"{part}Imagelist")
        files = [root / "Groundtruth" / "TrainTestLabels" / f"Labels_{name}_{part}.txt" for name in NUS_WIDE]
        labels.append(np.stack([_read_flags(file, len(official)) for file in files], axis=1))
        paths += official
    return {path: row for row, path in enumerate(paths)}, np.concatenate(labels)


def _read_flags(path: Path, count: int) -> NDArray[np.int8]:
    """Read (count,) int8 flags, 0 or 1 a line; parsed as bytes, since there are 22 million lines in all."""
    characters = np.frombuffer(read_bytes(path, HINT), np.uint8)
    digits = characters[~np.isin(characters, np.frombuffer(b" \t\r\n", np.uint8))]
    if digits.size != count or not np.isin(digits, np.frombuffer(b"01", np.uint8)).all():
        raise CcdError(f"{path} must hold {count} lines of 0 or 1, one for each image of its list; {HINT}")
    return (digits - ord("0")).astype(np.int8)


def _present_hint(root: Path, folder: str, name: str) -> str:
    return (
        "links to Flickr die; list the images that are there and name that list as the split:  "
        f"cd {shlex.quote(str(root))} && tr -d '\\r' < ImageList/{name}.txt | tr '\\\\' / | while read -r f; do "
        f'[ -s "{folder}/$f" ] && echo "$f"; done > ImageList/{name}Present.txt'
    )
