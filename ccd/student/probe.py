"""A linear head on the teacher's cached features: a baseline, and a classifier for who keeps CLIP (not in the paper).

Linear probing of CLIP (Radford et al., ICML 2021), on pseudo-labels. Local views as further samples, each with CLIP's
own probabilities as its label, made it worse on photos (docs/method.md), so that whole images are all it learns from.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.artifacts.head_file import LinearHead

BATCH_SIZE = 256


def fit_head(
    features: np.ndarray, labels: np.ndarray, *, epochs: int, lr: float, weight_decay: float, seed: int
) -> LinearHead:
    """Fit z = W f + o to labels by binary cross-entropy, summed over the classes; on the CPU, the same for every seed.

    The features are centred by their mean m while W is fitted, from zero, with AdamW and a cosine schedule: the unit
    vectors of CLIP share a large mean, which would else be the same logit for every image. It goes into o at the end.

    Args:
        features: (N, D) float32, unit rows; the only large array, beside the labels as float32.
        labels: (N, C) in [0, 1].
        lr: learning rate of the first step; 0 after the last.
        weight_decay: of AdamW, for weights and offsets alike.

    Returns:
        W (C, D) and o (C,), for features as they are.
    """
    x = torch.from_numpy(features)
    y = torch.from_numpy(labels.astype(np.float32, copy=False))
    mean = torch.from_numpy(features.mean(axis=0, dtype=np.float64).astype(np.float32))
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    offset = torch.zeros(y.shape[1], requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([weight, offset], lr=lr, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(x) / BATCH_SIZE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=generator), BATCH_SIZE):
            loss = _loss((x[rows] - mean) @ weight.T + offset, y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cosine.step()
    fitted = weight.detach()
    return LinearHead(fitted.numpy(), (offset.detach() - fitted @ mean).numpy())


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1).mean()
