"""A look at the user's images, class names and labels before anything is written, with the checks of stage index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ccd.artifacts.image_index import ImageIndex
from ccd.datasets import load_dataset
from ccd.datasets.class_list import read_classes
from ccd.datasets.image_search import left_out_line
from ccd.datasets.record import ClassInfo
from ccd.errors import CcdError, listed
from ccd.indexing import FileFacts, remarks, scan

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
