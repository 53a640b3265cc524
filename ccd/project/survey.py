"""Survey the user's images, class names and labels with the checks of stage index, and estimate the disk space."""

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
from ccd.errors import CcdError, listed, url_of
from ccd.project.suggest import TOWERS, Download, student_bytes

CONTEXT_TOKENS = 77
_WIDTH_FACTOR = 8  # tokenize texts to this many times CLIP's context, to see what CLIP would cut off


@dataclass(frozen=True)
class Survey:
    """The classes and images found. ``labelled``: number of images with labels; ``seconds``: time to read all images;
    ``left_out``: number of other files by extension."""

    classes: tuple[ClassInfo, ...]
    index: ImageIndex
    labelled: int
    seconds: float
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def train_count(self) -> int:
        """Number of training images that can be used."""
        return int(self.index.is_train.sum())

    @property
    def test_count(self) -> int:
        """Number of test images that can be used."""
        return len(self.index) - self.train_count

    @property
    def formats(self) -> dict[str, int]:
        """File name extension -> number of images, the most frequent first."""
        counts = Counter(PurePosixPath(path).suffix.lower().removeprefix(".") for path in self.index.paths)
        return dict(counts.most_common())

    @property
    def median_size_px(self) -> tuple[int, int]:
        """Median width and median height."""
        height, width = np.median(self.index.sizes_px, axis=0)
        return int(width), int(height)


def survey_images(
    images: Path,
    classes: Path,
    labels: Path | None,
    workers: int,
    progress: Callable[[Iterable[FileFacts], int], Iterable[FileFacts]],
) -> Survey:
    """Read and check all images, class names and labels.

    Args:
        images: the folder; images below ``images/test`` are test images.
        progress: passes facts on while it shows progress; gets their number too.

    Raises:
        CcdError: no image can be used, or the list of classes or labels cannot be used.
    """
    check_texts(classes, read_classes(classes))
    dataset = load_dataset(
        "folder", images, train_split="train", test_split="test", classes_file=classes, labels_file=labels
    )
    start = time.monotonic()
    index = scan(
        images,
        dataset.images,
        workers,
        verify="decode" if url_of(images) is None else "header",
        on_bad_image="skip",
        versions=dataset.versions,
        progress=lambda facts: progress(facts, len(dataset.images)),
    )
    labelled = len(set(dataset.labelled) & set(index.ids))
    return Survey(dataset.classes, index, labelled, time.monotonic() - start, dataset.left_out)


def check_texts(path: Path, classes: Iterable[ClassInfo]) -> None:
    """Check the texts of classes, read from ``path``.

    Raises:
        CcdError: CLIP would cut off one of them, as ``a photo of the TEXT``.
    """
    from ccd.teacher.openai import tokenize

    texts = [text for info in classes for text in info.texts]
    tokens = tokenize([f"a photo of the {text}" for text in texts], _WIDTH_FACTOR * CONTEXT_TOKENS).numpy()
    lengths = tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(axis=1)  # padding is 0
    long = [repr(text[:60]) for text, length in zip(texts, lengths.tolist(), strict=True) if length > CONTEXT_TOKENS]
    if long:
        raise CcdError(
            f"{path}: {len(long)} texts are longer than the {CONTEXT_TOKENS} tokens CLIP can read: {listed(long)}; "
            "shorten them"
        )


def survey_lines(survey: Survey) -> list[str]:
    """Describe a survey for the console: counts, formats, classes, and every remark that stage index would make."""
    formats = ", ".join(f"{count:,} {name or 'without an extension'}" for name, count in survey.formats.items())
    width_px, height_px = survey.median_size_px
    synonyms = sum(len(info.texts) > 1 for info in survey.classes)
    lines = [
        f"{len(survey.index):,} images ({formats}; median {width_px} x {height_px} px):"
        f" {survey.train_count:,} to train on, {survey.test_count:,} under test/",
        f"{len(survey.classes)} classes" + (f", {synonyms} of them with several texts for CLIP" if synonyms else ""),
        f"{survey.labelled:,} images have labels, used for evaluation only",
    ]
    return lines + survey_remarks(survey)


