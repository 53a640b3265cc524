"""What one epoch of training tells: losses, label-free training mAP, speed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccd import ranks
from ccd.errors import CcdError
from ccd.evaluation.average_precision import average_precision
from ccd.student.objectives import Outcome


@dataclass(frozen=True)
class EpochRecord:
    """One epoch (0-based). ``loss`` and its ``parts`` are means over the ``images`` trained on, in nats.

    ``map_percent``: m_e of method section 8, mean AP of the weak views' predictions, made while training, against
    the targets binarised at 0.5; NaN if no class has a target of at least 0.5.
    """

    epoch: int
    loss: float
    parts: dict[str, float]
    map_percent: float
    images: int
    seconds: float
    images_per_s: float


class EpochMeter:
    """Collects on the device what `EpochRecord` needs, without waiting for it; every rank the images it has.

    Args:
        targets: (N, C) float in [0, 1].
        start_s: ``time.perf_counter()`` when the epoch began.
    """

    def __init__(self, targets: Tensor, start_s: float) -> None:
        self._targets = targets
        self._start_s = start_s
        self._scores = torch.zeros_like(targets)  # (N, C)
        self._seen = torch.zeros(len(targets), dtype=torch.bool, device=targets.device)
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def add(self, rows: Tensor, outcome: Outcome) -> None:
        """Add a batch; ``rows`` (b,) int64 on the targets' device. Without images it says nothing."""
        if len(rows) == 0:
            return
        self._scores[rows] = outcome.logits.to(self._scores.dtype)
        self._seen[rows] = True
        self._images += len(rows)
        for name, value in {"loss": outcome.loss.detach(), **outcome.parts}.items():
            total = value.double() * len(rows)
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def record(self, epoch: int) -> EpochRecord:
        """Sum up the epoch over all ranks, whose targets become the same. Raises CcdError if it had no batch."""
        sums = self._merge_ranks()
        if self._images == 0:
            raise CcdError(f"epoch {epoch + 1} of training had no images; is the training split empty?")
        means = {name: total / self._images for name, total in sums.items()}
        seconds = time.perf_counter() - self._start_s
        return EpochRecord(
            epoch=epoch,
            loss=means.pop("loss"),
            parts=means,
            map_percent=self._map_percent(),
            images=self._images,
            seconds=seconds,
            images_per_s=self._images / seconds,
        )

    def _merge_ranks(self) -> dict[str, float]:
        ranks.merge_rows(self._targets, self._seen)
        self._seen = ranks.merge_rows(self._scores, self._seen)
        found = ranks.all_of((self._images, {name: float(total) for name, total in self._sums.items()}))
        self._images = sum(images for images, _ in found)
        names = {name: None for _, sums in found for name in sums}  # in their order
        return {name: sum(sums.get(name, 0.0) for _, sums in found) for name in names}

    def _map_percent(self) -> float:
        scores = self._scores[self._seen].cpu().numpy()
        positives = (self._targets[self._seen] >= 0.5).cpu().numpy()
        ap = average_precision(scores, positives)
        known = ap[~np.isnan(ap)]
        return float(100 * known.mean()) if len(known) else float("nan")
