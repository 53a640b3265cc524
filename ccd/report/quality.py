"""How right labels of at least 0.5 are, against the ground truth that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    counted, there = labelled & (truth >= 0), truth == 1
    return Quality(int(counted.sum()), int((counted & there).sum()), int(there.sum()))


def qualities(labelled: np.ndarray, truth: np.ndarray) -> list[Quality]:
    """The same per class, for (N, C) arrays."""
    return [quality(labelled[:, place], truth[:, place]) for place in range(labelled.shape[1])]
