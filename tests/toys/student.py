"""A tiny student and a data set that it can learn, for the tests of training and inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ccd.student import fit
from ccd.student.fit import Batches
from ccd.student.model import Student
from ccd.student.objectives import Forward, Objective, Outcome
from ccd.student.transforms import epoch_order


def tiny_student(classes: int = 3, seed: int = 0) -> Student:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.BatchNorm2d(16), nn.ReLU())
        return Student(backbone, channels=16, classes=classes, cam_boost=3.0)


def colour_patches(images: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Dark noise with a bright patch in channel c for each present class c: uint8 (N, 3, 32, 32), labels (N, C)."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.rand(images, classes, generator=generator) < 0.5
    pixels = torch.randint(0, 60, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for c in range(min(classes, 3)):
        pixels[labels[:, c], c, 8 * c : 8 * c + 12, 4:28] = 230
    return pixels, labels.float()


def batches_of(pixels: Tensor, batch_size: int, seed: int = 0) -> Callable[[int], Batches]:
    def of_epoch(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in epoch_order(len(pixels), seed, epoch).split(batch_size):
            yield rows, pixels[rows]

    return of_epoch


def outcome_of(
    objective: Objective, student: Forward, images: Tensor, targets: Tensor, generator: torch.Generator
) -> Outcome:
    return objective(student, objective.views(images, targets, generator))


class Memory:
    """A state file in memory."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def read(self) -> bytes | None:
        return self.content

    def save(self, content: bytes | memoryview) -> None:
        self.content = bytes(content)


class KilledError(Exception):
    """The process died here."""


@contextmanager
def begun_epochs(die_in: int | None = None) -> Iterator[list[int]]:
    """List the epochs that trainings begin inside the block; they die at the start of the epoch ``die_in``."""
    begun: list[int] = []
    whole = fit._train_epoch

    def epoch(step: Any, batches: Any, targets: Any, number: int, *rest: Any) -> Any:
        begun.append(number)
        if number == die_in:
            raise KilledError
        return whole(step, batches, targets, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_train_epoch", epoch)
        yield begun
