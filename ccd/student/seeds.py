"""Random numbers that depend on (seed, epoch, step) and on nothing that ran before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ccd.ranks import Part


def derived_seed(*keys: int) -> int:
    """A 63-bit seed from non-negative integers; unlike their sum, (0, 1) and (1, 0) are unrelated."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


class BatchGenerator(torch.Generator):
    """The random numbers of a step on a batch of which this process may hold a part; see `per_image`."""

    part: Part | None = None


def step_generator(seed: int, part: Part) -> BatchGenerator:
    """A generator from which every rank draws the numbers that its images have in one process."""
    generator = BatchGenerator()
    generator.manual_seed(seed)
    generator.part = part
    return generator


def per_image(draws: int, images: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1), (draws, images): drawn for the whole batch, and of those this process's."""
    part = generator.part if isinstance(generator, BatchGenerator) else None
    first, total = (part.first, part.total) if part is not None else (0, images)
    return torch.rand(draws, total, generator=generator)[:, first : first + images]


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, (images,) int64: the order of training in that epoch."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(images, generator=generator)
