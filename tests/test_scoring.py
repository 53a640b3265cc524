"""Scores beyond the paper's softmax: background words, centred and standardised cosines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.artifacts import bias_file, text_file
from ccd.artifacts.bias_file import BiasFile
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.scores import Scoring, background_mass, clip_probs, entropy_nats, mean_cosines
from ccd.teacher.encode import BACKGROUND_WORDS, background_embeddings
from tests.toys.texts import text_of

LN2 = float(np.log(2))
TEXT = np.eye(3)[:2]
BACKGROUND = np.eye(3)[2:]
IMAGES = np.eye(3, dtype=np.float32)


def test_off_is_the_papers_softmax_to_the_last_bit() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    score = Scoring(text_of(TEXT, BACKGROUND))
    assert score.is_plain and np.array_equal(score(features), clip_probs(features, score.text.values, 100.0))
    probs = score(features)
    assert np.array_equal(entropy_nats(probs), -(probs * np.log(probs)).sum(axis=1))
    assert not background_mass(probs).any()


def test_the_background_shares_the_softmax() -> None:
    """Logits ln 2 for the own text and 0 for the others: 2 : 1 : 1, so the third image is background by half."""
    score = Scoring(text_of(TEXT, BACKGROUND, scale=LN2, background_in_softmax=True))
    probs = score(IMAGES)
    np.testing.assert_allclose(probs, [[0.5, 0.25], [0.25, 0.5], [0.25, 0.25]])
    np.testing.assert_allclose(background_mass(probs), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(score.background_prob(IMAGES), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(entropy_nats(probs), [1.5 * LN2] * 3)


def test_an_image_of_background_is_no_evidence_for_a_class() -> None:
    """The third image's top-1 is class a by the order of equals, but its background is larger."""
    probs = np.array([[0.6, 0.2], [0.2, 0.7], [0.3, 0.2]])
    found = class_bias(top1_of(probs), ("a", "b"), 2.0, 0.0)
    np.testing.assert_allclose(found.values, [0.6, 0.7])
    assert found.top1_counts.tolist() == [1, 1] and found.reliable_share == pytest.approx(2 / 3)


def test_centred_cosines_favour_no_class() -> None:
    """Class a is 0.5 nearer to every image than class b; what is left after centring is what differs."""
    text = text_of(TEXT, np.empty((0, 3)), scale=1.0)
    features = np.array([[0.9, 0.2, 0.0], [0.7, 0.4, 0.0]])
    means = mean_cosines(text, [features[:1], features[1:]])
    np.testing.assert_allclose(means, [0.8, 0.3])
    logits = np.array([[0.1, -0.1], [-0.1, 0.1]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Scoring(text, means)(features), expected)


def test_standardised_rows_know_no_scale_and_no_offset() -> None:
    """Two cosines are -1 and 1 standard deviations from their mean, whatever they are: p = 1 / (1 + e^-2k)."""
    text = text_of(TEXT, BACKGROUND, standardized_scale=LN2)
    features = np.array([[0.9, 0.2, 0.1], [0.3, 0.31, 0.9]])
    np.testing.assert_allclose(Scoring(text)(features), [[0.8, 0.2], [0.2, 0.8]])
    flat = Scoring(text)(np.array([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(flat, [[0.5, 0.5]], err_msg="no spread: nothing is told apart")


def test_files_keep_the_rules_and_stay_as_they_were_without(tmp_path: Path) -> None:
    plain = text_of(TEXT, BACKGROUND)
    rules = text_of(TEXT, BACKGROUND, background_in_softmax=True, standardized_scale=3.0)
    for name, content in (("plain", plain), ("rules", rules)):
        text_file.write(tmp_path / name, content)
        again = text_file.read(tmp_path / name)
        assert again.background_in_softmax == content.background_in_softmax
        assert again.standardized_scale == content.standardized_scale
    assert b"softmax" not in (tmp_path / "plain").read_bytes() and b"standardized" in (tmp_path / "rules").read_bytes()
    content = BiasFile(("c0",), np.ones(1), np.ones(1, np.int64), 1.0, 2.0, 0.0, True, ())
    bias_file.write(tmp_path / "bias.json", content)
    assert "mean_cosines" not in (tmp_path / "bias.json").read_text()
    assert bias_file.read(tmp_path / "bias.json").mean_cosines is None
    centred = BiasFile(("c0",), np.ones(1), np.ones(1, np.int64), 1.0, 2.0, 0.0, True, (), np.array([0.25, 0.5]))
    bias_file.write(tmp_path / "bias.json", centred)
    found = bias_file.read(tmp_path / "bias.json").mean_cosines
    assert found is not None and found.tolist() == [0.25, 0.5]


class Directions:
    """A teacher of two dimensions: each word has an angle, in degrees; unknown words point away from all."""

    embed_dim = 2

    def __init__(self, angles: dict[str, float]) -> None:
        self.angles = angles

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors."""
        angles = torch.deg2rad(torch.tensor([self.angles.get(text, 180.0) for text in texts]))
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_words_that_may_be_a_class_are_left_out() -> None:
    """The classes are 40 degrees apart: `sky` at 30 from its class is nearer; `seas` and `Wall` are classes' texts."""
    teacher = Directions({"cat": 0.0, "Wall": 40.0, "seas": 80.0, "sky": 110.0, "sand": 121.0})
    classes = [("cat",), ("Wall",), ("seas",)]
    embeddings = teacher.encode_text(["cat", "Wall", "seas"])
    words, values = background_embeddings(teacher, classes, embeddings, ["{}"])  # type: ignore[arg-type]
    assert set(BACKGROUND_WORDS) - set(words) == {"sky", "wall", "sea"}
    assert values.shape == (len(words), 2)
    np.testing.assert_allclose(values[words.index("sand")], [np.cos(np.deg2rad(121)), np.sin(np.deg2rad(121))], 1e-5)