def survey_remarks(survey: Survey) -> list[str]:
    """Return the remarks of stage index about these images."""
    return [remark for remark in (left_out_line(survey.left_out), *remarks(survey.index)) if remark]


Params = Mapping[str, Mapping[str, Any]]

_LARGEST_EMBED_DIM = 1024  # for a teacher that is not known by name
_TABLE_BYTES = 40  # per image and class, in all tables together
_VIEW_BYTES = 40
_REPORT_BYTES = 5_000_000
_SETS_OF_WEIGHTS = 4  # warm-up, last epoch, early stop, average
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Counts:
    """Numbers of training images, test images and classes."""

    train: int
    test: int
    classes: int


def disk_bytes(params: Params, counts: Counts, missing: Iterable[Download]) -> dict[str, int]:
    """Estimate the bytes of ``artifacts``, ``cache`` (DVC's copies of them), ``store`` and ``weights`` to download.

    Args:
        params: sections of ``params.yaml``.
        missing: see `ccd.project.suggest.downloads`.
    """
    images = counts.train + counts.test
    boxes = params["cam_boxes"]
    regions = int(params["clip_global"]["regions"])
    asked = 0.0 if boxes["views"] == "dense" else float(boxes["views_per_image"])
    crops = round(counts.train * (asked + int(boxes["tiles"]) ** 2))
    views = crops + (0 if boxes["views"] == "cam" else counts.train * regions)
    model = params["teacher"]["model"]
    embed_dim = TOWERS[model].embed_dim if model in TOWERS else _LARGEST_EMBED_DIM
    dense = images * regions * (embed_dim + 4)  # numbers: each region's embedding and corners
    embeddings = ((images + views) * embed_dim + dense) * _FLOAT_BYTES
    encoded = ((images + crops) * embed_dim + dense) * _FLOAT_BYTES  # a region that is a view is not encoded again
    tables = images * counts.classes * _TABLE_BYTES + views * _VIEW_BYTES
    weights = _SETS_OF_WEIGHTS * student_bytes(params["warmup"]["backbone"])
    artifacts = embeddings + tables + weights + _REPORT_BYTES
    store = min(encoded, round(float(params["runtime"]["store_gb"]) * 1e9))
    weights_to_download = sum(download.size_bytes for download in missing)
    return {"artifacts": artifacts, "cache": artifacts, "store": store, "weights": weights_to_download}


def disk_line(disk: Mapping[str, int]) -> str:
    """Describe the result of `disk_bytes` in one line."""
    parts = ", ".join(f"{name} {size_text(size_bytes)}" for name, size_bytes in disk.items() if size_bytes)
    return f"disk: about {size_text(sum(disk.values()))} ({parts})"


def shortages(disk: Mapping[str, int], folder: Path, missing: Iterable[Download]) -> list[str]:
    """Return a warning for each file system that is too full for a project in ``folder`` and the downloads.

    Args:
        disk: the result of `disk_bytes`.
        missing: see `ccd.project.suggest.downloads`.
    """
    project_bytes = sum(size_bytes for name, size_bytes in disk.items() if name != "weights")
    mounts: dict[int, Path] = {}
    needed: Counter[int] = Counter()
    downloaded = ((download.target, download.size_bytes) for download in missing)
    for path, size_bytes in ((folder, project_bytes), *downloaded):
        existing = _nearest_existing(path)
        device = existing.stat().st_dev
        mounts.setdefault(device, existing)
        needed[device] += size_bytes
    free = {device: shutil.disk_usage(path).free for device, path in mounts.items()}
    return [
        f"warning: about {size_text(needed[device])} of disk are needed at {path}, and {size_text(free[device])} "
        "are free; free some space, or choose another folder"
        for device, path in mounts.items()
        if needed[device] > free[device]
    ]


def size_text(size_bytes: int) -> str:
    """Format a number of bytes: ``40 MB``, ``1.3 GB``."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{max(1, round(size_bytes / 1e6)):d} MB"


def _nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    return next(candidate for candidate in (absolute, *absolute.parents) if candidate.exists())
