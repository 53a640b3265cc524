"""A training's state after whole epochs, so that a killed one goes on instead of starting over."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ccd import ranks
from ccd.student.averaging import WeightAverage, Weights
from ccd.student.early_stop import EarlyStopTracker
from ccd.student.progress import EpochRecord


class StateFile(Protocol):
    """Where the state is kept; `ccd.store.Slot` is one."""

    def read(self) -> bytes | None:
        """What was saved last, if anything."""
        ...

    def save(self, content: bytes | memoryview) -> None:
        """Replace what is there."""
        ...


class Stateful(Protocol):
    """A model, an optimizer or a gradient scaler."""

    def state_dict(self) -> Any:
        """Its state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take a state over."""
        ...


@dataclass
class Progress:
    """What a training has come to, besides what is inside its model and optimizer. Random numbers need no state: they
    depend on seed, epoch and step alone."""

    records: list[EpochRecord] = field(default_factory=list)
    tracker: EarlyStopTracker = field(default_factory=EarlyStopTracker)
    average: WeightAverage = field(default_factory=WeightAverage)
    candidate: Weights | None = None


def save(file: StateFile, progress: Progress, parts: Mapping[str, Stateful], targets: Tensor) -> None:
    """Keep the progress, the state of every part, and the targets, which an objective may have moved.

    They are the same on every rank; rank 0's are kept."""
    if ranks.rank() > 0:
        return
    content = {
        "records": [asdict(record) for record in progress.records],
        "average": (progress.average.count, progress.average.weights),
        "candidate": progress.candidate,
        "targets": targets,
        "parts": {name: part.state_dict() for name, part in parts.items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.save(buffer.getbuffer())


def restore(file: StateFile, parts: Mapping[str, Stateful], targets: Tensor) -> Progress:
    """Bring the parts and ``targets`` to the state that was kept and return the progress.

    Nothing kept, or damaged: a fresh start.
    """
    content = ranks.from_first(file.read)
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
