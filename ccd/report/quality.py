"""Precision and recall of labels of at least 0.5 against the known ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import IMAGES_AT_ONCE


@dataclass(frozen=True)
class Quality:
    """Counts over the images (or pairs of image and class) with known truth.

    ``labelled``: those with a label; ``right``: those of them where the class is present; ``positives``: all where the
    class is present.
    """

    labelled: int
    right: int
    positives: int

    @property
    def precision(self) -> float | None:
        """Share of the labels that are right, in %; None without labels."""
        return 100 * self.right / self.labelled if self.labelled else None

    @property
    def recall(self) -> float | None:
        """Share of the positives that are labelled, in %; None without positives."""
        return 100 * self.right / self.positives if self.positives else None


def quality(labelled: np.ndarray, truth: np.ndarray) -> Quality:
    """Count over all entries of ``labelled`` (bool) and ``truth`` (int8: 1, 0, -1 unknown), which have one shape."""
    counted = labelled & (truth >= 0)
    present = truth == 1
    return Quality(int(counted.sum()), int((counted & present).sum()), int(present.sum()))


def qualities(labelled: np.ndarray, truth: np.ndarray) -> list[Quality]:
    """Return the `quality` of each class, for (N, C) arrays."""
    return [quality(labelled[:, class_row], truth[:, class_row]) for class_row in range(labelled.shape[1])]


@dataclass(frozen=True)
class Tally:
    """Counts per class (C,) int64: ``labels`` of at least 0.5, those with ``known`` truth, and the ``right`` ones."""

    labels: np.ndarray
    known: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, labelled: np.ndarray, truth: np.ndarray) -> Tally:
        """Count over (n, C) arrays as in `quality`."""
        return cls(*(flags.sum(axis=0) for flags in (labelled, labelled & (truth >= 0), labelled & (truth == 1))))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.labels + other.labels, self.known + other.known, self.right + other.right)

    def quality(self, positives: int) -> Quality:
        """Return the quality over all classes together."""
        return Quality(int(self.known.sum()), int(self.right.sum()), positives)


@dataclass(frozen=True)
class Step:
    """Labels before and after one step of the method; ``positives``: the pairs of image and present class."""

    before: Tally
    after: Tally
    added: Tally
    removed: Tally
    positives: int


def step(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> Step:
    """Compare two (N, C) tables of labels, a bounded number of images at a time.

    Args:
        truth: (N, C) int8: 1 present, 0 absent, -1 unknown.
    """
    zeros = np.zeros(truth.shape[1], np.int64)
    tallies = [Tally(zeros, zeros, zeros)] * 4
    positives = 0
    for start in range(0, len(truth), IMAGES_AT_ONCE):
        rows = slice(start, start + IMAGES_AT_ONCE)
        old = before[rows] >= LABELLED
        new = after[rows] >= LABELLED
        known = truth[rows]
        counts = (Tally.of(labelled, known) for labelled in (old, new, new & ~old, old & ~new))
        tallies = [total + more for total, more in zip(tallies, counts, strict=True)]
        positives += int((known == 1).sum())
    old_labels, new_labels, added, removed = tallies
    return Step(old_labels, new_labels, added, removed, positives)
