"""A look at the user's images, class names and labels before anything is written, with the checks of stage index."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.datasets import load_dataset
from ccd.datasets.class_names import read_classes
from ccd.datasets.image_search import left_out_line
from ccd.datasets.record import ClassInfo
from ccd.datasets.scan import FileFacts, remarks, scan
from ccd.errors import CcdError, listed
from ccd.project.suggest import TOWERS, Download, student_bytes

CONTEXT_TOKENS = 77
_WIDE = 8  # texts are tokenized this many times too wide, so that what CLIP would cut off shows


@dataclass(frozen=True)
class Survey:
    """What was found. ``seconds``: reading and checking all images took. ``left_out``: other files, by ending."""

    classes: tuple[ClassInfo, ...]
    index: ImageIndex
    labelled: int
    seconds: float
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def train_count(self) -> int:
        """Training images that can be used."""
        return int(self.index.is_train.sum())

    @property
    def test_count(self) -> int:
        """Test images that can be used."""
        return len(self.index) - self.train_count

    @property
    def formats(self) -> dict[str, int]:
        """File name extension -> images, the most frequent first."""
        found = Counter(PurePosixPath(path).suffix.lower().removeprefix(".") for path in self.index.paths)
        return dict(found.most_common())

    @property
    def median_size_px(self) -> tuple[int, int]:
        """Median width and median height."""
        height, width = np.median(self.index.sizes_px, axis=0)
        return int(width), int(height)


def survey(
    images: Path,
    classes: Path,
    labels: Path | None,
    workers: int,
    progress: Callable[[Iterable[FileFacts], int], Iterable[FileFacts]],
) -> Survey:
    """Read and check everything.

    Args:
        images: the folder; images below ``images/test`` are test images.
        progress: passes facts on and shows how far it is, given their number.

    Raises:
        CcdError: no image that can be used, or a list of classes or labels that cannot.
    """
    check_texts(classes, read_classes(classes))
    found = load_dataset(
        "folder", images, train_split="train", test_split="test", classes_file=classes, labels_file=labels
    )
    start = time.monotonic()
    index = scan(
        images, found.images, workers, on_bad_image="skip", progress=lambda each: progress(each, len(found.images))
    )
    labelled = len(set(found.labelled) & set(index.ids))
    return Survey(found.classes, index, labelled, time.monotonic() - start, found.left_out)


def check_texts(path: Path, classes: Iterable[ClassInfo]) -> None:
    """Raises CcdError if CLIP cannot read the whole of a class's text, as ``a photo of the ...``."""
    from ccd.teacher.openai import tokenize

    texts = [text for info in classes for text in info.texts]
    tokens = tokenize([f"a photo of the {text}" for text in texts], _WIDE * CONTEXT_TOKENS).numpy()
    lengths = tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(axis=1)  # padding is 0
    long = [repr(text[:60]) for text, length in zip(texts, lengths.tolist(), strict=True) if length > CONTEXT_TOKENS]
    if long:
        raise CcdError(
            f"{path}: {len(long)} texts are longer than the {CONTEXT_TOKENS} tokens CLIP can read: {listed(long)}; "
            "shorten them"
        )


def survey_lines(found: Survey) -> list[str]:
    """What was found, for a person: counts, formats, classes, and every remark that stage index would make."""
    formats = ", ".join(f"{count:,} {name or 'without an ending'}" for name, count in found.formats.items())
    width_px, height_px = found.median_size_px
    synonyms = sum(len(info.texts) > 1 for info in found.classes)
    lines = [
        f"{len(found.index):,} images ({formats}; median {width_px} x {height_px} px):"
        f" {found.train_count:,} to train on, {found.test_count:,} under test/",
        f"{len(found.classes)} classes" + (f", {synonyms} of them with several texts for CLIP" if synonyms else ""),
        f"{found.labelled:,} images have labels, for evaluation alone",
    ]
    return lines + survey_remarks(found)


def survey_remarks(found: Survey) -> list[str]:
    """What stage index would say of these images."""
    return [remark for remark in (left_out_line(found.left_out), *remarks(found.index)) if remark]


Params = Mapping[str, Mapping[str, Any]]

_WIDEST = 1024  # embedding width of a teacher that is not known by name
_TABLE_BYTES = 40  # of one image and class, in all tables together
_VIEW_BYTES = 40
_REPORT_BYTES = 5_000_000
_SETS_OF_WEIGHTS = 4  # warm-up, last epoch, early stop, average
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Counts:
    """Images to train on, images to measure on, classes."""

    train: int
    test: int
    classes: int


def disk_bytes(params: Params, counts: Counts, wanted: Iterable[Download]) -> dict[str, int]:
    """Bytes of ``artifacts``, ``cache`` (DVC's copies of them), ``store`` and ``weights`` to download.

    Args:
        params: sections of ``params.yaml``.
        wanted: see `ccd.project.suggest.downloads`.
    """
    images = counts.train + counts.test
    proposed = params["cam_boxes"]
    views = round(counts.train * (float(proposed["views_per_image"]) + int(proposed["tiles"]) ** 2))
    model = params["teacher"]["model"]
    width = TOWERS[model].embed_dim if model in TOWERS else _WIDEST
    embeddings = (images + views) * width * _FLOAT_BYTES
    tables = images * counts.classes * _TABLE_BYTES + views * _VIEW_BYTES
    weights = _SETS_OF_WEIGHTS * student_bytes(params["warmup"]["backbone"])
    artifacts = embeddings + tables + weights + _REPORT_BYTES
    store = min(embeddings, round(float(params["runtime"]["store_gb"]) * 1e9))
    fetched = sum(each.size_bytes for each in wanted)
    return {"artifacts": artifacts, "cache": artifacts, "store": store, "weights": fetched}


def disk_line(needed: Mapping[str, int]) -> str:
    """One line for a person."""
    parts = ", ".join(f"{name} {size_text(count)}" for name, count in needed.items() if count)
    return f"disk: about {size_text(sum(needed.values()))} ({parts})"


def shortages(needed: Mapping[str, int], folder: Path, wanted: Iterable[Download]) -> list[str]:
    """A line for each disk that has less free than a project in ``folder`` and the downloads need there."""
    own = sum(count for name, count in needed.items() if name != "weights")
    places: dict[int, Path] = {}
    wanted_there: Counter[int] = Counter()
    for path, count in ((folder, own), *((each.target, each.size_bytes) for each in wanted)):
        place = _existing(path)
        disk = place.stat().st_dev
        places.setdefault(disk, place)
        wanted_there[disk] += count
    free = {disk: shutil.disk_usage(place).free for disk, place in places.items()}
    return [
        f"warning: about {size_text(wanted_there[disk])} of disk are needed at {place}, and {size_text(free[disk])} "
        "are free; make room, or choose another folder"
        for disk, place in places.items()
        if wanted_there[disk] > free[disk]
    ]


def size_text(count: int) -> str:
    """A number of bytes for a person: ``40 MB``, ``1.3 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)):d} MB"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    return next(each for each in (absolute, *absolute.parents) if each.exists())
