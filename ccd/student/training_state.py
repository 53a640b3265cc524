"""Progress of a training: epochs, kept weights, early stop, and the saved state from which a killed one goes on."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ccd.errors import CcdError
from ccd.evaluation.metrics import average_precision
from ccd.labels.thresholds import LABELLED
from ccd.runtime.hardware import all_gather, from_rank0, rank_count, this_rank
from ccd.student.objectives import Outcome
from ccd.student.step import Weights


class WeightAverage:
    """Running uniform mean of state dicts; BatchNorm statistics are averaged too, integers are taken from the last."""

    def __init__(self, count: int = 0, weights: Weights | None = None) -> None:
        self.count = count
        self.weights: Weights = weights or {}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Add one state dict (CPU), which is not modified."""
        self.count += 1
        for key, value in weights.items():
            if key in self.weights and value.is_floating_point():
                self.weights[key].lerp_(value, 1 / self.count)
            else:
                self.weights[key] = value.clone()


def first_local_minimum(gains: Sequence[float]) -> int | None:
    """Return the index of the first value after a fall and before a rise; None if there is none (yet).

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
    """Return the epoch e (index into ``m``) at which g_e = m_e - m_(e-1) has its first local minimum, or None.

    Args:
        m: mAP of the training predictions against the binarised pseudo-labels, one value per epoch.
    """
    minimum = first_local_minimum([after - before for before, after in pairwise(m)])
    return None if minimum is None else minimum + 1


@dataclass
class EarlyStopTracker:
    """Follow m epoch by epoch and tell which weights to keep, so that one copy is enough."""

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

    @property
    def curve_row(self) -> dict[str, float | int]:
        """The epoch's row of the training curves; without times, so that the file is reproducible."""
        return {"epoch": self.epoch + 1, "loss": self.loss, **self.parts, "label_map": self.map_percent}


class EpochMeter:
    """Collect the values of an `EpochRecord` on the device, without waiting for it; each rank those of its images.

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
        """Add a batch; ``rows`` (b,) int64 on the targets' device. An empty batch is ignored."""
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
        merge_rows(self._targets, self._seen)
        self._seen = merge_rows(self._scores, self._seen)
        gathered = all_gather((self._images, {name: float(total) for name, total in self._sums.items()}))
        self._images = sum(images for images, _ in gathered)
        names = {name: None for _, sums in gathered for name in sums}  # in their order
        return {name: sum(sums.get(name, 0.0) for _, sums in gathered) for name in names}

    def _map_percent(self) -> float:
        scores = self._scores[self._seen].cpu().numpy()
        positives = (self._targets[self._seen] >= LABELLED).cpu().numpy()
        ap = average_precision(scores, positives)
        known = ap[~np.isnan(ap)]
        return float(100 * known.mean()) if len(known) else float("nan")


def merge_rows(values: Tensor, own_rows: Tensor) -> Tensor:
    """Exchange the rows that each rank has written, in place.

    Args:
        values: (N, C) float.
        own_rows: (N,) bool, this rank's rows; no row is two ranks'. Rows that are nobody's stay.

    Returns:
        (N,) bool, the rows that are somebody's.
    """
    if rank_count() == 1:
        return own_rows
    owned = own_rows.to(torch.float32)
    dist.all_reduce(owned)
    together = torch.where(own_rows[:, None], values, torch.zeros_like(values))
    dist.all_reduce(together)
    values.copy_(torch.where(owned[:, None] > 0, together, values))
    return owned > 0


class StateFile(Protocol):
    """A place for the state of a training; `ccd.runtime.store.Slot` is one."""

    def read(self) -> bytes | None:
        """Return the state that was saved last, or None."""
        ...

    def save(self, content: bytes | memoryview) -> None:
        """Save a state in place of the last one."""
        ...


class Stateful(Protocol):
    """A model, an optimizer or a gradient scaler."""

    def state_dict(self) -> Any:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Load a state."""
        ...


@dataclass
class Progress:
    """Progress of a training, besides the state of its model and optimizer.

    Random numbers need no state: they depend on seed, epoch and step alone.
    """

    records: list[EpochRecord] = field(default_factory=list)
    tracker: EarlyStopTracker = field(default_factory=EarlyStopTracker)
    average: WeightAverage = field(default_factory=WeightAverage)
    candidate: Weights | None = None


class StateWriter:
    """Keeps the state of a training after an epoch while the next one trains; leaving the context waits for the last.

    With several ranks all have the same state, and rank 0's is kept.
    """

    def __init__(self, file: StateFile | None) -> None:
        self._file = file if this_rank() == 0 else None
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        if error[0] is None:
            self.wait()

    def wait(self) -> None:
        """Wait for the state that is being written, and raise what stopped it; until then its progress must stay."""
        if self._writing is not None:
            self._writing.result()

    def save(self, progress: Progress, parts: Mapping[str, Stateful], weights: Weights, targets: Tensor) -> None:
        """Save the progress, every part, the student's ``weights`` (CPU), and the targets, which may have moved."""
        if self._file is None:
            return
        states = {name: part.state_dict() for name, part in parts.items() if name != "student"}
        content = {
            "records": [asdict(record) for record in progress.records],
            "average": (progress.average.count, progress.average.weights),
            "candidate": progress.candidate,
            "targets": _copied(targets),
            "parts": {"student": weights, **_copied(states)},
        }
        self._writing = self._thread.submit(_write, self._file, content)


def _write(file: StateFile, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.save(buffer.getbuffer())


def _copied(value: Any) -> Any:
    """Copy the tensors in dictionaries and lists to the CPU, out of reach of later steps."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def restore(file: StateFile, parts: Mapping[str, Stateful], targets: Tensor) -> Progress:
    """Load the saved state into the parts and ``targets`` and return the progress.

    Without a saved state, or with a damaged one, training starts afresh.
    """
    content = from_rank0(file.read)
    if content is None:
        return Progress()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return Progress()
    targets.copy_(state["targets"])
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    records = [EpochRecord(**record) for record in state["records"]]
    tracker = EarlyStopTracker([record.map_percent for record in records])
    return Progress(records, tracker, WeightAverage(*state["average"]), state["candidate"])
