"""Label-free early stop: the first local minimum of the gain of the training mAP (method section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


def first_local_minimum(gains: Sequence[float]) -> int | None:
    """Index of the first value reached by a fall and left by a rise; None if there is none (yet).

    Of equal values at the bottom it is the first. The first and last value are never a minimum: a minimum needs
    the next larger value to confirm it. Comparisons with NaN are neither rise nor fall.
    """
    bottom = None
    for index, (before, value) in enumerate(pairwise(gains), start=1):
        if value < before:
            bottom = index
        elif value > before and bottom is not None:
            return bottom
    return None


def early_stop_epoch(m: Sequence[float]) -> int | None:
    """Epoch e (index into ``m``) at which g_e = m_e - m_(e-1) has its first local minimum; None: use the last epoch.

    Args:
        m: mAP of the training predictions against the binarised pseudo-labels, one value per epoch.
    """
    minimum = first_local_minimum([after - before for before, after in pairwise(m)])
    return None if minimum is None else minimum + 1


@dataclass
class EarlyStopTracker:
    """Follows m epoch by epoch and tells which weights to keep, so that one copy is enough."""

    m: list[float] = field(default_factory=list)

    @property
    def epoch(self) -> int | None:
        """`early_stop_epoch` of what was seen so far; once set it never changes."""
        return early_stop_epoch(self.m)

    def update(self, m: float) -> bool:
        """Add the next epoch's ``m``; True if this epoch is the candidate now and its weights replace those kept."""
        decided = self.epoch is not None
        self.m.append(m)
        gains = [after - before for before, after in pairwise(self.m[-3:])]
        return not decided and len(gains) == 2 and gains[1] < gains[0]
