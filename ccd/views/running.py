"""The view threshold while the images are still coming in: what it cannot fall below any more."""

from __future__ import annotations

import numpy as np


class RunningThreshold:
    """A lower bound of the probability from which a class asks for a view (`ccd.views.boxes.view_threshold`).

    The threshold is at least the ``wanted``-th largest of all probabilities, and that is at least the ``wanted``-th
    largest of those seen so far. Memory: 1.25 x ``wanted`` float32 and what is added at once; the work for every
    probability is bounded, whatever their number.
    """

    def __init__(self, wanted: int, tau: float | None = None) -> None:
        """``tau``: a threshold that is given; the bound is that from the start."""
        self.value = 0.0 if tau is None else tau
        self._fixed = tau is not None
        self._wanted, self._count = wanted, 0
        # Filled in place: an array that grew by a few with every batch would leave a hole in memory behind every time.
        self._held = np.empty(wanted + max(wanted // 4, 1), np.float32)

    def add(self, probs: np.ndarray) -> bool:
        """Take in probabilities, of any shape, float32 in [0, 1]; whether ``value`` has risen."""
        if self._fixed:
            return False
        fresh = probs[probs >= self.value]
        end = self._count + len(fresh)
        if end < len(self._held):
            self._held[self._count : end], self._count = fresh, end
            return False
        seen = np.concatenate([self._held[: self._count], fresh])
        self._held[: self._wanted] = np.partition(seen, -self._wanted)[-self._wanted :]
        self._count = self._wanted
        before, self.value = self.value, float(self._held[0])
        return self.value > before
