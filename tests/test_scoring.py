"""Scores beyond the paper's softmax: background words, centred and standardised cosines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.artifacts import bias_file, text_file
from ccd.artifacts.bias_file import BiasFile
from ccd.errors import CcdError
from ccd.labels.background import BACKGROUND_WORDS, competing_words
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.scores import Scoring, background_mass, clip_probs, entropy_nats, mean_cosines
from ccd.teacher.encode import class_embeddings
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


def test_images_of_background_alone_leave_no_bias_to_estimate() -> None:
    with pytest.raises(CcdError, match=r"text\.background_words: false, or bias\.enabled: false"):
        class_bias(top1_of(np.full((2, 2), 0.1)), ("a", "b"), 10.0, 1.0)


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
    """A teacher that knows a few words; nothing else of the interface is needed."""

    embed_dim = 3
    known: ClassVar[dict[str, tuple[float, float, float]]] = {
        "a couch": (1, 0, 0), "a dog": (0, 1, 0), "a puppy": (0, 0.96, 0.28), "a sofa": (0.96, 0.28, 0),
        "a settee": (0.8, 0.6, 0), "a sky": (0, 0, 1), "a fog": (0, 0, 1),
    }  # fmt: skip

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors."""
        return torch.tensor([self.known[text] for text in texts])


def chosen(words: list[str], classes: list[str], prompts: Sequence[str] = ()) -> tuple[list[str], str]:
    """The words that stay beside the classes by the toy teacher, and the line for the console."""
    rows, texts = (
        class_embeddings(Directions(), [[each] for each in phrases], ["a {}"]).numpy()  # type: ignore[arg-type]
        for phrases in (words, classes)
    )
    kept, line = competing_words(words, rows, texts, classes, prompts)
    return [words[row] for row in kept], line


def test_a_word_that_names_a_class_is_left_out_in_any_case_and_number() -> None:
    words = ["grass", "sea", "leaves", "sky", "sand"]
    names = ["Grass", "deep_sea", "SEAS", "leaf", "skies", "thousand"]
    kept, line = competing_words(words, np.eye(5, 6), np.eye(6)[5:], names, ())
    assert kept == [4], "part of a name is no name"
    assert line == "1 background words share the softmax; 4 left out as classes: grass, sea, leaves, sky"


def test_a_synonym_of_a_class_is_left_out() -> None:
    """To couch: sofa .96, settee .8; sofa to settee .768 + .168 = .936; couch to dog 0."""
    assert chosen(["sofa", "sky"], ["couch", "dog"]) == (
        ["sky"], "1 background words share the softmax; 1 left out as classes: sofa"
    )  # fmt: skip
    assert chosen(["sofa", "settee", "sky"], ["couch", "dog"])[0] == ["settee", "sky"], "settee is nearer to a word"
    # dog and puppy are classes with a cosine of .96: nothing that is less near than these is a class
    assert chosen(["settee", "sky"], ["couch", "dog", "puppy"])[0] == ["settee", "sky"]
    assert chosen(["settee", "sky"], ["couch"])[0] == ["sky"], "one class: the other words alone are compared"


def test_nothing_is_counted_twice() -> None:
    kept, line = chosen(["sky", "fog"], ["couch", "dog"])
    assert kept == ["sky"] and line.endswith("; 1 left out as repeated: fog"), "the teacher reads both alike"
    assert chosen(["sky", "fog"], ["couch", "dog"], ["a photo of the Skies"])[0] == ["fog"]
    assert chosen(["sky"], ["couch", "dog"]) == (["sky"], "1 background words share the softmax")
    assert chosen(["sky"], ["couch", "dog"], ["sky"])[0] == [], "there may be none left"
    assert chosen(["sofa"], ["couch"])[0] == ["sofa"], "one word, one class: no distance to compare theirs with"


def test_the_words_are_different() -> None:
    rows = np.eye(len(BACKGROUND_WORDS), 1 + len(BACKGROUND_WORDS))
    kept, _ = competing_words(BACKGROUND_WORDS, rows, np.eye(1, rows.shape[1], rows.shape[1] - 1), ["cat"], ())
    assert len(kept) == len(BACKGROUND_WORDS) == len(set(BACKGROUND_WORDS))
