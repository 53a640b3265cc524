"""How right labels of at least 0.5 are, against the ground truth that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import IMAGES_AT_ONCE


@dataclass(frozen=True)
class Quality:
    """``labelled`` of the images (or pairs of image and class) with known truth, of which ``right`` are really there,
    out of ``positives`` that are there."""

    labelled: int
    right: int
    positives: int

    @property
    def precision(self) -> float | None:
        """Share of the labels that are right, in %; None without labels."""
        return 100 * self.right / self.labelled if self.labelled else None

    @property
    def recall(self) -> float | None:
        """Share of what is there that is labelled, in %; None where nothing is."""
        return 100 * self.right / self.positives if self.positives else None


def quality(labelled: np.ndarray, truth: np.ndarray) -> Quality:
    """Count over all entries. ``labelled`` bool and ``truth`` int8 (1, 0, -1 unknown), of one shape."""
    counted = labelled & (truth >= 0)
    there = truth == 1
    return Quality(int(counted.sum()), int((counted & there).sum()), int(there.sum()))


def qualities(labelled: np.ndarray, truth: np.ndarray) -> list[Quality]:
    """The same per class, for (N, C) arrays."""
    return [quality(labelled[:, place], truth[:, place]) for place in range(labelled.shape[1])]


@dataclass(frozen=True)
class Tally:
    """Labels per class (C,) int64: ``labels`` of at least 0.5, those of them with ``known`` truth, and those of these
    that are ``right``."""

    labels: np.ndarray
    known: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, labelled: np.ndarray, truth: np.ndarray) -> Tally:
        """From (n, C) bool and int8 as in `quality`."""
        return cls(*(said.sum(axis=0) for said in (labelled, labelled & (truth >= 0), labelled & (truth == 1))))

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.labels + other.labels, self.known + other.known, self.right + other.right)

    def quality(self, positives: int) -> Quality:
        """Of all classes together."""
        return Quality(int(self.known.sum()), int(self.right.sum()), positives)


@dataclass(frozen=True)
class Step:
    """What one step of the method made of another's labels; ``positives``: pairs of image and class that are there."""

    before: Tally
    after: Tally
    added: Tally
    removed: Tally
    positives: int


def step(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> Step:
    """Compare two (N, C) tables of labels, a bounded number of images at a time."""
    nothing = np.zeros(truth.shape[1], np.int64)
    tallies = [Tally(nothing, nothing, nothing)] * 4
    positives = 0
    for start in range(0, len(truth), IMAGES_AT_ONCE):
        some = slice(start, start + IMAGES_AT_ONCE)
        old = before[some] >= LABELLED
        new = after[some] >= LABELLED
        known = truth[some]
        found = (Tally.of(labelled, known) for labelled in (old, new, new & ~old, old & ~new))
        tallies = [total + more for total, more in zip(tallies, found, strict=True)]
        positives += int((known == 1).sum())
    old_ones, new_ones, added, removed = tallies
    return Step(old_ones, new_ones, added, removed, positives)
