"""CLIP's scores (method section 1): from embeddings to a distribution over classes."""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the row-wise softmax of (..., C) logits, float64; shifted by the row maximum so that nothing overflows."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def clip_probs(features: np.ndarray, text: np.ndarray, logit_scale: float) -> np.ndarray:
    """Return p = softmax(s * f t^T): ``features`` (M, D) and ``text`` (C, D), unit rows -> (M, C) float64."""
    return softmax(logit_scale * (features.astype(np.float64) @ text.astype(np.float64).T))


def entropy_nats(probs: np.ndarray) -> np.ndarray:
    """Return H = -sum_c p_c ln p_c of each row of (M, C) ``probs``, (M,); 0 ln 0 counts as 0 (method section 2)."""
    logs = np.log(probs, out=np.zeros_like(probs, dtype=np.float64), where=probs > 0)
    return np.asarray(-(probs * logs).sum(axis=-1))
