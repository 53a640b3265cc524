"""CLIP's scores (method section 1): from embeddings to a distribution over classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ccd.artifacts.text_file import TextEmbeddings

_ROUNDING = 1e-9  # a softmax over the classes alone adds up to 1 but for this


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the row-wise softmax of (..., C) logits, float64; shifted by the row maximum so that nothing overflows."""
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float64)
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)), float64; 0 where exp(-z) overflows."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-logits, dtype=np.float64)))


def clip_probs(features: np.ndarray, text: np.ndarray, logit_scale: float) -> np.ndarray:
    """Return p = softmax(s * f t^T): ``features`` (M, D) and ``text`` (C, D), unit rows -> (M, C) float64."""
    return softmax(logit_scale * (features.astype(np.float64) @ text.astype(np.float64).T))


def sigmoid_probs(features: np.ndarray, text: np.ndarray, logit_scale: float, logit_bias: float) -> np.ndarray:
    """Return p = sigmoid(s * f t^T + b), each class by itself (SigLIP, ICCV 2023): an image may have no class, or many.

    ``features`` (M, D) and ``text`` (C, D), unit rows -> (M, C) float64.
    """
    return sigmoid(logit_scale * (features.astype(np.float64) @ text.astype(np.float64).T) + logit_bias)


@dataclass(frozen=True)
class Scoring:
    """How embeddings become scores: the paper's `clip_probs`, that with three additions, or `sigmoid_probs`.

    ``text``: C classes and K background texts. ``mean_cosines`` (C + K,): the mean m_c of f . t_c over the training
    images, which is subtracted, so that a class near to every image has no advantage; None: nothing is. With
    ``text.standardized_scale`` k the logits are ``k (x_c - mean_c x) / std_c x`` of an image's cosines x over the
    classes (SPARC's row step, CVPR 2025) instead of ``s x``. With ``text.background_in_softmax`` the background texts
    share the softmax (TagCLIP, AAAI 2024), so that rows over the classes add up to at most 1. With ``text.logit_bias``
    the scores are `sigmoid_probs` and know none of the additions.
    """

    text: TextEmbeddings
    mean_cosines: np.ndarray | None = None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Score ``features`` (M, D), unit rows: (M, C) float64."""
        if self.text.logit_bias is not None:
            return sigmoid_probs(features, self.text.values, self.text.logit_scale, self.text.logit_bias)
        if self.is_plain:
            return clip_probs(features, self.text.values, self.text.logit_scale)
        return self._probs(features, len(self.text.background) if self.text.background_in_softmax else 0)

    def background_prob(self, features: np.ndarray) -> np.ndarray | None:
        """Return the mass (M,) float64 that a softmax over classes and background texts gives to the latter.

        None where there are no background texts.
        """
        if not len(self.text.background):
            return None
        return np.asarray(1.0 - self._probs(features, len(self.text.background)).sum(axis=1))

    @property
    def is_plain(self) -> bool:
        """Whether the scores are the paper's."""
        text = self.text
        is_changed = text.standardized_scale is not None or text.background_in_softmax
        return self.is_distribution and self.mean_cosines is None and not is_changed

    @property
    def is_distribution(self) -> bool:
        """Whether an image's scores are shares of one softmax; of a sigmoid they are probabilities of their own."""
        return self.text.logit_bias is None

    def entropy_nats(self, probs: np.ndarray) -> np.ndarray:
        """Return the entropy (M,) of an image's scores (M, C): of one choice, or of C decisions for a sigmoid."""
        return entropy_nats(probs) if self.is_distribution else decisions_entropy_nats(probs)

    def cosines(self, features: np.ndarray) -> np.ndarray:
        """Return the cosines (M, C + K) float64 with every class and background text."""
        both = np.concatenate([self.text.values, self.text.background]).astype(np.float64)
        return np.asarray(features.astype(np.float64) @ both.T)

    def _probs(self, features: np.ndarray, background: int) -> np.ndarray:
        """Return the first C columns of a softmax over the classes and ``background`` texts."""
        classes = len(self.text.values)
        values = self.cosines(features)[:, : classes + background]
        if self.mean_cosines is not None:
            values = values - self.mean_cosines[: classes + background]
        scale = self.text.logit_scale
        if self.text.standardized_scale is not None:
            own = values[:, :classes]
            spread = np.maximum(own.std(axis=1, keepdims=True), 1e-12)
            values = (values - own.mean(axis=1, keepdims=True)) / spread
            scale = self.text.standardized_scale
        return np.asarray(softmax(scale * values)[:, :classes])


def mean_cosines(text: TextEmbeddings, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean cosine (C + K,) float64 of images with each class and background text.

    ``pieces``: the embeddings of all images, (m, D) at a time.
    """
    plain = Scoring(text)
    total = np.zeros(len(text.values) + len(text.background))
    count = 0
    for piece in pieces:
        total += plain.cosines(piece).sum(axis=0)
        count += len(piece)
    return total / max(count, 1)


def entropy_nats(probs: np.ndarray) -> np.ndarray:
    """Return H = -sum_c p_c ln p_c of each row of (M, C) ``probs``, (M,); 0 ln 0 counts as 0 (method section 2).

    What a row lacks to 1, the mass of the background, counts as one more outcome.
    """
    logs = np.log(probs, out=np.zeros_like(probs, dtype=np.float64), where=probs > 0)
    rest = background_mass(probs)
    return np.asarray(-(probs * logs).sum(axis=-1) - rest * np.log(np.where(rest > 0, rest, 1.0)))


def decisions_entropy_nats(probs: np.ndarray) -> np.ndarray:
    """Return H = -sum_c (p_c ln p_c + (1 - p_c) ln (1 - p_c)) of (M, C) independent ``probs``, (M,); 0 ln 0 is 0."""
    both = np.stack([probs, 1.0 - probs]).astype(np.float64)
    logs = np.log(both, out=np.zeros_like(both), where=both > 0)
    return np.asarray(-(both * logs).sum(axis=(0, -1)))


def background_mass(probs: np.ndarray) -> np.ndarray:
    """Return what each row of (M, C) ``probs`` lacks to 1, (M,) float64; exactly 0 where only rounding is missing."""
    rest = 1.0 - probs.sum(axis=-1, dtype=np.float64)
    return np.asarray(np.where(rest > _ROUNDING, rest, 0.0))
