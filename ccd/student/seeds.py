"""Random numbers that depend on (seed, epoch, step) and on nothing that ran before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def derived_seed(*keys: int) -> int:
    """A 63-bit seed from non-negative integers; unlike their sum, (0, 1) and (1, 0) are unrelated."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, (images,) int64: the order of training in that epoch."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(images, generator=generator)
